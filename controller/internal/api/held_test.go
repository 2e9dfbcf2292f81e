package api_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/api"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// A wait that overflows a time.Duration is rejected, not shortened.
func TestRollout_OverflowingWait_400(t *testing.T) {
	s := newSystem(t)
	s.publish("http://a/")
	for _, wait := range []string{"18446744074", "9223372037", "-18446744073", "99999999999999999999"} {
		wantProblem(t, s.call(admin, "GET", "/api/v1/rollouts/1?wait="+wait, ""), 400, "wait")
	}
}

func TestRollout_EventWhileHeld_Answered(t *testing.T) {
	for name, row := range map[string]struct {
		meanwhile func(s *system, a1 account)
		status    int
		most      time.Duration // of fake time, until the response
	}{
		"nothing happens": {func(*system, account) {}, 408, time.Minute},
		"it is applied": {
			func(s *system, a1 account) { s.report(a1, 1, applied) }, 200, 50 * time.Millisecond,
		},
		"it is refused":    {func(s *system, a1 account) { s.report(a1, 1, failed) }, 408, time.Minute},
		"it is superseded": {func(s *system, _ account) { s.publish("http://b/") }, 408, 50 * time.Millisecond},
		"the only agent is removed": {
			func(s *system, a1 account) { s.call(a1, "DELETE", "/api/v1/agents/a1", "") }, 408, time.Minute,
		},
		"the controller stops": {func(s *system, _ account) { close(s.draining) }, 503, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(t)
				a1 := s.register("a1")
				s.publish("http://a/")
				began, answered := time.Now(), make(chan *http.Response, 1)
				go func() { answered <- s.call(admin, "GET", "/api/v1/rollouts/1?wait=60s", "") }()
				synctest.Wait()
				if len(answered) > 0 {
					t.Fatal("it was not held")
				}
				row.meanwhile(s, a1)
				resp := <-answered
				if took := time.Since(began); resp.StatusCode != row.status || took > row.most {
					t.Fatalf(
						"got %d after %s, want %d after %s at most: %s", resp.StatusCode, took, row.status, row.most,
						text(t, resp),
					)
				}
				if row.status == 503 {
					return
				}
				got := decode[wire.Rollout](t, resp)
				if superseded := got.SupersededBy != nil &&
					*got.SupersededBy == 2; superseded != (name == "it is superseded") || got.Version != 1 {
					t.Errorf("got %+v", got)
				}
			})
		})
	}
}

func TestRollout_OfflineAgents_Counted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		s.register("inactive")
		time.Sleep(7*24*time.Hour + time.Second)
		s.register("off")
		time.Sleep(301 * time.Second)
		s.register("slow")
		time.Sleep(91 * time.Second)
		a1, a2, a3 := s.register("a1"), s.register("a2"), s.register("a3")
		s.publish("http://a/")
		time.Sleep(250 * time.Millisecond)
		s.report(a1, 1, applied)
		time.Sleep(750 * time.Millisecond)
		s.report(a2, 1, applied)
		s.report(a3, 1, failed)
		want := `{"version":1,"published_at":"2000-01-08T00:06:33Z","superseded_by":null,` +
			`"targets":5,"applied":2,"degraded":0,"failed":1,"pending":1,"offline":1,` +
			`"first_applied_at":"2000-01-08T00:06:33.25Z",` +
			`"latency_ms":{"p50":250,"p90":1000,"p99":1000,"max":1000},` +
			`"failures":[{"error":"host not allowed","count":1,"sample_agents":["a3"]}],` +
			`"stragglers":[{"id":"slow","hostname":"h","status":"stale","applied_version":null,"last_poll":null},` +
			`{"id":"off","hostname":"h","status":"offline","applied_version":null,"last_poll":null}]}` + "\n"
		if got := text(t, s.call(admin, "GET", "/api/v1/rollouts/1", "")); got != want {
			t.Errorf("got  %swant %s", got, want)
		}
		for query, ids := range map[string]string{
			"": "off slow a1 a2 a3", "?status=all": "inactive off slow a1 a2 a3", "?status=inactive": "inactive",
			"?status=offline": "off",
			"?status=stale":   "slow", "?status=online": "a1 a2", "?status=failed": "a3", "?status=conflict": "",
		} {
			var got []string
			for _, a := range decode[[]wire.Agent](t, s.call(admin, "GET", "/api/v1/agents"+query, "")) {
				got = append(got, a.ID)
			}
			if diff := cmp.Diff(ids, strings.Join(got, " ")); diff != "" {
				t.Errorf("%q, -want +got:\n%s", query, diff)
			}
		}
	})
}

func TestFreeze_Ends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		tag := s.call(
			admin, "PUT", "/api/v1/freeze", `{"reason":"sale","until":"2000-01-01T02:00:00+01:00"}`,
		).Header.Get("ETag")
		time.Sleep(time.Hour - 1)
		wantProblem(t, s.call(admin, "POST", "/api/v1/config", `{"url":"http://a/"}`), 409, "")
		time.Sleep(time.Nanosecond)
		s.publish("http://a/")
		if got := text(t, s.call(admin, "GET", "/api/v1/freeze", "")); got != "{\"frozen\":false}\n" {
			t.Errorf("after its end: got %s", got)
		}
		wantProblem(t, s.call(admin, "DELETE", "/api/v1/freeze", "", "If-Match", tag), 412, "")
	})
}

func TestFreeze_FirstConfiguration_Published(t *testing.T) {
	s := newSystem(t)
	s.call(admin, "PUT", "/api/v1/freeze", `{"reason":"sale"}`)
	if _, published, err := s.publisher.PublishFirst(t.Context(), "http://a/"); err != nil || !published {
		t.Errorf("INITIAL_URL: got %v, %v, want it published", published, err)
	}
}

func TestFreeze_Preconditions(t *testing.T) {
	s := newSystem(t)
	first := s.call(admin, "PUT", "/api/v1/freeze", `{"reason":"sale"}`, "If-None-Match", "*").Header.Get("ETag")
	wantProblem(t, s.call(admin, "PUT", "/api/v1/freeze", `{"reason":"x"}`, "If-None-Match", "*"), 412, "")
	second := s.call(admin, "PUT", "/api/v1/freeze", `{"reason":"longer"}`, "If-Match", first).Header.Get("ETag")
	if first == "" || second == "" || first == second {
		t.Errorf("got the ETags %s and %s, want two", first, second)
	}
	wantProblem(t, s.call(admin, "PUT", "/api/v1/freeze", `{"reason":"x"}`, "If-Match", first), 412, "")
	wantProblem(t, s.call(admin, "DELETE", "/api/v1/freeze", "", "If-Match", first), 412, "")
	wantProblem(t, s.call(admin, "DELETE", "/api/v1/freeze", "", "If-Match", "bare"), 400, "If-Match")
	if got := s.call(admin, "GET", "/api/v1/freeze", "").Header.Get("ETag"); got != second {
		t.Errorf("after the failed writes: got the ETag %s, want %s", got, second)
	}
}

// Writes to agents check If-Match against the current configuration.
func TestPreconditions_EveryOtherWrite_Checked(t *testing.T) {
	s := newSystem(t)
	s.register("a1")
	stale := s.publish("http://a/").Header.Get("ETag")
	s.publish("http://b/")
	for _, call := range [][2]string{
		{"POST", "/api/v1/agents/a1/retry"}, {"POST", "/api/v1/agents/resume"}, {"DELETE", "/api/v1/agents/a1"},
		{"POST", "/api/v1/configs/1/rollback"},
		{"POST", "/api/v1/configs/1/rollback?dry_run=true"},
	} {
		wantProblem(t, s.call(admin, call[0], call[1], "", "If-Match", stale), 412, "")
		wantProblem(t, s.call(admin, call[0], call[1], "", "If-Match", "bare"), 400, "If-Match")
	}
	if got := s.actions("?limit=1"); got[0] != "publish by admin" || s.publisher.Plan().Config().Version != 2 {
		t.Errorf("after the failed writes the newest entry is %s, want the publish", got)
	}
}

// An empty filter, for example from an unset shell variable, is rejected, not ignored.
func TestAgents_EmptyFilters(t *testing.T) {
	s := newSystem(t)
	for _, name := range []string{"hostname", "status", "version", "limit", "cursor"} {
		wantProblem(t, s.call(admin, "GET", "/api/v1/agents?"+name+"=", ""), 400, name)
	}
}

func TestRoutes_UnknownAndDoubledParameters(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	for _, r := range api.Routes() {
		if r[2] == "*" {
			continue
		}
		who := admin
		switch r[1] {
		case "/api/v1/register":
			who = enroller
		case "/api/v1/agents/:id/status":
			who = a1
		}
		path := strings.NewReplacer(":id", "a1", ":version", "1", ":other", "1").Replace(r[1])
		wantProblem(t, s.call(who, r[0], path+"?nope=1", ""), 400, "nope")
		for _, name := range strings.Fields(r[2]) {
			wantProblem(t, s.call(who, r[0], path+"?"+name+"=1&"+name+"=1", ""), 400, name)
		}
	}
}

// An unchanged poll is the hot path. BenchmarkConfig_Unchanged measures its time.
func TestConfig_Unchanged_AllocationsBounded(t *testing.T) {
	s := newSystem(t)
	tag := s.publish("http://a/").Header.Get("ETag")
	a1 := s.register("a1")
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/config", nil)
	r.SetBasicAuth(a1[0], a1[1])
	r.Header.Set("If-None-Match", tag)
	w := &discard{header: http.Header{}}
	const most = 7 // 5, and 2 for the race detector, which drops pooled objects at random
	if got := testing.AllocsPerRun(1000, func() {
		clear(w.header)
		r.Header.Del(server.HeaderRequestID)
		s.handler.ServeHTTP(w, r)
	}); got > most {
		t.Errorf("an unchanged poll: got %.0f allocations, want %d at most", got, most)
	}
}
