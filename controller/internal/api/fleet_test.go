package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/api"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const (
	applied = `{"version":%d,"status":"APPLIED"}`
	failed  = `{"version":%d,"status":"FAILED","error":"host not allowed"}`
)

// report sends a report, which must succeed.
func (s *system) report(self account, version int64, outcome string) {
	s.t.Helper()
	resp := s.call(self, "POST", "/api/v1/agents/"+self[0]+"/status", fmt.Sprintf(outcome, version))
	if resp.StatusCode != http.StatusNoContent {
		s.t.Fatalf("report: got %d %s", resp.StatusCode, text(s.t, resp))
	}
}

// poll sends a poll with the given ETag, or without one if tag is empty.
func (s *system) poll(self account, tag string) *http.Response {
	s.t.Helper()
	if tag == "" {
		return s.call(self, "GET", "/api/v1/config", "")
	}
	return s.call(self, "GET", "/api/v1/config", "", "If-None-Match", tag)
}

func (s *system) actions(query string) (actions []string) {
	s.t.Helper()
	for _, e := range decode[[]wire.AuditEntry](s.t, s.call(admin, "GET", "/api/v1/audit"+query, "")) {
		actions = append(actions, e.Action+" by "+e.Actor)
	}
	return actions
}

func TestRollout_MatchesTheContract(t *testing.T) {
	s := newSystem(t)
	a1, a2, a3 := s.register("a1"), s.register("a2"), s.register("a3")
	s.publish("http://a/")
	s.report(a1, 1, applied)
	s.report(a2, 1, failed)
	_ = a3
	got := decode[map[string]any](t, s.call(admin, "GET", "/api/v1/rollouts/1", ""))
	for _, name := range []string{"published_at", "first_applied_at"} {
		if _, ok := got[name].(string); !ok {
			t.Errorf("%s: got %v, want a time", name, got[name])
		}
		delete(got, name)
	}
	for _, name := range []string{"p50", "p90", "p99", "max"} {
		if _, ok := got["latency_ms"].(map[string]any)[name].(float64); !ok {
			t.Errorf("latency_ms.%s: got %v, want a number", name, got["latency_ms"])
		}
	}
	delete(got, "latency_ms")
	want := map[string]any{
		"version": 1.0, "superseded_by": nil, "targets": 3.0,
		"applied": 1.0, "degraded": 0.0, "failed": 1.0, "pending": 1.0, "offline": 0.0,
		"failures": []any{map[string]any{"error": "host not allowed", "count": 1.0, "sample_agents": []any{"a2"}}},
		"stragglers": []any{
			map[string]any{"id": "a3", "hostname": "h", "status": "online", "applied_version": nil, "last_poll": nil},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for query, status := range map[string]int{
		"?applied=0.33": 200, "?applied=0.34": 408, "?wait=0s": 408, "?wait=1ms&applied=0.3": 200,
		"?wait=1&applied=0.3": 200,
	} {
		resp := s.call(admin, "GET", "/api/v1/rollouts/1"+query, "")
		if resp.StatusCode != status || resp.Header.Get("Content-Type") != "application/json" ||
			decode[wire.Rollout](t, resp).Targets != 3 {
			t.Errorf("%s: got %d, want %d with the same body", query, resp.StatusCode, status)
		}
	}
	for query, field := range map[string]string{
		"?wait=soon": "wait", "?wait=-1s": "wait", "?wait=301s": "wait", "?applied=0": "applied",
		"?applied=1.1": "applied", "?applied=NaN": "applied",
		"?applied=x": "applied", "?since=1": "since",
	} {
		wantProblem(t, s.call(admin, "GET", "/api/v1/rollouts/1"+query, ""), 400, field)
	}
	wantProblem(t, s.call(admin, "GET", "/api/v1/rollouts/2", ""), 404, "")
	wantProblem(t, s.call(admin, "GET", "/api/v1/rollouts/2?wait=60s", ""), 404, "")
	wantProblem(t, s.call(admin, "GET", "/api/v1/rollouts/x", ""), 400, "version")
}

// A wait may exceed the server's timeouts, and ends when the controller stops.
func TestRollout_Wait_Held(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	s.publish("http://a/")
	server := httptest.NewUnstartedServer(s.handler)
	server.Config.ReadTimeout, server.Config.WriteTimeout = 500*time.Millisecond, 500*time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	ask := func(query string) <-chan *http.Response {
		answered := make(chan *http.Response, 1)
		req, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/api/v1/rollouts/1"+query, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(admin[0], admin[1])
		go func() {
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Errorf("the held response: %v", err)
			}
			answered <- resp
		}()
		return answered
	}
	if resp := <-ask("?wait=1200ms"); resp == nil || resp.StatusCode != 408 {
		t.Errorf("held for longer than both timeouts: got %v, want 408", resp)
	}
	held := ask("?wait=60s")
	s.report(a1, 1, applied)
	if resp := <-held; resp == nil || resp.StatusCode != 200 {
		t.Errorf("when it was applied: got %v, want 200", resp)
	}
	s.register("a2")
	held = ask("?wait=60s")
	close(s.draining)
	if resp := <-held; resp == nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("when the controller stops: got %v, want 503 with Retry-After", resp)
	}
}

func TestRefusal_NotOfferedUntilRetry(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	runs := s.publish("http://a/").Header.Get("ETag")
	s.report(a1, 1, applied)
	s.publish("http://b/")
	if resp := s.poll(a1, runs); resp.StatusCode != 200 {
		t.Errorf("before the refusal: got %d, want 200", resp.StatusCode)
	}
	s.report(a1, 2, failed)
	for range 3 {
		if resp := s.poll(a1, runs); resp.StatusCode != 304 || resp.Header.Get("ETag") != runs {
			t.Errorf(
				"after the refusal: got %d %s, want 304 with the ETag of its version", resp.StatusCode,
				resp.Header.Get("ETag"),
			)
		}
	}
	wantProblem(t, s.poll(a1, ""), 404, "")
	wantProblem(t, s.call(admin, "POST", "/api/v1/agents/unregistered/retry", ""), 404, "")
	wantProblem(t, s.call(admin, "POST", "/api/v1/agents/a1/retry", "", "If-Match", runs), 412, "")
	wantProblem(t, s.call(a1, "POST", "/api/v1/agents/a1/retry", ""), 403, "")
	if resp := s.call(admin, "POST", "/api/v1/agents/a1/retry", ""); resp.StatusCode != 204 {
		t.Errorf("retry: got %d, want 204", resp.StatusCode)
	}
	if resp := s.poll(a1, runs); resp.StatusCode != 200 {
		t.Errorf("after the retry: got %d, want 200", resp.StatusCode)
	}
	if got := s.actions("?action=retry"); len(got) != 1 || got[0] != "retry by admin" {
		t.Errorf("the audit log: got %v", got)
	}
}

func TestRollback(t *testing.T) {
	s := newSystem(t)
	s.call(admin, "POST", "/api/v1/config", `{"url":"http://a/","probe":true,"poll_interval_seconds":5}`)
	stale := s.call(
		admin, "POST", "/api/v1/config", `{"url":"http://b/","probe":false,"poll_interval_seconds":9}`,
	).Header.Get("ETag")

	preview := decode[wire.Preview](t, s.call(admin, "POST", "/api/v1/configs/1/rollback?dry_run=true", ""))
	want := wire.Preview{
		Message: preview.Message, Version: 3, Changed: true, DryRun: true,
		Config: wire.Config{Version: 3, Data: wire.Data{URL: "http://a/", Probe: true}, PollIntervalSeconds: 5},
		Changes: []wire.Difference{
			{Field: "data.url", From: "http://b/", To: "http://a/"}, {Field: "data.probe", From: false, To: true},
			{Field: "poll_interval_seconds", From: 9.0, To: 5.0},
		},
	}
	if diff := cmp.Diff(want, preview); diff != "" {
		t.Errorf("the preview, -want +got:\n%s", diff)
	}
	resp := s.call(admin, "POST", "/api/v1/configs/1/rollback", `{"message":"b is slow"}`, "If-Match", stale)
	if got := decode[wire.PublishResponse](t, resp); got.Version != 3 || !got.Changed ||
		resp.Header.Get("ETag") == stale {
		t.Errorf("got %+v, want version 3 with its ETag", got)
	}
	wantProblem(t, s.call(admin, "POST", "/api/v1/configs/2/rollback", "", "If-Match", stale), 412, "")
	wantProblem(t, s.call(admin, "POST", "/api/v1/configs/2/rollback", "", "If-Match", "bare"), 400, "")
	wantProblem(t, s.call(admin, "POST", "/api/v1/configs/9/rollback", ""), 404, "")
	wantProblem(t, s.call(admin, "POST", "/api/v1/configs/0/rollback", ""), 400, "version")
	wantProblem(t, s.call(admin, "POST", "/api/v1/configs/2/rollback", `{"url":"http://c/"}`), 400, "url")
	wantProblem(t, s.call(admin, "POST", "/api/v1/configs/2/rollback", `{"message":"a\nb"}`), 400, "message")
	wantProblem(t, s.call(admin, "POST", "/api/v1/configs/2/rollback?dry_run=yes", ""), 400, "dry_run")
	if got := decode[wire.PublishedConfig](
		t, s.call(admin, "GET", "/api/v1/configs/3", ""),
	); got.Message != "b is slow" || got.RestoredFrom == nil || *got.RestoredFrom != 1 || !got.Data.Probe {
		t.Errorf("the history: got %+v, want version 1 restored, and why", got)
	}
	if got := decode[wire.PublishResponse](
		t, s.call(admin, "POST", "/api/v1/configs/2/rollback", ""),
	); got.Version != 4 {
		t.Errorf("the rollback rolled back: got %+v, want version 4", got)
	}
	if got := decode[wire.PublishResponse](
		t, s.call(admin, "POST", "/api/v1/configs/4/rollback", ""),
	); got.Version != 4 || got.Changed {
		t.Errorf("to what is current: got %+v, want no change", got)
	}
	if got := decode[[]wire.Difference](t, s.call(admin, "GET", "/api/v1/configs/2/diff/4", "")); len(got) != 0 ||
		got == nil {
		t.Errorf("the difference of equals: got %v, want []", got)
	}
	if got := decode[[]wire.Difference](
		t, s.call(admin, "GET", "/api/v1/configs/2/diff/1", ""),
	); !cmp.Equal(got, want.Changes) {
		t.Errorf("the difference: got %v, want %v", got, want.Changes)
	}
	wantProblem(t, s.call(admin, "GET", "/api/v1/configs/1/diff/9", ""), 404, "")
	wantProblem(t, s.call(admin, "GET", "/api/v1/configs/1/diff/x", ""), 400, "other")
}

func TestPublish_DryRun(t *testing.T) {
	s := newSystem(t)
	s.register("a1")
	got := decode[wire.Preview](t, s.call(admin, "POST", "/api/v1/config?dry_run=true", `{"url":"http://a/"}`))
	if got.Version != 1 || !got.DryRun || got.Agents != 1 || got.Config.PollIntervalSeconds != 30 ||
		len(got.Changes) != 3 || got.Changes[0].From != nil {
		t.Errorf("the first: got %+v", got)
	}
	wantProblem(t, s.call(admin, "POST", "/api/v1/config?dry_run=true", `{"url":"ftp://a/"}`), 400, "url")
	wantProblem(t, s.call(admin, "POST", "/api/v1/config?dry_run=", `{"url":"http://a/"}`), 400, "dry_run")
	if resp := s.call(admin, "GET", "/api/v1/configs", ""); text(t, resp) != "[]\n" {
		t.Error("a dry run was stored")
	}
	if got := s.actions(""); len(got) != 1 || got[0] != "register by agent" {
		t.Errorf("the audit log: got %v, want the registration alone", got)
	}
}

func TestFreeze(t *testing.T) {
	s := newSystem(t)
	s.publish("http://a/")
	for body, field := range map[string]string{
		`{}`: "reason", `{"reason":""}`: "reason", `{"reason":"` + strings.Repeat("r", 1025) + `"}`: "reason",
		`{"reason":"r","until":"2020-01-01T00:00:00Z"}`: "until",
		`{"reason":"r","until":"tomorrow"}`:             "until", `{"reason":"r","until":null}`: "until",
		`{"reason":"r","by":"me"}`: "by",
	} {
		wantProblem(t, s.call(admin, "PUT", "/api/v1/freeze", body), 400, field)
	}
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	resp := s.call(admin, "PUT", "/api/v1/freeze", `{"reason":"sale","until":"`+until+`"}`)
	tag := resp.Header.Get("ETag")
	if got := decode[wire.Freeze](t, resp); !got.Frozen || got.Reason != "sale" || got.FrozenBy != "admin" ||
		got.Until == nil || tag == "" {
		t.Errorf("the freeze: got %+v, ETag %s", got, tag)
	}
	for _, path := range []string{"/api/v1/config", "/api/v1/config?dry_run=true"} {
		resp := s.call(admin, "POST", path, `{"url":"http://b/"}`)
		if resp.StatusCode != 409 || !strings.Contains(text(t, resp), "sale") {
			t.Errorf("%s: got %d, want 409 with the reason", path, resp.StatusCode)
		}
	}
	wantProblem(t, s.call(admin, "POST", "/api/v1/configs/1/rollback", ""), 409, "")
	wantProblem(t, s.call(admin, "POST", "/api/v1/config?override=1", `{"url":"http://b/"}`), 400, "override")
	if resp := s.call(admin, "POST", "/api/v1/config?override=true", `{"url":"http://b/"}`); resp.StatusCode != 200 {
		t.Errorf("with override: got %d, want 200", resp.StatusCode)
	}
	wantProblem(t, s.call(admin, "DELETE", "/api/v1/freeze", "", "If-Match", `"another"`), 412, "")
	if resp := s.call(admin, "DELETE", "/api/v1/freeze", "", "If-Match", tag); resp.StatusCode != 204 {
		t.Errorf("lifting the freeze: got %d, want 204", resp.StatusCode)
	}
	if got := text(t, s.call(admin, "GET", "/api/v1/freeze", "")); got != "{\"frozen\":false}\n" {
		t.Errorf("after it: got %s", got)
	}
	want := []string{
		"unfreeze by admin", "publish by admin", "override by admin", "freeze by admin", "publish by admin",
	}
	if diff := cmp.Diff(want, s.actions("")); diff != "" {
		t.Errorf("the audit log, -want +got:\n%s", diff)
	}
}

func TestAudit(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	s.publish("http://a/")
	s.call(account{"admin", "guess"}, "GET", "/api/v1/agents", "")
	s.call(account{"admin", "guess"}, "GET", "/api/v1/agents", "")
	s.call(account{"a1", "guess"}, "GET", "/api/v1/config", "")
	s.call(account{"MyPassword1", "admin"}, "GET", "/api/v1/config", "")
	s.call(account{}, "GET", "/api/v1/config", "") // no credentials: not recorded
	wantProblem(t, s.call(a1, "DELETE", "/api/v1/agents/a2", ""), 403, "")
	if resp := s.call(a1, "DELETE", "/api/v1/agents/a1", ""); resp.StatusCode != 204 {
		t.Errorf("an agent removes itself: got %d, want 204", resp.StatusCode)
	}
	body := text(t, s.call(admin, "GET", "/api/v1/audit", ""))
	if strings.Contains(body, "guess") || strings.Contains(body, "MyPassword1") {
		t.Errorf("the audit log shows a password: %s", body)
	}
	counts := map[string]int{}
	for _, action := range s.actions("") {
		counts[action]++
	}
	want := map[string]int{
		"publish by admin": 1, "decommission by a1": 1, "login_failed by admin": 1, "login_failed by a1": 1,
		"login_failed by unknown": 1,
		"register by agent":       1,
	}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	first := decode[[]wire.AuditEntry](t, s.call(admin, "GET", "/api/v1/audit?limit=2", ""))
	if len(first) != 2 || first[0].ID != 6 {
		t.Fatalf("a page: got %+v, want the newest two of six", first)
	}
	rest := decode[[]wire.AuditEntry](t, s.call(admin, "GET", fmt.Sprintf("/api/v1/audit?before=%d", first[1].ID), ""))
	if len(rest) != 4 || rest[2].Action != "publish" || *rest[2].Version != 1 || rest[2].SourceIP != "192.0.2.1" {
		t.Errorf("the rest: got %+v, want four, the publish before the registration", rest)
	}
	wantProblem(t, s.call(admin, "GET", "/api/v1/audit?action=theft", ""), 400, "action")
	wantProblem(t, s.call(admin, "GET", "/api/v1/audit?limit=0", ""), 400, "limit")
}

// A poll with X-Worker-Error makes the agent degraded in the list, the summary and the rollout,
// until a poll without it. A degraded agent is still offered versions.
func TestAgents_Degraded(t *testing.T) {
	s := newSystem(t)
	a1, a2 := s.register("a1"), s.register("a2")
	s.publish("http://a/")
	s.report(a1, 1, applied)
	s.report(a2, 1, applied)
	const (
		headerText = "the worker at http://w:8082 cannot\tbe reached: \xff" + "nothing\u00a0listens"
		shown      = "the worker at http://w:8082 cannot be reached: ?nothing listens"
	)
	pushError := func() any {
		return decode[map[string]any](t, s.call(admin, "GET", "/api/v1/agents/a1", ""))["push_error"]
	}
	s.call(a1, "GET", "/api/v1/config", "", wire.HeaderPushError, headerText)
	if got := pushError(); got != shown {
		t.Errorf("push_error: got %v, want %q", got, shown)
	}
	s.call(a1, "GET", "/api/v1/config", "", wire.HeaderPushError, headerText, wire.HeaderTransport, "nats")
	if got := pushError(); got != nil {
		t.Errorf("push_error of an agent whose broker works: got %v, want null", got)
	}
	resp := s.call(a1, "GET", "/api/v1/config", "", wire.HeaderWorkerError, headerText+strings.Repeat("x", 5000))
	if resp.StatusCode != 200 {
		t.Errorf("a poll of a degraded agent: got %d, want the configuration", resp.StatusCode)
	}
	list := decode[[]wire.Agent](t, s.call(admin, "GET", "/api/v1/agents?status=degraded", ""))
	if len(list) != 1 || list[0].ID != "a1" || list[0].Degraded == nil ||
		!strings.HasPrefix(*list[0].Degraded, shown) || len(*list[0].Degraded) != wire.MaxHeaderText {
		t.Errorf("degraded agents: got %+v, want a1 with its reason", list)
	}
	summary := decode[wire.AgentSummary](t, s.call(admin, "GET", "/api/v1/agents/summary", ""))
	if n := summary.ByStatus; n[wire.Degraded] != 1 || n[wire.Online] != 1 {
		t.Errorf("by status: got %v, want one degraded and one online", n)
	}
	rollout := decode[wire.Rollout](t, s.call(admin, "GET", "/api/v1/rollouts/1", ""))
	if rollout.Applied != 2 || rollout.Degraded != 1 || rollout.Targets != 2 {
		t.Errorf("rollout: got %+v, want two applied, one of them degraded", rollout)
	}
	s.call(a1, "GET", "/api/v1/config", "")
	agent := decode[wire.Agent](t, s.call(admin, "GET", "/api/v1/agents/a1", ""))
	if agent.Degraded != nil || agent.Status != wire.Online {
		t.Errorf("after a poll without the header: got %+v, want online", agent)
	}
}

func TestAgents_SummaryAndFilters(t *testing.T) {
	s := newSystem(t)
	a1, a2 := s.register("a1"), s.register("a2")
	s.register("a3")
	s.publish("http://a/")
	s.report(a1, 1, applied)
	s.report(a2, 1, failed)
	s.call(a1, "GET", "/api/v1/config", "", wire.HeaderTransport, "nats")
	want := `{"total":3,"desired_version":1,"by_status":{"conflict":0,` +
		`"degraded":0,"failed":1,"inactive":0,"offline":0,"online":2,"stale":0},` +
		`"by_applied_version":[{"version":1,"count":1},{"version":null,"count":2}],` +
		`"by_transport":{"longpoll":0,"nats":1,"poll":0,"redis":0}}` + "\n"
	if got := text(t, s.call(admin, "GET", "/api/v1/agents/summary", "")); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	for query, total := range map[string]string{
		"": "3", "?transport=nats": "1", "?transport=poll": "0", "?status=all": "3", "?status=failed": "1",
		"?status=inactive": "0", "?hostname=H": "3", "?hostname=h*&version=1": "1", "?hostname=x": "0",
	} {
		if got := s.call(admin, "GET", "/api/v1/agents"+query, "").Header.Get("X-Total-Count"); got != total {
			t.Errorf("%s: got %s agents, want %s", query, got, total)
		}
	}
	link := s.call(admin, "GET", "/api/v1/agents?status=online&limit=1&hostname=h*", "").Header.Get("Link")
	for _, part := range []string{"status=online", "limit=1", "hostname=h", "cursor="} {
		if !strings.Contains(link, part) {
			t.Errorf("Link: got %s, want %s in it", link, part)
		}
	}
	wantProblem(t, s.call(admin, "GET", "/api/v1/agents?status=lost", ""), 400, "status")
	for _, name := range []string{"summary", "resume"} {
		wantProblem(
			t, s.call(enroller, "POST", "/api/v1/register", `{"hostname":"h","agent_id":"`+name+`"}`), 400, "agent_id",
		)
	}
}

// laterETag returns the ETag of a version that this store made and lost in a restore.
func (s *system) laterETag(version int64) string {
	return s.db.Tags().Of(version, models.Content{URL: "http://later/", PollInterval: 30 * time.Second})
}

// appliedReport returns the body of a report that a version was applied, with its ETag.
func appliedReport(tag string) string {
	return `{"version":%d,"status":"APPLIED","etag":` + strconv.Quote(tag) + `}`
}

// The store has two versions, and agents run version 9 of the same fleet.
func TestConflict(t *testing.T) {
	s := newSystem(t)
	ahead, behind := s.register("ahead"), s.register("behind")
	fresh, reporting := s.register("fresh"), s.register("reporting")
	first := s.publish("http://a/").Header.Get("ETag")
	current := s.publish("http://b/").Header.Get("ETag")
	ninth := s.laterETag(9)

	for _, tag := range []string{`"another"`, `"3-"`} {
		if resp := s.poll(ahead, tag); resp.StatusCode != 200 {
			t.Errorf("%s, which is not an ETag of a configuration: got %d, want 200", tag, resp.StatusCode)
		}
	}
	wantProblem(
		t, s.call(reporting, "POST", "/api/v1/agents/reporting/status", fmt.Sprintf(applied, 2_000_000)), 400,
		"version",
	)
	if got := text(t, s.call(account{}, "GET", "/ready", "")); got != "{\"status\":\"ready\"}\n" {
		t.Errorf("/ready: got %s", got)
	}
	if resp := s.call(admin, "GET", "/api/v1/config", "", "If-None-Match", ninth); resp.StatusCode != 200 {
		t.Errorf("the admin with a later ETag: got %d, want 200", resp.StatusCode)
	}

	if resp := s.poll(ahead, ninth); resp.StatusCode != 304 || resp.Header.Get("ETag") != ninth {
		t.Errorf(
			"the first agent ahead: got %d %s, want 304 with the ETag of its version", resp.StatusCode,
			resp.Header.Get("ETag"),
		)
	}
	if resp := s.poll(ahead, "W/"+ninth); resp.StatusCode != 304 {
		t.Errorf("the same with a weak ETag: got %d, want 304", resp.StatusCode)
	}
	if resp := s.poll(behind, first); resp.StatusCode != 200 {
		t.Errorf("an agent with an older version: got %d, want 200", resp.StatusCode)
	}
	if resp := s.poll(behind, `"from-an-older-build"`); resp.StatusCode != 304 {
		t.Errorf("an agent with an unknown version: got %d, want 304", resp.StatusCode)
	}
	resp := s.call(
		behind, "GET", "/api/v1/config", "",
		append(asApplied(1, content("http://a/")), "If-None-Match", `"of-a-gateway"`)...,
	)
	if resp.StatusCode != 200 {
		t.Errorf(
			"an agent with an older version in its headers and a gateway's ETag: got %d, want 200", resp.StatusCode,
		)
	}
	if resp := s.poll(behind, current); resp.StatusCode != 304 {
		t.Errorf("an agent with the current version: got %d, want 304", resp.StatusCode)
	}
	if resp := s.poll(fresh, ""); resp.StatusCode != 200 {
		t.Errorf("an agent without a version: got %d, want 200", resp.StatusCode)
	}
	s.report(reporting, 11, appliedReport(s.laterETag(11)))
	resp = s.call(account{}, "GET", "/ready", "")
	if body := text(t, resp); resp.StatusCode != 200 || !strings.Contains(body, "conflict") ||
		!strings.Contains(body, "11") {
		t.Errorf("/ready: got %d %s, want a warning about the conflict", resp.StatusCode, body)
	}
	if got := decode[[]wire.Agent](t, s.call(admin, "GET", "/api/v1/agents?status=conflict", "")); len(got) != 2 ||
		*got[0].AppliedVersion != 9 {
		t.Errorf("the agents in conflict: got %+v, want two", got)
	}

	wantProblem(t, s.call(admin, "POST", "/api/v1/agents/resume", "", "If-Match", first), 412, "")
	if got := decode[wire.PublishResponse](
		t, s.call(admin, "POST", "/api/v1/agents/resume", "", "If-Match", current),
	); !got.Changed || got.Version != 2 {
		t.Errorf("resume: got %+v", got)
	}
	if resp := s.poll(ahead, ninth); resp.StatusCode != 200 || resp.Header.Get("ETag") != current {
		t.Errorf("after the resume: got %d, want 200 with the current version", resp.StatusCode)
	}
	if got := decode[wire.PublishResponse](t, s.call(admin, "POST", "/api/v1/agents/resume", "")); got.Changed {
		t.Errorf("a second resume: got %+v, want nothing to resume", got)
	}

	s.report(reporting, 12, appliedReport(s.laterETag(12)))
	if got := decode[wire.PublishResponse](
		t, s.call(admin, "POST", "/api/v1/config", `{"url":"http://b/"}`),
	); got.Version != 13 || !got.Changed {
		t.Errorf("the same content published in a conflict: got %+v, want version 13", got)
	}
	if resp := s.poll(reporting, s.laterETag(12)); resp.StatusCode != 200 {
		t.Errorf("after the publish: got %d, want 200", resp.StatusCode)
	}
}

// A controller with an empty store keeps agents of the same fleet at their version.
func TestConflict_EmptyStore_KeepsVersion(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	wantProblem(t, s.poll(a1, s.laterETag(9)), 404, "")
	if got := decode[[]wire.Agent](t, s.call(admin, "GET", "/api/v1/agents?status=conflict", "")); len(got) != 1 {
		t.Errorf("the agents in conflict: got %+v, want one", got)
	}
	if got := decode[wire.PublishResponse](t, s.publish("http://a/")); got.Version != 10 {
		t.Errorf("the first publish: got %+v, want version 10", got)
	}
}

// An agent may send any ETag. One that this store did not make affects only that agent, which
// keeps the version that it names.
func TestForeignETag_AffectsThatAgentOnly(t *testing.T) {
	s := newSystem(t)
	other := newSystem(t)
	first := s.publish("http://a/").Header.Get("ETag")
	current := s.publish("http://b/").Header.Get("ETag")
	native := s.register("native")
	list := func() (ids []string) {
		for _, a := range decode[[]wire.Agent](t, s.call(admin, "GET", "/api/v1/agents?status=conflict", "")) {
			ids = append(ids, a.ID)
		}
		return ids
	}
	foreign := []string{
		`"900001-AAAAAAAAAAAAAAAAAAAAAA"`, `"9000000000-AAAAAAAAAAAAAAAAAAAAAA"`,
		`"900001-AAAAAAAAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAAAAAAAA"`, other.laterETag(7),
	}
	var foreignAgents []account
	for i, tag := range foreign {
		agent := s.register(fmt.Sprint("foreign-", i))
		foreignAgents = append(foreignAgents, agent)
		for range 2 {
			if resp := s.poll(agent, tag); resp.StatusCode != 304 || resp.Header.Get("ETag") != tag {
				t.Errorf("%s: got %d %s, want 304 with the same ETag", tag, resp.StatusCode, resp.Header.Get("ETag"))
			}
		}
		s.report(agent, 900_001, appliedReport(tag))
		s.report(agent, 900_001, failed)
	}
	if got, want := list(), []string{"foreign-0", "foreign-1", "foreign-2", "foreign-3"}; !slices.Equal(got, want) {
		t.Errorf("in conflict: got %v, want %v", got, want)
	}
	logged := slices.Collect(func(yield func([2]any) bool) {
		for _, e := range s.logged.AllEntries() {
			if e.Message == "Agent runs a version that this store did not make" &&
				!yield([2]any{e.Data["version"], e.Data["newest"]}) {
				return
			}
		}
	})
	if want := [][2]any{{int64(900_001), int64(2)}}; !slices.Equal(logged, want) {
		t.Errorf("logged, as version and newest: got %v, want %v", logged, want)
	}
	if got := text(t, s.call(account{}, "GET", "/ready", "")); got != "{\"status\":\"ready\"}\n" {
		t.Errorf("/ready: got %s", got)
	}
	for tag, want := range map[string]int{"": 200, first: 200, current: 304, `"unknown"`: 200} {
		if resp := s.poll(native, tag); resp.StatusCode != want {
			t.Errorf("another agent that runs %s: got %d, want %d", tag, resp.StatusCode, want)
		}
	}
	if got, err := s.db.Plan(t.Context()); err != nil || got.Observed != (models.Observed{}) {
		t.Errorf("the store has %+v, %v, want nothing", got, err)
	}

	if got := decode[wire.PublishResponse](t, s.publish("http://c/")); got.Version != 3 {
		t.Errorf("the next version: got %d, want 3", got.Version)
	}
	for i, tag := range foreign {
		if resp := s.poll(foreignAgents[i], tag); resp.StatusCode != 200 {
			t.Errorf("%s after a publish: got %d, want 200", tag, resp.StatusCode)
		}
	}
	if got := list(); len(got) != 0 {
		t.Errorf("in conflict after a publish: got %v, want none", got)
	}

	late := s.register("late")
	if resp := s.poll(late, foreign[0]); resp.StatusCode != 304 {
		t.Errorf("an agent that registers after the publish: got %d, want 304", resp.StatusCode)
	}
	if got := decode[wire.PublishResponse](t, s.call(admin, "POST", "/api/v1/agents/resume", "")); !got.Changed ||
		got.Version != 3 {
		t.Errorf("resume: got %+v, want a change", got)
	}
	if resp := s.poll(late, foreign[0]); resp.StatusCode != 200 {
		t.Errorf("after the resume: got %d, want 200", resp.StatusCode)
	}
	if got := decode[wire.PublishResponse](t, s.call(admin, "POST", "/api/v1/agents/resume", "")); got.Changed {
		t.Errorf("a second resume: got %+v, want nothing to resume", got)
	}
}

// An agent of another fleet that polls before the first publish follows that publish.
func TestForeignETag_EmptyStore_FollowsFirstPublish(t *testing.T) {
	s := newSystem(t)
	moved := s.register("moved")
	const tag = `"9-AAAAAAAAAAAAAAAAAAAAAA"`
	wantProblem(t, s.poll(moved, tag), 404, "")
	if got := decode[wire.PublishResponse](t, s.publish("http://a/")); got.Version != 1 {
		t.Errorf("the first publish: got %+v, want version 1", got)
	}
	if resp := s.poll(moved, tag); resp.StatusCode != 200 {
		t.Errorf("after it: got %d, want 200", resp.StatusCode)
	}
}

// nested returns a JSON object of the given depth.
func nested(levels int) string {
	return strings.Repeat(`{"a":`, levels-1) + "{}" + strings.Repeat("}", levels-1)
}

func TestRegister_Metadata_Bounded(t *testing.T) {
	s := newSystem(t)
	wide := func(bytes int) string { return `{"a":"` + strings.Repeat("x", bytes-len(`{"a":""}`)) + `"}` }
	spaced := `{"a":"` + strings.Repeat("x", 2000) + `"` + strings.Repeat(" ", 3000) + `}`
	for name, row := range map[string]struct {
		metadata string
		ok       bool
	}{
		"4 KiB":                     {wide(4096), true},
		"a byte more":               {wide(4097), false},
		"4 KiB with the whitespace": {spaced, false},
		"16 levels":                 {nested(16), true},
		"17 levels":                 {nested(17), false},
		"17 levels of lists":        {`{"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, false},
		"many shallow ones":         {`{"a":[` + strings.Repeat(`{},`, 100) + `{}]}`, true},
		"700 levels":                {nested(700), false},
	} {
		body := fmt.Sprintf(`{"hostname":"h","metadata":%s}`, row.metadata)
		resp := s.call(enroller, "POST", "/api/v1/register", body)
		if row.ok && resp.StatusCode != 201 {
			t.Errorf("%s: got %d %s, want 201", name, resp.StatusCode, text(t, resp))
		}
		if !row.ok {
			wantProblem(t, resp, 400, "metadata")
		}
	}
}

func TestRegister_AboveMaxAgents_507(t *testing.T) {
	s := newLimited(t, plenty, func(o *api.Options) {
		db := o.Store.(*sqlite.DB)
		plan, err := publish.Load(t.Context(), db, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		agents, err := registry.Open(t.Context(), db, plan, registry.Options{MaxAgents: 2}, o.Log)
		if err != nil {
			t.Fatal(err)
		}
		o.Agents = agents
	})
	s.register("a1")
	a2 := s.register("a2")
	for range 5 {
		resp := s.call(enroller, "POST", "/api/v1/register", `{"hostname":"h","agent_id":"a3"}`)
		if detail := text(t, resp); resp.StatusCode != 507 || !strings.Contains(detail, "MAX_AGENTS") {
			t.Errorf("a third agent: got %d %s, want 507 and the setting", resp.StatusCode, detail)
		}
	}
	var warnings int
	for _, line := range s.logged.AllEntries() {
		if line.Level <= logrus.WarnLevel {
			warnings++
		}
	}
	if warnings != 1 {
		t.Errorf("5 rejected registrations made %d warnings, want 1", warnings)
	}
	if resp := s.call(a2, "POST", "/api/v1/register", `{"hostname":"h2","agent_id":"a2"}`); resp.StatusCode != 200 {
		t.Errorf("a known agent: got %d, want 200", resp.StatusCode)
	}
	if resp := s.call(
		enroller, "POST", "/api/v1/register", `{"hostname":"h2","agent_id":"a2"}`,
	); resp.StatusCode != 200 {
		t.Errorf("a known agent with the shared credentials: got %d, want 200", resp.StatusCode)
	}
	if resp := s.call(admin, "DELETE", "/api/v1/agents/a1", ""); resp.StatusCode != 204 {
		t.Fatalf("got %d", resp.StatusCode)
	}
	resp := s.call(enroller, "POST", "/api/v1/register", `{"hostname":"h","agent_id":"a3"}`)
	if resp.StatusCode != 201 {
		t.Errorf("after one was removed: got %d, want 201", resp.StatusCode)
	}
}

// An agent that exceeds its own limits takes no capacity from others.
func TestLimits_OneAgentTooOften_OthersServed(t *testing.T) {
	for name, flood := range map[string]struct{ path, body string }{
		"registrations": {"/api/v1/register", `{"hostname":"h","agent_id":"a1"}`},
		"reports":       {"/api/v1/agents/a1/status", `{"version":1,"status":"APPLYING"}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLimited(t, access.Limits{Register: 100, Config: 1, Status: 100, Admin: 100})
				s.publish("http://a/")
				a1, a2 := s.register("a1"), s.register("a2")
				rejected := 0
				for range 1000 {
					switch resp := s.call(a1, "POST", flood.path, flood.body); resp.StatusCode {
					case 429:
						rejected++
					case 200:
						a1[1] = decode[wire.RegisterResponse](t, resp).AgentToken
					}
				}
				if rejected < 900 {
					t.Errorf("%d of 1000 were rejected, want nearly all", rejected)
				}
				s.report(a2, 1, applied)
				resp := s.call(enroller, "POST", "/api/v1/register", `{"hostname":"h","agent_id":"a3"}`)
				if resp.StatusCode != 201 {
					t.Errorf("another agent: got %d %s, want it registered", resp.StatusCode, text(t, resp))
				}
			})
		})
	}
}

// BenchmarkRegister_Memory measures the memory of a registered agent.
func BenchmarkRegister_Memory(b *testing.B) {
	for name, size := range map[string]int{"small_metadata": 100, "full_metadata": wire.MaxMetadataBytes} {
		b.Run(name, func(b *testing.B) {
			s := newSystem(b)
			metadata := `{"a":"` + strings.Repeat("x", size-len(`{"a":""}`)) + `"}`
			before, n := heap(), 0
			for b.Loop() {
				n++
				body := fmt.Sprintf(
					`{"hostname":"host-%d.example.com","agent_id":"agent-%d","metadata":%s}`, n, n, metadata,
				)
				resp := s.call(enroller, "POST", "/api/v1/register", body)
				if resp.StatusCode != 201 {
					b.Fatalf("got %d", resp.StatusCode)
				}
			}
			b.ReportMetric(float64(heap()-before)/float64(n), "bytes/agent")
			s.logged.Reset()
		})
	}
}

// heap returns the number of bytes in use on the heap.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// An agent that reports continuously fills neither the disk nor the log, and other agents can
// still report.
func TestReport_OneAgentRepeatedly_Bounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		a1, a2 := s.register("a1"), s.register("a2")
		s.publish("http://a/")
		s.logged.Reset()
		taken := 0
		const minutes = 3
		for range minutes * 60 * 4 { // 4 a second
			for _, status := range []string{"FAILED", "APPLYING"} {
				body := fmt.Sprintf(`{"version":1,"status":%q,"error":""}`, status)
				resp := s.call(a1, "POST", "/api/v1/agents/a1/status", body)
				switch resp.StatusCode {
				case 204:
					taken++
				default:
					wantRateLimited(t, resp, 429)
				}
			}
			time.Sleep(time.Second / 4)
		}
		if taken > minutes*60+60 || taken < minutes*60 {
			t.Errorf("%d reports were taken in %d minutes, want one a second and 60", taken, minutes)
		}
		if lines := len(s.logged.AllEntries()); lines > minutes+5 || lines == 0 {
			t.Errorf("the log has %d lines for %d minutes, want one a minute and 5", lines, minutes)
		}
		s.report(a2, 1, applied)
		if resp := s.poll(a1, ""); resp.StatusCode >= 500 || resp.StatusCode == 429 {
			t.Errorf("its polls: got %d, want them answered", resp.StatusCode)
		}
		time.Sleep(time.Minute)
		s.report(a1, 1, applied)
	})
}

// An agent that registers repeatedly, with a new hostname each time, is limited too.
func TestRegister_OneAgentRepeatedly_Bounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		a1 := s.register("a1")
		taken := 0
		for i := range 1000 {
			resp := s.call(a1, "POST", "/api/v1/register", fmt.Sprintf(`{"hostname":"h%d","agent_id":"a1"}`, i))
			if resp.StatusCode != 200 {
				wantRateLimited(t, resp, 429)
				continue
			}
			taken++
			a1[1] = decode[wire.RegisterResponse](t, resp).AgentToken
		}
		if taken != 10 {
			t.Errorf("%d of 1000 registrations were taken, want 10", taken)
		}
		if entries := s.actions(""); len(entries) > 11 {
			t.Errorf("the audit log has %d entries, want one for each", len(entries))
		}
		// Registrations without the agent's secret do not count against its limit.
		time.Sleep(time.Hour)
		body := `{"hostname":"h","agent_id":"a9","agent_secret":"` + strings.Repeat("s", 32) + `"}`
		s.call(enroller, "POST", "/api/v1/register", body)
		for range 100 {
			resp := s.call(enroller, "POST", "/api/v1/register", `{"hostname":"h","agent_id":"a9"}`)
			if resp.StatusCode != 409 {
				t.Fatalf("without the secret: got %d, want 409", resp.StatusCode)
			}
		}
		if resp := s.call(enroller, "POST", "/api/v1/register", body); resp.StatusCode != 200 {
			t.Errorf("with the secret: got %d, want 200", resp.StatusCode)
		}
	})
}
