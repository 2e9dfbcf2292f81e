package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/api"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// series returns the samples of a metric by the values of their labels.
func (s *system) series(name string) map[string]float64 {
	s.t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got[strings.Join(
				labels, " ",
			)] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

// wantSeries checks all samples of a metric.
func (s *system) wantSeries(name string, want map[string]float64) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.series("fleetconf_controller_"+name)); diff != "" {
		s.t.Errorf("%s, -want +got:\n%s", name, diff)
	}
}

func TestMetrics_Requests_ByClassAndCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		a1 := s.register("a1")
		tag := s.publish("http://a/").Header.Get("ETag")
		s.call(admin, "POST", "/api/v1/configs/9/rollback", "")
		s.call(a1, "GET", "/api/v1/config", "")
		s.call(a1, "GET", "/api/v1/config", "", "If-None-Match", tag)
		s.call(a1, "GET", "/api/v1/config?wait=60s", "") // answered immediately
		<-s.holdPoll(a1, tag)
		s.report(a1, 1, applied)
		s.call(admin, "GET", "/api/v1/agents", "")
		s.call(admin, "GET", "/api/v1/rollouts/1?wait=10s&applied=1", "")
		s.register("a2")
		s.call(admin, "GET", "/api/v1/rollouts/1?wait=10s&applied=1", "") // 408
		s.call(a1, "DELETE", "/api/v1/agents/a1", "")
		for _, path := range []string{"/health", "/ready", "/metrics", "/version", "/swagger/index.html", "/nowhere"} {
			s.call(account{}, "GET", path, "")
		}
		s.call(account{}, "PUT", "/health", "")
		s.call(admin, "POST", "/api/v1/config", `{}`, "Sec-Fetch-Site", "cross-site")
		s.wantSeries("http_requests_total", map[string]float64{
			"register 201": 2, "register 204": 1, "publish 200": 1, "publish 404": 1, "poll 200": 2, "poll 304": 1,
			"wait 304":   1,
			"report 204": 1, "admin 200": 2, "admin 408": 1, "probe 200": 4, "docs 200": 1, "other 404": 1,
			"other 405": 1, "other 403": 1,
		})
		// Held responses are not timed.
		s.wantSeries("http_request_duration_seconds", map[string]float64{
			"register": 3, "publish": 2, "poll": 3, "report": 1, "admin": 1, "probe": 4, "docs": 1, "other": 2,
		})
	})
}

func TestMetrics_DisconnectAndPanic_Counted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		a1 := s.register("a1")
		tag := s.publish("http://a/").Header.Get("ETag")
		ctx, disconnect := context.WithCancel(t.Context())
		var polling sync.WaitGroup
		polling.Go(func() { s.callContext(ctx, a1, "GET", "/api/v1/config?wait=60s", "", "If-None-Match", tag) })
		synctest.Wait()
		disconnect()
		polling.Wait()
		if got := s.series("fleetconf_controller_http_requests_total")["wait 499"]; got != 1 {
			t.Errorf("a disconnected client is counted %v times as 499, want once", got)
		}
	})
	s := newSystem(t)
	s.registry = prometheus.NewRegistry()
	log, _ := logtest.NewNullLogger()
	broken := api.New(api.Options{ // without a store
		Options: access.Options{Limits: scarce, Log: log}, Metrics: api.NewMetrics(s.registry),
	})
	w := httptest.NewRecorder()
	broken.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/ready", http.NoBody))
	if w.Code != 500 {
		t.Fatalf("got %d, want 500 from a handler that panics", w.Code)
	}
	s.wantSeries("http_requests_total", map[string]float64{"probe 500": 1})
}

// A client that disconnects while its request waits for the store counts as 499 and gets no
// response.
func TestMetrics_DisconnectWhileQueued_Counted(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	s.publish("http://a/")
	ctx, disconnect := context.WithCancel(t.Context())
	disconnect()
	for class, row := range map[string]struct {
		who        account
		path, body string
	}{
		"publish 499":  {admin, "/api/v1/config", `{"url":"http://b/"}`},
		"register 499": {enroller, "/api/v1/register", `{"hostname":"h"}`},
		"report 499":   {a1, "/api/v1/agents/a1/status", `{"version":1,"status":"APPLIED"}`},
	} {
		if got := text(t, s.callContext(ctx, row.who, "POST", row.path, row.body)); got != "" {
			t.Errorf("%s: got %s, want nothing", class, got)
		}
		if got := s.series("fleetconf_controller_http_requests_total")[class]; got != 1 {
			t.Errorf("%s: counted %v times, want once", class, got)
		}
	}
}

func TestMetrics_RejectedRequests_Counted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		a1 := s.register("a1")
		for range 2 {
			s.call(enroller, "POST", "/api/v1/register", `{"hostname":"h"}`)
		}
		for range 4 {
			s.call(a1, "GET", "/api/v1/config", "")
		}
		for range 5 {
			s.call(a1, "POST", "/api/v1/agents/a1/status", `{"version":1,"status":"APPLIED"}`)
		}
		for range 3 { // as an admin, and as an agent
			s.call(admin, "GET", "/api/v1/agents", "")
			s.call(a1, "GET", "/api/v1/agents", "")
		}
		logged := map[string]bool{}
		for _, line := range s.logged.AllEntries() {
			logged[fmt.Sprint(line.Data["class"])] = true
		}
		for class := range s.series("fleetconf_controller_http_requests_shed_total") {
			if !logged[class] {
				t.Errorf("the log names %v, want %s, the label of the metric", logged, class)
			}
		}
		s.wantSeries("http_requests_shed_total", map[string]float64{"register": 2, "poll": 3, "report": 4, "admin": 4})
		if got := s.series("fleetconf_controller_http_requests_total")["poll 429"]; got != 3 {
			t.Errorf("got %v polls with 429, want 3", got)
		}
	})
}

func TestMetrics_RequestsInFlight_Shown(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	s.publish("http://a/")
	inFlight := func(who account, method, path string) (during map[string]float64) {
		r := httptest.NewRequestWithContext(t.Context(), method, path, reader(func([]byte) (int, error) {
			during = s.series("fleetconf_controller_http_requests_in_flight")
			return 0, errors.New("the client disconnected")
		}))
		r.SetBasicAuth(who[0], who[1])
		r.Header.Set("Content-Type", "application/json")
		s.handler.ServeHTTP(httptest.NewRecorder(), r)
		return during
	}
	for name, row := range map[string]struct {
		account
		method, path string
	}{
		"register": {enroller, "POST", "/api/v1/register"},
		"report":   {a1, "POST", "/api/v1/agents/a1/status"},
		"admin":    {admin, "POST", "/api/v1/config"},
	} {
		want := map[string]float64{"register": 0, "poll": 0, "report": 0, "admin": 0}
		want[name] = 1
		if diff := cmp.Diff(want, inFlight(row.account, row.method, row.path)); diff != "" {
			t.Errorf("while a request of class %s is answered, -want +got:\n%s", name, diff)
		}
	}
}

// reader is the body of a request.
type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

func TestMetrics_InvalidCredentials_Counted(t *testing.T) {
	s := newSystem(t)
	s.call(account{"admin", "guess"}, "GET", "/api/v1/agents", "")
	s.call(account{"unknown", "guess"}, "GET", "/api/v1/config", "")
	s.call(account{}, "GET", "/api/v1/agents", "") // no credentials: not counted
	s.wantSeries("credentials_refused_total", map[string]float64{"": 2})
}

// Requests cannot create new series.
func TestMetrics_UnknownPaths_NoNewSeries(t *testing.T) {
	s := newSystem(t)
	ask := func(i int) {
		a := s.register(fmt.Sprintf("agent-%d", i))
		s.call(
			a, "GET", fmt.Sprintf("/api/v1/config?x=%d", i), "", "X-Transport", fmt.Sprint("t", i), "User-Agent",
			fmt.Sprint("u", i), "Host", fmt.Sprint("h", i),
		)
		s.call(admin, "GET", fmt.Sprintf("/api/v1/agents/agent-%d", i), "")
		s.call(account{}, "GET", fmt.Sprintf("/nowhere/%d", i), "")
		s.call(account{}, "GET", fmt.Sprintf("/swagger/%d", i), "")
		s.call(account{}, fmt.Sprint("BREW", i), "/health", "")
		s.call(account{fmt.Sprint("name", i), "guess"}, "GET", "/api/v1/agents", "")
	}
	count := func() (n int) {
		families, err := s.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			n += len(family.GetMetric())
		}
		return n
	}
	ask(0)
	before := count()
	for i := range 100 {
		ask(i + 1)
	}
	if after := count(); after != before || before == 0 {
		t.Errorf("%d series became %d, want no new ones", before, after)
	}
}

func TestMetrics_Get_Served(t *testing.T) {
	s := newSystem(t)
	s.call(account{}, "GET", "/health", "")
	resp := s.call(account{}, "GET", "/metrics?format=any", "")
	if got := text(t, resp); resp.StatusCode != 200 ||
		!strings.Contains(got, `fleetconf_controller_http_requests_total{class="probe",code="200"} 1`) {
		t.Errorf("got %d %s, want the metrics", resp.StatusCode, got)
	}
}

// Every response has a request id, whatever its status.
func TestRequestID_InEveryResponse(t *testing.T) {
	type request struct {
		who          account
		method, path string
		headers      []string
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		tag := s.publish("http://a/").Header.Get("ETag")
		limited := newLimited(t, scarce)
		limited.call(enroller, "GET", "/api/v1/config", "")
		closed := newSystem(t)
		_ = closed.db.Close()
		for _, row := range []struct {
			name string
			s    *system
			request
			status int
		}{
			// first, while the limit is still exceeded
			{"too many", limited, request{enroller, "GET", "/api/v1/config", nil}, 429},
			{"a page", s, request{account{}, "GET", "/swagger/index.html", nil}, 200},
			{"a probe", s, request{account{}, "GET", "/metrics", nil}, 200},
			{"a configuration", s, request{enroller, "GET", "/api/v1/config", nil}, 200},
			{"nothing new", s, request{enroller, "GET", "/api/v1/config", []string{"If-None-Match", tag}}, 304},
			{
				"nothing new in time", s,
				request{enroller, "GET", "/api/v1/config?wait=1s", []string{"If-None-Match", tag}}, 304,
			},
			{"an unknown parameter", s, request{admin, "GET", "/api/v1/agents?x=1", nil}, 400},
			{"credentials missing", s, request{account{}, "GET", "/api/v1/config", nil}, 401},
			{"credentials invalid", s, request{account{"admin", "guess"}, "GET", "/api/v1/agents", nil}, 401},
			{"not allowed", s, request{enroller, "GET", "/api/v1/agents", nil}, 403},
			{
				"another site", s,
				request{admin, "POST", "/api/v1/config", []string{"Sec-Fetch-Site", "cross-site"}}, 403,
			},
			{"an unknown path", s, request{account{}, "GET", "/nowhere", nil}, 404},
			{"the wrong method", s, request{account{}, "PUT", "/health", nil}, 405},
			{"not in time", s, request{admin, "GET", "/api/v1/rollouts/1?wait=1s", nil}, 408},
			{"a store that fails", closed, request{admin, "GET", "/api/v1/configs", nil}, 500},
			{"a store that is not ready", closed, request{account{}, "GET", "/ready", nil}, 503},
		} {
			for sent, want := range map[string]string{"": "", "mine-1": "mine-1", "not fit": ""} {
				resp := row.s.call(
					row.who, row.method, row.path, "", append(row.headers, server.HeaderRequestID, sent)...,
				)
				got := resp.Header.Get(server.HeaderRequestID)
				if resp.StatusCode != row.status || got == "" || (want != "" && got != want) || got == "not fit" {
					t.Errorf(
						"%s, sent as %q: got %d under the id %q, want %d under %q", row.name, sent, resp.StatusCode,
						got, row.status, want,
					)
				}
			}
		}
	})
}

// Log lines about a request have its id, and the agent and version that it concerns.
func TestLog_NamesRequestAgentAndVersion(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	s.publish("http://a/")
	conflict := func() { s.publisher.ObserveTag(s.publisher.Plan(), s.laterETag(9)) }
	for _, row := range []struct {
		before             func()
		who                account
		method, path, body string
		want               logrus.Fields
		message            string
	}{
		{
			nil, admin, "POST", "/api/v1/config", `{"url":"http://b/"}`,
			logrus.Fields{"version": int64(2), "by": "admin"}, "Configuration published",
		},
		{
			nil, admin, "POST", "/api/v1/configs/1/rollback", "",
			logrus.Fields{"version": int64(3), "by": "admin", "restored_from": int64(1)}, "Configuration published",
		},
		{
			nil, enroller, "POST", "/api/v1/register", `{"hostname":"h","agent_id":"a2"}`,
			logrus.Fields{"agent": "a2", "hostname": "h", "by": "agent"}, "Agent registered",
		},
		{
			nil, a1, "POST", "/api/v1/agents/a1/status", `{"version":3,"status":"FAILED","error":"boom"}`,
			logrus.Fields{"agent": "a1", "version": int64(3), "error": "boom"}, "Worker refused a version",
		},
		{nil, a1, "POST", "/api/v1/agents/a1/status", `{"version":3,"status":"FAILED","error":"boom"}`, nil, ""},
		{
			nil, admin, "POST", "/api/v1/agents/a1/retry", "", logrus.Fields{"agent": "a1", "by": "admin"},
			"Agent retry requested",
		},
		{
			nil, a1, "POST", "/api/v1/agents/a1/status", `{"version":3,"status":"FAILED","error":"bang"}`,
			logrus.Fields{"agent": "a1", "version": int64(3), "error": "bang"}, "Worker refused a version",
		},
		{
			nil, admin, "DELETE", "/api/v1/agents/a2", "", logrus.Fields{"agent": "a2", "by": "admin"},
			"Agent decommissioned",
		},
		{
			nil, admin, "PUT", "/api/v1/freeze", `{"reason":"r"}`, logrus.Fields{"reason": "r", "by": "admin"},
			"Publishing frozen",
		},
		{nil, admin, "DELETE", "/api/v1/freeze", "", logrus.Fields{"by": "admin"}, "Freeze lifted"},
		{
			conflict, admin, "POST", "/api/v1/agents/resume", "", logrus.Fields{"version": int64(3), "by": "admin"},
			"Conflict resolved",
		},
		{
			nil, account{"admin", "guess"}, "GET", "/api/v1/agents", "", logrus.Fields{"path": "/api/v1/agents"},
			"Credentials rejected; others within a minute are not logged",
		},
		{func() { _ = s.db.Close() }, a1, "POST", "/api/v1/agents/a1/status", `{"version":3,"status":"APPLIED"}`,
			logrus.Fields{"agent": "a1", "method": "POST", "path": "/api/v1/agents/:id/status"}, "Request failed"},
	} {
		if row.before != nil {
			row.before()
		}
		s.logged.Reset()
		resp := s.call(row.who, row.method, row.path, row.body)
		if row.message == "" {
			if n := len(s.logged.AllEntries()); n != 0 {
				t.Errorf("%s %s again: %d lines, want none", row.method, row.path, n)
			}
			continue
		}
		last := s.logged.LastEntry()
		if last == nil || last.Message != row.message {
			t.Errorf("%s %s: logged %v, want %q", row.method, row.path, last, row.message)
			continue
		}
		row.want["request_id"], row.want["source_ip"] = resp.Header.Get(server.HeaderRequestID), "192.0.2.1"
		got := logrus.Fields{}
		for name, value := range last.Data {
			if name == logrus.ErrorKey && row.want[logrus.ErrorKey] == nil {
				continue // the text is not checked
			}
			got[name] = value
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("fields of %q, -want +got:\n%s", row.message, diff)
		}
	}
}
