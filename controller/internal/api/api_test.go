package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/docs"
	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/api"
	"github.com/fleetconf/fleetconf/controller/internal/audit"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/poll"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/controller/internal/rollout"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// system is a controller without its process: the handler, the packages behind it and a
// SQLite database.
type system struct {
	path      string // of the database
	t         testing.TB
	handler   http.Handler
	publisher *publish.Publisher
	agents    *registry.Registry
	db        *sqlite.DB
	logged    *logtest.Hook
	draining  chan struct{} // to be closed by a test that stops the controller
	waiters   *poll.Waiters
	drain     func()               // ends all waits
	lost      error                // what Announcements.Lost returns
	registry  *prometheus.Registry // the metrics of the API
}

func newSystem(t testing.TB) *system {
	t.Helper()
	return newLimited(t, access.Limits{Register: 10_000, Config: 1_000_000, Status: 100_000, Admin: 10_000})
}

// newLimited returns a system with the given limits. with changes its options.
func newLimited(t testing.TB, limits access.Limits, with ...func(*api.Options)) *system {
	t.Helper()
	path := filepath.Join(t.TempDir(), "controller.db")
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	log, hook := logtest.NewNullLogger()
	plan, err := publish.Load(t.Context(), db, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	agents, err := registry.Open(t.Context(), db, plan, registry.Options{
		Reserved: append([]string{"admin", "agent"}, api.Names...), InactiveAfter: 7 * 24 * time.Hour,
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	publisher := publish.New(db, plan, agents, publish.Options{Tags: db.Tags(), Pace: 200}, log)
	draining := make(chan struct{})
	waiters := poll.NewWaiters(publisher.Changed, 20_000, 2000)
	waiting, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() { defer close(ended); _ = waiters.Run(waiting) }() // until the test ends or calls drain
	t.Cleanup(func() { stop(); <-ended })
	s := &system{
		t: t, path: path, registry: prometheus.NewRegistry(), db: db, publisher: publisher, agents: agents,
		logged: hook, draining: draining, waiters: waiters, drain: stop,
	}
	options := api.Options{
		Options: access.Options{
			Agents: agents, Audit: audit.New(db, log), Draining: draining, Limits: limits,
			AgentName: "agent", AgentAccount: auth.NewAccount("agent", "secret123"),
			AdminName: "admin", AdminAccount: auth.NewAccount("admin", "admin123"), Log: log,
		},
		Publisher: publisher, Rollouts: rollout.New(publisher, agents, db), Store: db,
		Polls: pollsOf(publisher, agents, waiters), Announcements: announced{s},
		Metrics: api.NewMetrics(s.registry), Scrape: metrics.Handler(s.registry),
	}
	for _, change := range with {
		change(&options)
	}
	s.handler = api.New(options)
	return s
}

func pollsOf(publisher *publish.Publisher, agents *registry.Registry, waiters *poll.Waiters) *poll.Service {
	return poll.New(poll.Options{
		Publisher: publisher, Agents: agents, Waiters: waiters,
		Fleet: "fleet-1", Broker: wire.NATS, SweepInterval: 5 * time.Minute,
	})
}

// announced reports the lost field of a system.
type announced struct{ *system }

func (a announced) Lost() error { return a.lost }

// account is a user name and a password. The zero value sends no credentials.
type account [2]string

var (
	admin    = account{"admin", "admin123"}
	enroller = account{"agent", "secret123"}
)

// call sends a request. Headers are pairs of name and value. A body that is not empty is JSON.
func (s *system) call(who account, method, path, body string, headers ...string) *http.Response {
	s.t.Helper()
	return s.callContext(s.t.Context(), who, method, path, body, headers...)
}

func (s *system) callContext(
	ctx context.Context, who account, method, path, body string, headers ...string,
) *http.Response {
	s.t.Helper()
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	if who != (account{}) {
		r.SetBasicAuth(who[0], who[1])
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
		if headers[i+1] == "" {
			r.Header[http.CanonicalHeaderKey(headers[i])] = []string{""}
		}
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w.Result()
}

func (s *system) publish(url string) *http.Response {
	s.t.Helper()
	resp := s.call(admin, "POST", "/api/v1/config", fmt.Sprintf(`{"url":%q}`, url))
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("publish %s: got %d %s", url, resp.StatusCode, text(s.t, resp))
	}
	return resp
}

func (s *system) register(id string) account {
	s.t.Helper()
	resp := s.call(enroller, "POST", "/api/v1/register", fmt.Sprintf(`{"hostname":"h","agent_id":%q}`, id))
	got := decode[wire.RegisterResponse](s.t, resp)
	return account{got.AgentID, got.AgentToken}
}

func text(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func decode[T any](t testing.TB, resp *http.Response) (v T) {
	t.Helper()
	body := text(t, resp)
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%d %s: %v", resp.StatusCode, body, err)
	}
	return v
}

// wantProblem checks that a response is a problem document with the given status, and names
// field unless that is empty.
func wantProblem(t testing.TB, resp *http.Response, status int, field string) {
	t.Helper()
	if resp.StatusCode != status || resp.Header.Get("Content-Type") != problem.ContentType {
		t.Errorf(
			"got %d %s %s, want %d %s", resp.StatusCode, resp.Header.Get("Content-Type"), text(t, resp), status,
			problem.ContentType,
		)
		return
	}
	p := decode[problem.Problem](t, resp)
	if p.Status != status || p.Title == "" || p.Detail == "" || p.Type == "" {
		t.Errorf("got an unfinished problem: %+v", p)
	}
	if field != "" && (len(p.Errors) == 0 || p.Errors[0].Field != field) {
		t.Errorf("got errors %+v, want one that names %s", p.Errors, field)
	}
}

func TestConfig_NothingPublished_404(t *testing.T) {
	s := newSystem(t)
	for _, who := range []account{admin, enroller, s.register("a1")} {
		resp := s.call(who, "GET", "/api/v1/config", "")
		if got := resp.Header.Get(wire.HeaderPollInterval); got != "30" {
			t.Errorf("%s: got the interval %q, want 30", who[0], got)
		}
		wantProblem(t, resp, http.StatusNotFound, "")
	}
}

func TestPublish_ThenFetch(t *testing.T) {
	s := newSystem(t)
	resp := s.call(
		admin, "POST", "/api/v1/config", `{"url":"https://example.com/","poll_interval_seconds":15,"message":"first"}`,
	)
	tag := resp.Header.Get("ETag")
	if got := decode[wire.PublishResponse](t, resp); got.Version != 1 || !got.Changed || got.Message == "" {
		t.Errorf("publish: got %+v", got)
	}
	if !regexp.MustCompile(`^"[!#-~]+"$`).MatchString(tag) {
		t.Errorf("publish: got the ETag %s, want a strong quoted one", tag)
	}
	resp = s.call(enroller, "GET", "/api/v1/config", "")
	if h := resp.Header; h.Get("ETag") != tag || h.Get(wire.HeaderPollInterval) != "15" ||
		h.Get("Content-Type") != "application/json" {
		t.Errorf("fetch: got the headers %v, want the ETag %s and the interval 15", h, tag)
	}
	want := `{"version":1,"data":{"url":"https://example.com/"},"poll_interval_seconds":15}` + "\n"
	if got := text(t, resp); got != want {
		t.Errorf("fetch: got %s, want %s", got, want)
	}
	resp = s.call(admin, "POST", "/api/v1/config", `{"url":"https://example.com/"}`)
	if got := decode[wire.PublishResponse](t, resp); got.Version != 1 || got.Changed ||
		resp.Header.Get("ETag") != tag {
		t.Errorf("the same again: got %+v and %s, want version 1 unchanged", got, resp.Header.Get("ETag"))
	}
}

func TestConfig_IfNoneMatch(t *testing.T) {
	s := newSystem(t)
	old := s.publish("http://a/").Header.Get("ETag")
	tag := s.publish("http://b/").Header.Get("ETag")
	for name, row := range map[string]struct {
		header string
		want   int
	}{
		"the current one":     {tag, 304},
		"weakened by a proxy": {"W/" + tag, 304},
		"in a list":           {old + ", " + tag, 304},
		"star":                {"*", 304},
		"an old one":          {old, 200},
		"without its quotes":  {strings.Trim(tag, `"`), 200},
		"empty":               {"", 200},
		"an empty tag":        {`""`, 200},
		"ten thousand bytes":  {`"` + strings.Repeat("x", 10_000) + `"`, 200},
		"malformed":           {`",,W/"`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			resp := s.call(enroller, "GET", "/api/v1/config", "", "If-None-Match", row.header)
			body := text(t, resp)
			if resp.StatusCode != row.want || (row.want == 304) != (body == "") {
				t.Errorf("got %d with %d bytes, want %d", resp.StatusCode, len(body), row.want)
			}
			if resp.Header.Get("ETag") != tag || resp.Header.Get(wire.HeaderPollInterval) != "30" {
				t.Errorf("got the headers %v, want the ETag and the interval on %d too", resp.Header, row.want)
			}
		})
	}
}

func TestPublish_Preconditions(t *testing.T) {
	s := newSystem(t)
	wantProblem(
		t, s.call(admin, "POST", "/api/v1/config", `{"url":"http://a/"}`, "If-Match", "*"),
		http.StatusPreconditionFailed, "",
	)
	if resp := s.call(
		admin, "POST", "/api/v1/config", `{"url":"http://a/"}`, "If-None-Match", "*",
	); resp.StatusCode != 200 {
		t.Errorf("If-None-Match: * with nothing published: got %d, want 200", resp.StatusCode)
	}
	wantProblem(
		t, s.call(admin, "POST", "/api/v1/config", `{"url":"http://b/"}`, "If-None-Match", "*"),
		http.StatusPreconditionFailed, "",
	)
	old := s.publish("http://b/").Header.Get("ETag")
	tag := s.publish("http://c/").Header.Get("ETag")
	for name, row := range map[string]struct {
		header string
		status int
	}{
		"stale":              {old, 412},
		"weak":               {"W/" + tag, 412},
		"without its quotes": {strings.Trim(tag, `"`), 400},
		"empty":              {"", 400},
		"ten thousand bytes": {`"` + strings.Repeat("x", 10_000) + `"`, 412},
	} {
		t.Run(name, func(t *testing.T) {
			resp := s.call(admin, "POST", "/api/v1/config", `{"url":"http://never/"}`, "If-Match", row.header)
			field := ""
			if row.status == 400 {
				field = "If-Match"
			}
			wantProblem(t, resp, row.status, field)
		})
	}
	if got := s.publisher.Plan().Config(); got.URL != "http://c/" {
		t.Errorf("current: got %+v, want version 3 unchanged", got)
	}
	for _, header := range []string{tag, old + "," + tag, "*"} {
		if resp := s.call(
			admin, "POST", "/api/v1/config", `{"url":"http://c/"}`, "If-Match", header,
		); resp.StatusCode != 200 {
			t.Errorf("If-Match: %s: got %d, want 200", header, resp.StatusCode)
		}
	}
}

func TestPublish_PollIntervalInTheQuery(t *testing.T) {
	s := newSystem(t)
	s.publish("http://a/")
	if resp := s.call(admin, "POST", "/api/v1/config?poll_interval=15", ""); resp.StatusCode != 200 {
		t.Fatalf("without a body: got %d %s", resp.StatusCode, text(t, resp))
	}
	if got := s.publisher.Plan().Config(); got.PollInterval != 15*time.Second || got.URL != "http://a/" ||
		got.Version != 2 {
		t.Errorf("got %+v, want 15 s and the URL kept, as version 2", got)
	}
	if resp := s.call(
		admin, "POST", "/api/v1/config?poll_interval=20", `{"url":"http://b/"}`,
	); resp.StatusCode != 200 {
		t.Fatalf("with a body: got %d", resp.StatusCode)
	}
	if got := s.publisher.Plan().Config(); got.PollInterval != 20*time.Second || got.URL != "http://b/" {
		t.Errorf("got %+v, want 20 s and the new URL", got)
	}
	wantProblem(t, s.call(admin, "POST", "/api/v1/config?poll_interval=5&poll_interval=6", ""), 400, "poll_interval")
	wantProblem(t, s.call(admin, "POST", "/api/v1/config?poll_interval=%zz", ""), 400, "")
	for _, bad := range []string{"0", "-1", "abc", "", "1.5", "86401", "99999999999999999999"} {
		wantProblem(t, s.call(admin, "POST", "/api/v1/config?poll_interval="+bad, ""), 400, "poll_interval")
	}
	wantProblem(
		t, s.call(admin, "POST", "/api/v1/config?poll_interval=5", `{"poll_interval_seconds":6}`), 400,
		"poll_interval",
	)
	wantProblem(t, s.call(admin, "POST", "/api/v1/config?pol_interval=5", `{"url":"http://c/"}`), 400, "pol_interval")
	if got := s.publisher.Plan().Config().Version; got != 3 {
		t.Errorf("after bad input the version is %d, want 3", got)
	}
}

// A streaming client sends an empty body with chunked encoding.
func TestPublish_EmptyChunkedBody_Accepted(t *testing.T) {
	s := newSystem(t)
	s.publish("http://a/")
	s.publish("http://b/")
	for _, path := range []string{"/api/v1/config?poll_interval=15", "/api/v1/configs/1/rollback"} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", path, io.NopCloser(strings.NewReader("")))
		r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
		r.SetBasicAuth(admin[0], admin[1])
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != 200 {
			t.Errorf("%s: got %d %s, want 200", path, w.Code, w.Body)
		}
	}
}

// Every body ends with a newline, those of problems and polls too.
func TestBodies_EndWithNewline(t *testing.T) {
	s := newSystem(t)
	s.publish("http://a/")
	for _, path := range []string{
		"/", "/health", "/ready", "/version", "/metrics", "/openapi.json", "/swagger/doc.json", "/nothing",
		"/api/v1/register", "/api/v1/config", "/api/v1/configs",
		"/api/v1/configs/1", "/api/v1/configs/1/diff/1", "/api/v1/configs/9", "/api/v1/agents",
		"/api/v1/agents/summary", "/api/v1/audit", "/api/v1/freeze",
		"/api/v1/rollouts/1", "/api/v1/agents?limit=0",
	} {
		resp := s.call(admin, "GET", path, "")
		if body := text(t, resp); !strings.HasSuffix(body, "\n") || strings.HasSuffix(body, "\n\n") {
			t.Errorf("%s: got %d %q, want one newline at the end", path, resp.StatusCode, body[max(0, len(body)-40):])
		}
	}
	if resp := s.call(
		admin, "GET", "/api/v1/config", "",
	); resp.Header.Get("Content-Length") != strconv.Itoa(len(text(t, resp))) {
		t.Errorf("got Content-Length %s, want that of the body", resp.Header.Get("Content-Length"))
	}
}

func TestPublish_BadInput(t *testing.T) {
	s := newSystem(t)
	s.publish("http://a/")
	for name, row := range map[string]struct {
		body   string
		status int
		field  string
	}{
		"no body":                {"", 400, ""},
		"blank body":             {"  ", 400, ""},
		"malformed":              {`{url:1}`, 400, ""},
		"truncated":              {`{"url":"http://b/"`, 400, ""},
		"doubled":                {`{"url":"http://b/"}{"url":"http://c/"}`, 400, ""},
		"an array":               {`[]`, 400, ""},
		"a string":               {`"http://b/"`, 400, ""},
		"a field twice":          {`{"url":"http://b/","url":"http://c/"}`, 400, "url"},
		"an unknown field":       {`{"url":"http://b/","urls":1}`, 400, "urls"},
		"the field in capitals":  {`{"URL":"http://b/"}`, 400, "URL"},
		"null":                   {`{"url":null}`, 400, "url"},
		"a number for the URL":   {`{"url":7}`, 400, "url"},
		"a string for seconds":   {`{"poll_interval_seconds":"15"}`, 400, "poll_interval_seconds"},
		"half a second":          {`{"poll_interval_seconds":0.5}`, 400, "poll_interval_seconds"},
		"zero seconds":           {`{"poll_interval_seconds":0}`, 400, "poll_interval_seconds"},
		"negative seconds":       {`{"poll_interval_seconds":-5}`, 400, "poll_interval_seconds"},
		"more than a day":        {`{"poll_interval_seconds":86401}`, 400, "poll_interval_seconds"},
		"NUL":                    {`{"url":"http://b/\u0000"}`, 400, "url"},
		"invalid UTF-8":          {"{\"url\":\"http://b/\xff\"}", 400, ""},
		"an empty URL":           {`{"url":""}`, 400, "url"},
		"a relative URL":         {`{"url":"/path"}`, 400, "url"},
		"another scheme":         {`{"url":"file:///etc/passwd"}`, 400, "url"},
		"user and password":      {`{"url":"http://u:p@b/"}`, 400, "url"},
		"a fragment":             {`{"url":"http://b/#x"}`, 400, "url"},
		"a message with newline": {`{"message":"a\nb"}`, 400, "message"},
		"a message too long":     {`{"message":"` + strings.Repeat("m", 1025) + `"}`, 400, "message"},
		"larger than 64 KiB":     {`{"message":"` + strings.Repeat("m", 65<<10) + `"}`, 413, ""},
	} {
		t.Run(name, func(t *testing.T) {
			wantProblem(t, s.call(admin, "POST", "/api/v1/config", row.body), row.status, row.field)
		})
	}
	for _, contentType := range []string{"text/plain", "application/x-www-form-urlencoded", "json", ";"} {
		r := httptest.NewRequestWithContext(
			t.Context(), "POST", "/api/v1/config", strings.NewReader(`{"url":"http://b/"}`),
		)
		r.SetBasicAuth(admin[0], admin[1])
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		wantProblem(t, w.Result(), http.StatusUnsupportedMediaType, "")
	}
	if got := s.publisher.Plan().Config(); got.Version != 1 || got.URL != "http://a/" {
		t.Errorf("after invalid requests: got %+v, want version 1 unchanged", got)
	}
}

func TestPublish_StoreClosed_HidesDetails(t *testing.T) {
	s := newSystem(t)
	s.publish("http://a/")
	_ = s.db.Close()
	resp := s.call(admin, "POST", "/api/v1/config", `{"url":"http://b/"}`)
	body := text(t, resp)
	if resp.StatusCode < 500 || strings.Contains(body, "sql") || strings.Contains(body, ".db") {
		t.Errorf("got %d %s, want an error without details of the store", resp.StatusCode, body)
	}
	id := resp.Header.Get(server.HeaderRequestID)
	if last := s.logged.LastEntry(); last == nil || last.Data["request_id"] != id {
		t.Errorf("logged %v, want the request id %s", last, id)
	}
	if resp := s.call(enroller, "GET", "/api/v1/config", ""); resp.StatusCode != 200 {
		t.Errorf("a poll with the store closed: got %d, want 200", resp.StatusCode)
	}
	wantProblem(t, s.call(account{}, "GET", "/ready", ""), 503, "database")
}

// No poll writes to the database, with any headers and any credentials.
func TestConfig_WritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		old := s.publish("http://a/").Header.Get("ETag")
		tag := s.publish("http://b/").Header.Get("ETag")
		a1 := s.register("a1")
		written := func() string {
			wal, err := os.ReadFile(s.path + "-wal")
			if err != nil {
				t.Fatal(err)
			}
			return string(wal)
		}
		before := written()
		for name, headers := range map[string][]string{
			"nothing":                       nil,
			"an earlier version":            {"If-None-Match", old},
			"the current one":               {"If-None-Match", tag},
			"a later one of this store":     {"If-None-Match", s.laterETag(9)},
			"a later one of another store":  {"If-None-Match", `"9-abcdefghijklmnopqrstuv"`},
			"another content":               append(asApplied(2, content("http://edited/")), "If-None-Match", tag),
			"a worker that it cannot reach": {"If-None-Match", tag, wire.HeaderWorkerError, "connection refused"},
			"a broker that it cannot reach": {"If-None-Match", tag, wire.HeaderPushError, "the broker is down"},
		} {
			for _, who := range []account{a1, {a1[0], "guess"}, {"admin", "guess"}, {}, enroller} {
				for _, query := range []string{"", "?wait=1s"} {
					s.call(who, "GET", "/api/v1/config"+query, "", headers...)
					if written() != before {
						t.Fatalf("a poll%s by %q that says %s wrote to the database", query, who[0], name)
					}
				}
			}
		}
	})
}

func TestHistory(t *testing.T) {
	s := newSystem(t)
	if got := strings.TrimSpace(text(t, s.call(admin, "GET", "/api/v1/configs", ""))); got != "[]" {
		t.Errorf("before the first publish: got %s, want []", got)
	}
	for i := range 5 {
		s.publish(fmt.Sprintf("http://t/%d", i+1))
	}
	versions := func(query string) (got []int64) {
		for _, p := range decode[[]wire.PublishedConfig](t, s.call(admin, "GET", "/api/v1/configs"+query, "")) {
			got = append(got, p.Version)
		}
		return got
	}
	for query, want := range map[string][]int64{
		"":                  {5, 4, 3, 2, 1},
		"?limit=2":          {5, 4},
		"?limit=2&before=4": {3, 2},
		"?before=1":         nil,
	} {
		if diff := cmp.Diff(want, versions(query)); diff != "" {
			t.Errorf("%q, -want +got:\n%s", query, diff)
		}
	}
	one := decode[wire.PublishedConfig](t, s.call(admin, "GET", "/api/v1/configs/2", ""))
	if one.Data.URL != "http://t/2" || one.PublishedBy != "admin" || one.SourceIP != "192.0.2.1" ||
		one.PublishedAt.IsZero() ||
		one.RestoredFrom != nil || !strings.HasPrefix(one.ETag, `"`) {
		t.Errorf("version 2: got %+v", one)
	}
	wantProblem(t, s.call(admin, "GET", "/api/v1/configs/6", ""), 404, "")
	for path, field := range map[string]string{
		"/0": "version", "/abc": "version", "/-1": "version",
		"?limit=0": "limit", "?limit=1001": "limit", "?limit=x": "limit", "?before=0": "before", "?after=1": "after",
	} {
		wantProblem(t, s.call(admin, "GET", "/api/v1/configs"+path, ""), 400, field)
	}
}

func TestRegister(t *testing.T) {
	s := newSystem(t)
	resp := s.call(enroller, "POST", "/api/v1/register", `{"hostname":"web-1","metadata":{"os":"linux","cpus":4}}`)
	first := decode[wire.RegisterResponse](t, resp)
	if resp.StatusCode != 201 || first.AgentID == "" || first.AgentToken == "" || first.PollURL != "config" ||
		first.PollIntervalSeconds != 30 {
		t.Errorf("a new agent: got %d %+v", resp.StatusCode, first)
	}
	resp = s.call(
		enroller, "POST", "/api/v1/register", fmt.Sprintf(`{"hostname":"web-1","agent_id":%q}`, first.AgentID),
	)
	if again := decode[wire.RegisterResponse](t, resp); resp.StatusCode != 200 || again.AgentID != first.AgentID {
		t.Errorf("the same agent: got %d %+v, want 200 and the same id", resp.StatusCode, again)
	}
	for body, field := range map[string]string{
		`{}`:                                "hostname",
		`{"hostname":""}`:                   "hostname",
		`{"hostname":"a\u0007"}`:            "hostname",
		`{"hostname":"h","agent_id":"a:b"}`: "agent_id",
		`{"hostname":"h","agent_id":"` + strings.Repeat("a", 65) + `"}`:         "agent_id",
		`{"hostname":"h","agent_id":"admin"}`:                                   "agent_id",
		`{"hostname":"h","metadata":null}`:                                      "metadata",
		`{"hostname":"h","metadata":"x"}`:                                       "metadata",
		`{"hostname":"h","metadata":{"a":"` + strings.Repeat("a", 9000) + `"}}`: "metadata",
		`{"hostname":"h","token":"x"}`:                                          "token",
	} {
		wantProblem(t, s.call(enroller, "POST", "/api/v1/register", body), 400, field)
	}
	if total := s.call(admin, "GET", "/api/v1/agents", "").Header.Get("X-Total-Count"); total != "1" {
		t.Errorf("got %s agents, want 1", total)
	}
}

func TestAgents_AppliedVersion_Shown(t *testing.T) {
	s := newSystem(t)
	tag := s.publish("http://a/").Header.Get("ETag")
	a1 := s.register("a1")
	show := func() wire.Agent { return decode[wire.Agent](t, s.call(admin, "GET", "/api/v1/agents/a1", "")) }
	if got := show(); got.LastPoll != nil || got.AppliedVersion != nil || *got.DesiredVersion != 1 ||
		got.Status != wire.Online || got.LastAttempt != nil {
		t.Errorf("just registered: got %+v", got)
	}
	s.call(a1, "GET", "/api/v1/config", "")
	if got := show(); got.LastPoll == nil || time.Since(*got.LastPoll) > time.Minute || got.AppliedVersion != nil {
		t.Errorf("after a poll: got %+v, want last_poll now and nothing applied", got)
	}
	s.call(a1, "GET", "/api/v1/config", "", "If-None-Match", "*")
	if got := show(); got.AppliedVersion != nil {
		t.Errorf("after If-None-Match: *: got applied %d, want none", *got.AppliedVersion)
	}
	if resp := s.call(
		a1, "POST", "/api/v1/agents/a1/status", `{"version":1,"status":"APPLIED"}`,
	); resp.StatusCode != 204 {
		t.Errorf("report: got %d", resp.StatusCode)
	}
	if got := show(); got.AppliedVersion == nil || *got.AppliedVersion != 1 || got.LastAttempt.Status != wire.Applied {
		t.Errorf("after the report: got %+v, want version 1 applied", got)
	}
	// Polls show the applied version too, in case a report is lost.
	a2 := s.register("a2")
	s.call(a2, "GET", "/api/v1/config", "", "If-None-Match", tag)
	if got := decode[[]wire.Agent](t, s.call(admin, "GET", "/api/v1/agents?version=1", "")); len(got) != 2 {
		t.Errorf("agents that run version 1: got %+v, want both", got)
	}
}

func TestConfig_AfterRefusal_KeepsLastGood(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	s.publish("http://a/")
	s.call(a1, "POST", "/api/v1/agents/a1/status", `{"version":1,"status":"FAILED","error":"host not allowed"}`)
	// it runs nothing, so a 304 would be wrong
	wantProblem(t, s.call(a1, "GET", "/api/v1/config", ""), 404, "")
	runs := s.publish("http://b/").Header.Get("ETag")
	s.call(a1, "POST", "/api/v1/agents/a1/status", `{"version":2,"status":"APPLIED"}`)
	s.publish("http://c/")
	if resp := s.call(a1, "GET", "/api/v1/config", "", "If-None-Match", runs); resp.StatusCode != 200 {
		t.Errorf("a new version: got %d, want 200", resp.StatusCode)
	}
	s.call(a1, "POST", "/api/v1/agents/a1/status", `{"version":3,"status":"FAILED","error":"host not allowed"}`)
	resp := s.call(a1, "GET", "/api/v1/config", "", "If-None-Match", runs)
	if resp.StatusCode != 304 || resp.Header.Get("ETag") != runs || resp.Header.Get(wire.HeaderPollInterval) != "30" {
		t.Errorf("the refused version: got %d %v, want 304 with the ETag of its version", resp.StatusCode, resp.Header)
	}
	for _, malformed := range []string{"garbage", `"a", "b"`} {
		wantProblem(t, s.call(a1, "GET", "/api/v1/config", "", "If-None-Match", malformed), 404, "")
	}
	if resp := s.call(enroller, "GET", "/api/v1/config", "", "If-None-Match", runs); resp.StatusCode != 200 {
		t.Errorf("another reader: got %d, want 200", resp.StatusCode)
	}
	got := decode[[]wire.Agent](t, s.call(admin, "GET", "/api/v1/agents?status=failed", ""))
	if len(got) != 1 || got[0].LastAttempt.Error != "host not allowed" || *got[0].AppliedVersion != 2 ||
		*got[0].DesiredVersion != 3 {
		t.Errorf("failed agents: got %+v", got)
	}
	s.publish("http://d/")
	if resp := s.call(a1, "GET", "/api/v1/config", "", "If-None-Match", runs); resp.StatusCode != 200 {
		t.Errorf("a newer version: got %d, want 200", resp.StatusCode)
	}
}

func TestReport_BadInput(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	for body, field := range map[string]string{
		`{"status":"APPLIED"}`:                   "version",
		`{"version":0,"status":"APPLIED"}`:       "version",
		`{"version":1000001,"status":"APPLIED"}`: "version", // too far above the newest version
		`{"version":1}`:                          "status",
		`{"version":1,"status":"applied"}`:       "status",
		`{"version":1,"status":"APPLIED","etag":"` + strings.Repeat("e", 257) + `"}`:   "etag",
		`{"version":1,"status":"APPLIED","error":"` + strings.Repeat("e", 1025) + `"}`: "error",
	} {
		wantProblem(t, s.call(a1, "POST", "/api/v1/agents/a1/status", body), 400, field)
	}
}

func TestAgents_Pages(t *testing.T) {
	s := newSystem(t)
	for i := range 5 {
		s.register(fmt.Sprint("a", i))
	}
	var got []string
	path := "/api/v1/agents?limit=2&status=online"
	for pages := 0; path != ""; pages++ {
		resp := s.call(admin, "GET", path, "")
		if total := resp.Header.Get("X-Total-Count"); total != "5" || pages > 3 {
			t.Fatalf("page %d: total %s, want 5 on three pages", pages, total)
		}
		for _, a := range decode[[]wire.Agent](t, resp) {
			got = append(got, a.ID)
		}
		link := resp.Header.Get("Link")
		path = ""
		if link != "" {
			path = "/api/v1/agents" + regexp.MustCompile(`^<(\?.+)>; rel="next"$`).FindStringSubmatch(link)[1]
		}
	}
	if diff := cmp.Diff([]string{"a0", "a1", "a2", "a3", "a4"}, got); diff != "" {
		t.Errorf("all pages, -want +got:\n%s", diff)
	}
	for query, field := range map[string]string{
		"?limit=0": "limit", "?limit=1001": "limit", "?status=well": "status", "?version=x": "version",
		"?cursor=x": "cursor", "?cursor=": "cursor", "?page=2": "page",
	} {
		wantProblem(t, s.call(admin, "GET", "/api/v1/agents"+query, ""), 400, field)
	}
}

func TestDecommission(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	if resp := s.call(admin, "DELETE", "/api/v1/agents/a1", ""); resp.StatusCode != 204 {
		t.Errorf("got %d, want 204", resp.StatusCode)
	}
	wantProblem(t, s.call(a1, "GET", "/api/v1/config", ""), 401, "")
	wantProblem(t, s.call(admin, "GET", "/api/v1/agents/a1", ""), 404, "")
	wantProblem(t, s.call(admin, "DELETE", "/api/v1/agents/a1", ""), 404, "")
}

// The table has every route and the callers that may call it. Add new routes to it.
func TestRoutes_AccessRules_Enforced(t *testing.T) {
	const anyone = "anonymous, wrong, bearer, decommissioned, shared, a1, a2, admin"
	rules := map[string]string{
		"GET /": anyone, "GET /openapi.json": anyone, "GET /swagger": anyone, "GET /health": anyone,
		"GET /ready": anyone, "GET /version": anyone, "GET /metrics": anyone, "GET /swagger/*page": anyone,
		"POST /api/v1/register":                    "shared, a1, a2",
		"GET /api/v1/config":                       "shared, a1, a2, admin",
		"POST /api/v1/config":                      "admin",
		"GET /api/v1/configs":                      "admin",
		"GET /api/v1/configs/:version":             "admin",
		"GET /api/v1/configs/:version/diff/:other": "admin",
		"POST /api/v1/configs/:version/rollback":   "admin",
		"GET /api/v1/rollouts/:version":            "admin",
		"GET /api/v1/audit":                        "admin",
		"GET /api/v1/freeze":                       "admin",
		"PUT /api/v1/freeze":                       "admin",
		"DELETE /api/v1/freeze":                    "admin",
		"GET /api/v1/agents":                       "admin",
		"GET /api/v1/agents/summary":               "admin",
		"POST /api/v1/agents/resume":               "admin",
		"GET /api/v1/agents/:id":                   "admin",
		"DELETE /api/v1/agents/:id":                "a1, admin",
		"POST /api/v1/agents/:id/retry":            "admin",
		"POST /api/v1/agents/:id/reset":            "admin",
		"POST /api/v1/agents/:id/status":           "a1",
	}
	s := newSystem(t)
	s.publish("http://a/")
	tested := map[string]bool{}
	for n, route := range api.Routes() {
		name := route[0] + " " + route[1]
		allowed, known := rules[name]
		if !known {
			t.Errorf("%s has no row in the table", name)
			continue
		}
		tested[name] = true
		methods := []string{route[0]}
		if route[0] == "GET" {
			methods = append(methods, "HEAD")
		}
		a1, a2, former := s.register(fmt.Sprint(
			"a1-", n,
		)), s.register(fmt.Sprint("a2-", n)), s.register(fmt.Sprint("former-", n))
		s.call(admin, "DELETE", "/api/v1/agents/"+former[0], "")
		path := strings.NewReplacer(
			":id", a1[0], ":version", "1", ":other", "1", "*page", "index.html",
		).Replace(route[1])
		for _, method := range methods {
			for _, caller := range []struct {
				name, kind string
				account
				header string
			}{
				{"an anonymous caller", "anonymous", account{}, ""},
				{"a wrong password of the admin", "wrong", account{"admin", enroller[1]}, ""},
				{"a wrong password of the agents", "wrong", account{"agent", admin[1]}, ""},
				{"a wrong token", "wrong", account{a1[0], a2[1]}, ""},
				{"a token without a name", "wrong", account{"", a1[1]}, ""},
				{"an unknown name", "wrong", account{"root", admin[1]}, ""},
				{"an empty password", "wrong", account{"admin", ""}, ""},
				{"a bearer token", "bearer", account{}, "Bearer " + admin[1]},
				{"an agent that was decommissioned", "decommissioned", former, ""},
				{"the shared account", "shared", enroller, ""},
				{"a2", "a2", a2, ""},
				{"a1", "a1", a1, ""},
				{"the admin", "admin", admin, ""},
			} {
				headers := http.Header{}
				if caller.header != "" {
					headers.Set("Authorization", caller.header)
				}
				from := fmt.Sprintf("198.51.%d.1:40000", n) // a new source, so that guesses are not limited
				resp := s.callWith(from, headers, caller.account, method, path, "")
				got, want := resp.StatusCode, 0 // any status but 401, 403 and 429
				switch {
				case strings.Contains(allowed, caller.kind):
				case caller.kind == "shared" || caller.kind == "a1" || caller.kind == "a2" || caller.kind == "admin":
					want = http.StatusForbidden
				default:
					want = http.StatusUnauthorized
				}
				if refused := got == 401 || got == 403 || got == 429; refused && want == 0 ||
					want != 0 && got != want {
					t.Errorf("%s %s by %s: got %d, want %d", method, route[1], caller.name, got, want)
				}
				if challenge := resp.Header.Get("WWW-Authenticate"); (got == 401) != strings.HasPrefix(
					challenge, "Basic realm=",
				) {
					t.Errorf(
						"%s %s by %s: got %d with the challenge %q", method, route[1], caller.name, got, challenge,
					)
				}
				if want != 0 && method != "HEAD" {
					wantProblem(t, resp, want, "")
				}
			}
		}
	}
	for name := range rules {
		if !tested[name] {
			t.Errorf("%s has a row, but is not a route", name)
		}
	}
}

// A route without an access rule rejects every caller.
func TestRoutes_WithoutRule_Closed(t *testing.T) {
	var options api.Options
	s := newLimited(t, plenty, func(o *api.Options) { options = *o; options.Metrics = nil })
	a1 := s.register("a1")
	s.handler = api.NewWithoutRule(options)
	for _, who := range []account{{}, {"admin", "guess"}, enroller, a1, admin} {
		for _, from := range []string{elsewhere, here} {
			wantProblem(t, s.callFrom(from, who, "GET", "/api/v1/unset"), 403, "")
		}
	}
}

func TestAuthorization_BadHeaders(t *testing.T) {
	s := newSystem(t)
	for _, header := range []string{
		"", "Basic", "Basic ", "Basic !!", "Basic YWRtaW4=", "Bearer abc", "Digest x", "Basic YWRtaW46YWRtaW4xMjM",
		"Basic " + strings.Repeat("A", 20_000),
	} {
		wantProblem(t, s.call(account{}, "GET", "/api/v1/config", "", "Authorization", header), 401, "")
	}
}

func TestRoutes_UnknownPathsAndMethods(t *testing.T) {
	s := newSystem(t)
	for _, path := range []string{
		"/api", "/api/v1/config/", "/api/v2/config", "/api/v1/configs/1/2", "//api/v1/config",
	} {
		wantProblem(t, s.call(admin, "GET", path, ""), 404, "")
	}
	for path, allow := range map[string][]string{
		"/api/v1/config": {"GET", "HEAD", "POST"}, "/api/v1/register": {"POST"}, "/health": {"GET", "HEAD"},
		"/api/v1/agents/a1": {"GET", "HEAD", "DELETE"},
	} {
		for _, method := range []string{"PUT", "PATCH", "OPTIONS", "BREW"} {
			resp := s.call(admin, method, path, "")
			for _, m := range allow {
				if !strings.Contains(resp.Header.Get("Allow"), m) {
					t.Errorf("%s %s: got Allow %q, want %v", method, path, resp.Header.Get("Allow"), allow)
				}
			}
			wantProblem(t, resp, 405, "")
		}
	}
}

// The API document lists exactly the routes and query parameters of the API.
func TestOpenAPI_NamesEveryRoute(t *testing.T) {
	type parameters []struct{ In, Name string }
	var doc struct {
		Paths map[string]map[string]struct{ Parameters parameters }
	}
	if err := json.Unmarshal([]byte(docs.OpenAPI), &doc); err != nil {
		t.Fatal(err)
	}
	got, want := map[string]string{}, map[string]string{}
	for _, r := range api.Routes() {
		if strings.HasPrefix(r[1], "/swagger") {
			continue // pages for a browser
		}
		path := regexp.MustCompile(`:(\w+)`).ReplaceAllString(r[1], "{$1}")
		known := strings.Fields(r[2])
		slices.Sort(known)
		want[r[0]+" "+path] = strings.Join(known, " ")
	}
	for path, methods := range doc.Paths {
		for method, operation := range methods {
			var query []string
			for _, p := range operation.Parameters {
				if p.In == "query" {
					query = append(query, p.Name)
				}
			}
			slices.Sort(query)
			name := strings.ToUpper(method) + " " + path
			got[name] = strings.Join(query, " ")
			if want[name] == "*" { // takes any
				want[name] = got[name]
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes and their query parameters in the API document, -want +got:\n%s", diff)
	}
}

func TestSwagger_PagesServed(t *testing.T) {
	s := newSystem(t)
	for path, want := range map[string]string{
		"/swagger/index.html": "swagger-ui", "/swagger/doc.json": "Fleetconf controller",
		"/swagger/swagger-initializer.js": "../openapi.json", "/openapi.json": `"openapi": "3.0.3"`,
		"/swagger/swagger-ui.css": "swagger-ui", "/swagger/swagger-ui-bundle.js": "Swagger",
	} {
		resp := s.call(account{}, "GET", path, "")
		if body := text(t, resp); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: got %d with %d bytes, want %q in it", path, resp.StatusCode, len(body), want)
		}
	}
	for _, path := range []string{"/swagger/none.js", "/swagger/.", "/swagger/../api"} {
		wantProblem(t, s.call(account{}, "GET", path, ""), 404, "")
	}
	for path, location := range map[string]string{"/swagger": "swagger/index.html", "/swagger/": "index.html"} {
		if resp := s.call(account{}, "GET", path, ""); resp.StatusCode != 302 ||
			resp.Header.Get("Location") != location {
			t.Errorf(
				"%s: got %d with the location %q, want 302 to %s", path, resp.StatusCode, resp.Header.Get("Location"),
				location,
			)
		}
	}
	if resp := s.call(account{}, "HEAD", "/swagger/index.html", ""); resp.StatusCode != 200 {
		t.Errorf("HEAD: got %d, want 200", resp.StatusCode)
	}
}

// One of several concurrent publishes and rollbacks with the same If-Match succeeds.
func TestPublish_ConcurrentSameIfMatch_OneWins(t *testing.T) {
	s := newSystem(t)
	tag := s.publish("http://a/0").Header.Get("ETag")
	for round := range 20 {
		const writers = 8
		answers := make([]*http.Response, writers)
		begin := make(chan struct{})
		var writing sync.WaitGroup
		for i := range writers {
			path, body := "/api/v1/config", fmt.Sprintf(`{"url":"http://a/%d/%d"}`, round, i)
			if i == 0 && round > 0 {
				path, body = fmt.Sprintf("/api/v1/configs/%d/rollback", round), "" // not the current content
			}
			writing.Go(func() {
				<-begin
				answers[i] = s.call(admin, "POST", path, body, "If-Match", tag)
			})
		}
		close(begin)
		writing.Wait()
		won := 0
		for _, resp := range answers {
			switch resp.StatusCode {
			case http.StatusOK:
				won++
				tag = resp.Header.Get("ETag")
			case http.StatusPreconditionFailed:
			default:
				t.Errorf("got %d %s, want 200 or 412", resp.StatusCode, text(t, resp))
			}
		}
		current := s.publisher.Plan().Config()
		if want := int64(round) + 2; won != 1 || current.Version != want || current.ETag != tag {
			t.Fatalf("round %d: %d of %d won, version %d is current under %s; want one, version %d under %s",
				round, won, writers, current.Version, current.ETag, want, tag)
		}
	}
}

// An admin's browser sends the remembered password with requests of any page.
func TestPublish_CrossSiteRequest_403(t *testing.T) {
	s := newSystem(t)
	s.publish("http://a/")
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example"},
		{"Origin", "null"},
	} {
		wantProblem(t, s.call(admin, "POST", "/api/v1/config?poll_interval=1", "", header...), 403, "")
		wantProblem(t, s.call(admin, "DELETE", "/api/v1/agents/a1", "", header...), 403, "")
	}
	if got := s.publisher.Plan().Config().Version; got != 1 {
		t.Errorf("got version %d, want 1", got)
	}
	if resp := s.call(
		admin, "POST", "/api/v1/config?poll_interval=1", "", "Sec-Fetch-Site", "same-origin",
	); resp.StatusCode != 200 {
		t.Errorf("a same-origin request: got %d, want 200", resp.StatusCode)
	}
}

func TestAuthorization_Refusals_LoggedOncePerMinute(t *testing.T) {
	s := newSystem(t)
	for range 10 {
		s.call(account{"admin", "guess"}, "GET", "/api/v1/agents", "")
	}
	if n := len(s.logged.AllEntries()); n != 1 {
		t.Errorf("10 rejected requests logged %d lines, want 1", n)
	}
	if line, _ := s.logged.LastEntry().String(); strings.Contains(line, "guess") {
		t.Errorf("the password is in the log: %s", line)
	}
}

func TestConfig_ThousandConcurrent_Answered(t *testing.T) {
	s := newSystem(t)
	s.publish("http://a/0")
	a1 := s.register("a1")
	ts := httptest.NewServer(s.handler)
	defer ts.Close()
	var group sync.WaitGroup
	for i := range 1000 {
		group.Go(func() {
			r, _ := http.NewRequestWithContext(t.Context(), "GET", ts.URL+"/api/v1/config", nil)
			r.SetBasicAuth(a1[0], a1[1])
			if i%100 == 0 {
				r.Method, r.Body = "POST", io.NopCloser(bytes.NewReader(fmt.Appendf(
					nil, `{"url":"http://a/%d"}`, i+1,
				)))
				r.Header.Set("Content-Type", "application/json")
				r.SetBasicAuth(admin[0], admin[1])
			}
			resp, err := ts.Client().Do(r)
			if err != nil {
				t.Errorf("request %d: %v", i, err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			if resp.StatusCode != 200 {
				t.Errorf("request %d: got %d", i, resp.StatusCode)
			}
		})
	}
	group.Wait()
	if got := s.publisher.Plan().Config().Version; got != 11 {
		t.Errorf("after 10 publishes amid 990 polls: got version %d, want 11", got)
	}
}

// discard is a ResponseWriter without cost, so that the benchmark measures the handler alone.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkConfig_Unchanged measures an unchanged poll of an agent, which is the hot path.
func BenchmarkConfig_Unchanged(b *testing.B) {
	s := newSystem(b)
	tag := s.publish("http://a/").Header.Get("ETag")
	a1 := s.register("a1")
	r := httptest.NewRequestWithContext(b.Context(), "GET", "/api/v1/config", nil)
	r.SetBasicAuth(a1[0], a1[1])
	r.Header.Set("If-None-Match", tag)
	r.Header.Set(wire.HeaderAppliedVersion, "1")
	r.Header.Set(wire.HeaderAppliedContent, content("http://a/"))
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		r.Header.Del(server.HeaderRequestID) // the handler sets it, and the next poll would reuse it
		s.handler.ServeHTTP(w, r)
	}
}
