package api_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/pkg/metrics"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/worker/internal/api"
	"github.com/fleetconf/fleetconf/worker/internal/proxy"
)

// newMeasured is newHandler with a registry of its own.
func newMeasured(t *testing.T, token string) (http.Handler, *prometheus.Registry, *logtest.Hook) {
	t.Helper()
	log, lines := logtest.NewNullLogger()
	reg := prometheus.NewRegistry()
	p := proxy.New(proxy.Options{Timeout: 10 * time.Second, Log: log, Metrics: proxy.NewMetrics(reg),
		Allow: []string{"127.0.0.1", "a.example"}})
	t.Cleanup(p.Close)
	h := api.New(api.Parts{Proxy: p, Token: token, Log: log, Metrics: api.NewMetrics(reg),
		Scrape: metrics.Handler(reg)})
	return server.Wrap(h, log), reg, lines
}

func TestMetrics_RequestsByClassAndCode(t *testing.T) {
	h, reg, _ := newMeasured(t, "")
	send(h, push(`{"url":"http://a.example/"}`, nil))
	for _, path := range []string{"/config", "/health", "/ready", "/version", "/metrics", "/swagger/index.html",
		"/nothing"} {
		send(h, get(path))
	}
	send(h, httptest.NewRequest(http.MethodDelete, "/hit", nil))
	ctx, leave := context.WithCancel(t.Context())
	leave()
	func() {
		defer func() { _ = recover() }() // as net/http does
		send(h, get("/hit").WithContext(ctx))
	}()
	const want = `
# HELP fleetconf_worker_http_requests_total Requests answered, by route class and status code.
# TYPE fleetconf_worker_http_requests_total counter
fleetconf_worker_http_requests_total{class="docs",code="200"} 1
fleetconf_worker_http_requests_total{class="hit",code="499"} 1
fleetconf_worker_http_requests_total{class="other",code="404"} 1
fleetconf_worker_http_requests_total{class="other",code="405"} 1
fleetconf_worker_http_requests_total{class="probe",code="200"} 4
fleetconf_worker_http_requests_total{class="push",code="200"} 1
fleetconf_worker_http_requests_total{class="state",code="200"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want),
		"fleetconf_worker_http_requests_total"); err != nil {
		t.Error(err)
	}
	page, _ := io.ReadAll(send(h, get("/metrics")).Body)
	for _, want := range []string{`_request_duration_seconds_count{class="probe"} 4`,
		`_request_duration_seconds_count{class="hit"} 1`} {
		if !strings.Contains(string(page), "fleetconf_worker_http"+want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestMetrics_PushesByOutcome(t *testing.T) {
	h, reg, _ := newMeasured(t, token)
	present := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	if got := lastPush(t, reg); got != 0 {
		t.Errorf("last push before the first: got %v, want 0", got)
	}
	for _, body := range []string{`{}`, `not JSON`, `{"url":"http://elsewhere.example/"}`} {
		send(h, push(body, present))
	}
	send(h, push(`{"url":"http://a.example/"}`, nil))
	ctx, leave := context.WithCancel(t.Context())
	leave()
	func() {
		defer func() { _ = recover() }() // as net/http does
		send(h, push(`{"url":"http://127.0.0.1:1/","probe":true}`, present).WithContext(ctx))
	}()
	if got := lastPush(t, reg); got != 0 {
		t.Errorf("last push when none was taken: got %v, want 0", got)
	}
	began := time.Now()
	for range 3 {
		send(h, push(`{"url":"http://a.example/"}`, present))
	}
	const want = `
# HELP fleetconf_worker_pushes_total Configurations pushed, by outcome.
# TYPE fleetconf_worker_pushes_total counter
fleetconf_worker_pushes_total{outcome="applied"} 1
fleetconf_worker_pushes_total{outcome="forbidden"} 1
fleetconf_worker_pushes_total{outcome="invalid"} 2
fleetconf_worker_pushes_total{outcome="left"} 1
fleetconf_worker_pushes_total{outcome="refused"} 1
fleetconf_worker_pushes_total{outcome="unchanged"} 2
# HELP fleetconf_worker_http_requests_total Requests answered, by route class and status code.
# TYPE fleetconf_worker_http_requests_total counter
fleetconf_worker_http_requests_total{class="push",code="200"} 3
fleetconf_worker_http_requests_total{class="push",code="400"} 2
fleetconf_worker_http_requests_total{class="push",code="401"} 1
fleetconf_worker_http_requests_total{class="push",code="422"} 1
fleetconf_worker_http_requests_total{class="push",code="499"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "fleetconf_worker_pushes_total",
		"fleetconf_worker_http_requests_total"); err != nil {
		t.Error(err)
	}
	if got, least := lastPush(t, reg), float64(began.UnixNano())/1e9-1; got < least {
		t.Errorf("last push at %f, want %f or later", got, least)
	}
}

// A push that panics has no outcome: it is a request answered 500.
func TestMetrics_PushThatPanics(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	reg := prometheus.NewRegistry()
	h := server.Wrap(api.New(api.Parts{Log: log, Metrics: api.NewMetrics(reg)}), log) // without a Proxy
	if res := send(h, push(`{"url":"http://a.example/"}`, nil)); res.StatusCode != http.StatusInternalServerError {
		t.Fatalf("got %s, want a panic that is answered 500", res.Status)
	}
	if got := total(t, reg, "fleetconf_worker_pushes_total"); got != 0 {
		t.Errorf("counted %v pushes, want 0", got)
	}
	if got := total(t, reg, "fleetconf_worker_http_requests_total"); got != 1 {
		t.Errorf("counted %v requests, want 1", got)
	}
	if got := lastPush(t, reg); got != 0 {
		t.Errorf("last push: got %v, want 0", got)
	}
}

// total is the sum of the series of a metric.
func total(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func lastPush(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	return total(t, reg, "fleetconf_worker_last_push_timestamp_seconds")
}

// No label takes a value that a caller chooses.
func TestMetrics_LabelsAreNotChosenByClients(t *testing.T) {
	h, reg, _ := newMeasured(t, "")
	send(h, push(`{"url":"http://a.example/"}`, nil)) // the first of each class and code
	send(h, get("/nothing"))
	send(h, httptest.NewRequest("BREW", "/hit", nil))
	before, err := testutil.GatherAndCount(reg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		send(h, get(fmt.Sprint("/nothing-", i)))
		send(h, httptest.NewRequest(fmt.Sprint("BREW", i), "/hit", nil))
		send(h, push(fmt.Sprintf(`{"url":"http://a.example/%d","version":%d}`, i, i+1), nil))
	}
	after, err := testutil.GatherAndCount(reg)
	if err != nil || after != before {
		t.Errorf("got %d series (%v) after requests of all kinds, want the %d of before", after, err, before)
	}
}

func TestPush_RequestID_IsLogged(t *testing.T) {
	h, _, lines := newMeasured(t, "")
	send(h, push(`{"url":"http://a.example/","version":3}`,
		func(r *http.Request) { r.Header.Set("X-Request-Id", "req-7") }))
	if line := lines.LastEntry(); line == nil || line.Message != "Configuration applied" ||
		line.Data["request_id"] != "req-7" || line.Data["version"] != int64(3) {
		t.Errorf("the log has %v, want version 3 applied, and the request id", line)
	}
}
