package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// contract is the API document that a program serves. Responses may contain nothing
// that it does not describe.
type contract struct {
	router     routers.Router
	operations map[string]*openapi3.Operation // by id

	mu   sync.Mutex
	seen map[string]bool // "operation status"
}

// newContract reads the document of a running program.
func newContract(t *testing.T, p *process) *contract {
	t.Helper()
	a, err := call("", "GET", p.url()+"/openapi.json", "")
	must(t, err)
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData([]byte(a.body))
	must(t, err)
	must(t, doc.Validate(loader.Context))
	doc.Servers = nil // any
	for _, schema := range doc.Components.Schemas {
		if s := schema.Value; len(s.Properties) > 0 {
			s.AdditionalProperties = openapi3.AdditionalProperties{Has: openapi3.Ptr(false)}
		}
	}
	c := &contract{operations: map[string]*openapi3.Operation{}, seen: map[string]bool{}}
	for _, item := range doc.Paths.Map() {
		for _, o := range item.Operations() {
			c.operations[o.OperationID] = o
		}
	}
	c.router, err = gorillamux.NewRouter(doc)
	must(t, err)
	return c
}

// request is a request of an operation.
type request struct {
	who, method, path, body string
	header                  []string
}

// with returns the request with more headers.
func (r request) with(header ...string) request {
	r.header = append(slices.Clone(r.header), header...)
	return r
}

func (r request) as(who string) request {
	r.who = who
	return r
}

func (r request) String() string { return r.method + " " + r.path }

// send sends a request and fails the test unless the document describes the response:
// its status, headers, media type and body, and the request if it was successful.
func (c *contract) send(t *testing.T, p *process, r request) answer {
	t.Helper()
	return c.sendBy(t, client, p.url(), r)
}

func (c *contract) sendBy(t *testing.T, client *http.Client, url string, r request) answer {
	t.Helper()
	a, err := callBy(client, r.who, r.method, url+r.path, r.body, r.header...)
	if err == nil {
		err = c.check(r, a)
	}
	if err != nil {
		t.Errorf("%v as %.8s: got %v, which the document does not describe: %v", r, r.who, a, err)
	}
	return a
}

// common are the headers that any response may have.
var common = []string{
	"Cache-Control", "Connection", "Content-Length", "Content-Security-Policy", "Content-Type", "Date",
	"Accept-Ranges", "Vary", "X-Content-Type-Options",
}

func (c *contract) check(r request, a answer) error {
	req, err := http.NewRequest(r.method, r.path, strings.NewReader(r.body))
	if err != nil {
		return err
	}
	for _, h := range r.header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	if r.body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	route, parameters, err := c.router.FindRoute(req)
	if err != nil {
		return err
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true,
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}
	in := &openapi3filter.RequestValidationInput{Request: req, PathParams: parameters, Route: route, Options: options}
	if a.status < 300 {
		if err := openapi3filter.ValidateRequest(req.Context(), in); err != nil {
			return fmt.Errorf("the request: %w", err)
		}
	}
	code := strconv.Itoa(a.status)
	documented := route.Operation.Responses.Value(code)
	if documented == nil {
		code, documented = "default", route.Operation.Responses.Default()
	}
	if documented == nil {
		return errors.New("the status is not documented")
	}
	for name := range a.header {
		_, named := documented.Value.Headers[name]
		if name == "Etag" {
			_, named = documented.Value.Headers["ETag"]
		}
		if name == "Www-Authenticate" {
			_, named = documented.Value.Headers["WWW-Authenticate"]
		}
		if !named && !slices.Contains(common, name) {
			return fmt.Errorf("the header %s is not documented", name)
		}
	}
	if len(documented.Value.Content) == 0 && a.body != "" {
		return errors.New("there should be no body")
	}
	c.mu.Lock()
	c.seen[route.Operation.OperationID+" "+code] = true
	c.mu.Unlock()
	if documented.Value.Content["*/*"] != nil &&
		!strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") {
		return nil // the body of a target
	}
	return openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: a.status, Header: a.header,
		Body: io.NopCloser(bytes.NewReader([]byte(a.body))), Options: options,
	})
}

// documents reports whether the document has a status of an operation.
func (c *contract) documents(operation string, status int) bool {
	return c.operations[operation].Responses.Value(strconv.Itoa(status)) != nil
}

// wantAll fails the test unless each documented status of each operation was seen.
// exceptions has the reasons for others; an exception for a status that was seen, or is
// not documented, is an error too.
func (c *contract) wantAll(t *testing.T, exceptions map[string]string) {
	t.Helper()
	var missing []string
	for id, operation := range c.operations {
		for code := range operation.Responses.Map() {
			name := id + " " + code
			if !c.seen[name] && exceptions[name] == "" {
				missing = append(missing, name)
			}
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		t.Errorf("documented, but never seen:\n  %s", strings.Join(missing, "\n  "))
	}
	for _, name := range slices.Sorted(maps.Keys(exceptions)) {
		id, code, _ := strings.Cut(name, " ")
		if operation := c.operations[id]; c.seen[name] || operation == nil || operation.Responses.Value(code) == nil {
			t.Errorf("%s: excepted (%s), but seen or not documented", name, exceptions[name])
		}
	}
}

// probes are the paths of every program without authentication.
var probes = []string{"/", "/health", "/ready", "/version", "/metrics", "/openapi.json"}

const (
	registration = `{"hostname":"web-17","agent_id":"a1",` +
		`"agent_secret":"0123456789abcdefghijkl","metadata":{"rack":7}}`
	stale     = `If-Match: "1-aaaaaaaaaaaaaaaaaaaaaa-aaaaaaaaaaaaaaaaaaaaaa"`
	forwarded = "X-Forwarded-For: 198.51.100.7" // so that the limits of loopback do not apply
)

// samples are calls of each operation of the controller that succeed, or could,
// for the agent a1.
func samples(a1 string) map[string]request {
	return map[string]request{
		"registerAgent":    {agents, "POST", "/api/v1/register", registration, nil},
		"getConfig":        {a1, "GET", "/api/v1/config", "", nil},
		"publishConfig":    {admin, "POST", "/api/v1/config", `{"url":"http://target.example/","message":"why"}`, nil},
		"listConfigs":      {admin, "GET", "/api/v1/configs?limit=10&before=9", "", nil},
		"getConfigVersion": {admin, "GET", "/api/v1/configs/1", "", nil},
		"diffConfigs":      {admin, "GET", "/api/v1/configs/1/diff/2", "", nil},
		"rollbackConfig":   {admin, "POST", "/api/v1/configs/1/rollback", `{"message":"why"}`, nil},
		"getRollout":       {admin, "GET", "/api/v1/rollouts/1", "", nil},
		"getFreeze":        {admin, "GET", "/api/v1/freeze", "", nil},
		"freezePublishing": {admin, "PUT", "/api/v1/freeze", `{"reason":"sale","until":"2999-01-01T00:00:00Z"}`, nil},
		"liftFreeze":       {admin, "DELETE", "/api/v1/freeze", "", nil},
		"listAudit":        {admin, "GET", "/api/v1/audit", "", nil},
		"listAgents":       {admin, "GET", "/api/v1/agents", "", nil},
		"summarizeAgents":  {admin, "GET", "/api/v1/agents/summary", "", nil},
		"resumeFleet":      {admin, "POST", "/api/v1/agents/resume", "", nil},
		"getAgent":         {admin, "GET", "/api/v1/agents/a1", "", nil},
		"retryAgent":       {admin, "POST", "/api/v1/agents/a1/retry", "", nil},
		"resetAgent":       {admin, "POST", "/api/v1/agents/a1/reset", "", nil},
		"reportAttempt":    {a1, "POST", "/api/v1/agents/a1/status", `{"version":1,"status":"APPLIED"}`, nil},
		"deleteAgent":      {admin, "DELETE", "/api/v1/agents/a1", "", nil}, // the last: it deletes a1
	}
}

// register registers a1 and returns its credentials.
func (c *contract) register(t *testing.T, p *process) string {
	t.Helper()
	a := c.send(t, p, samples("")["registerAgent"])
	_, rest, _ := strings.Cut(a.body, `"agent_token":"`)
	token, _, ok := strings.Cut(rest, `"`)
	if !ok {
		t.Fatalf("the registration: got %v, want a token", a)
	}
	return "a1:" + token
}

func TestOpenAPI_Controller_MatchesDocument(t *testing.T) {
	t.Parallel()
	controller := run(t, "controller", controllerIn(t.TempDir())...)
	c := newContract(t, controller)
	for id := range c.operations {
		if _, sampled := samples("")[id]; !sampled && c.operations[id].Security != nil &&
			len(*c.operations[id].Security) > 0 {
			t.Fatalf("the operation %s has no sample in this test", id)
		}
	}
	exceptions := map[string]string{
		"getMetrics 503": "takes concurrent slow scrapes: TestHandler_FifthConcurrentScrape_Rejected of pkg/metrics",
	}
	for id, operation := range c.operations {
		reads := samples("")[id].method == http.MethodGet
		if c.documents(id, http.StatusRequestTimeout) && operation.RequestBody != nil {
			exceptions[id+" 408"] = "takes 15 s: TestDecode_SlowBody_RequestTimeout of pkg/server"
		}
		if reads && c.documents(id, http.StatusServiceUnavailable) {
			exceptions[id+" 503"] = "takes an overloaded controller that stops: TestLimits_Draining_503 of package api"
		}
	}

	t.Run("one by one", func(t *testing.T) { c.callEach(t, controller) })
	t.Run("together", func(t *testing.T) {
		t.Run("limited", func(t *testing.T) { t.Parallel(); c.callLimited(t) })
		t.Run("without a certificate", func(t *testing.T) { t.Parallel(); c.callWithoutCertificate(t) })
		t.Run("locked", func(t *testing.T) {
			t.Parallel()
			controller, a1, path := c.newConflict(t, t.TempDir())
			lock(t, path)
			c.wantEach(t, controller, a1, http.StatusServiceUnavailable)
			if a := c.send(t, controller, request{method: "GET",
				path: "/ready"}); a.status != http.StatusServiceUnavailable {
				t.Errorf("/ready with a locked database: got %v, want 503", a)
			}
		})
		t.Run("full", func(t *testing.T) {
			t.Parallel()
			c.callOnFullDisk(t, exceptions)
		})
	})
	c.wantAll(t, exceptions)
}

// callEach calls every operation of a controller, for every status that a single client
// can cause.
func (c *contract) callEach(t *testing.T, controller *process) {
	want := func(status int, r request) answer {
		t.Helper()
		a := c.send(t, controller, r)
		if a.status != status {
			t.Errorf("%v as %.8s: got %v, want %d", r, r.who, a, status)
		}
		return a
	}
	for _, path := range probes {
		want(200, request{method: "GET", path: path})
	}
	want(200, request{method: "GET", path: "/", header: []string{"Accept: application/json"}})
	get := func(path string) request { return request{admin, "GET", path, "", nil} }
	post := func(path, body string) request { return request{admin, "POST", path, body, nil} }

	// Nothing was published yet.
	want(404, request{agents, "GET", "/api/v1/config", "", nil})
	want(200, get("/api/v1/agents/summary"))
	want(200, get("/api/v1/configs"))
	want(200, post("/api/v1/config?dry_run=true", `{"url":"http://target.example/"}`))
	a1 := c.register(t, controller)
	sample := samples(a1)
	want(200, sample["registerAgent"])
	want(409, request{agents, "POST", "/api/v1/register",
		`{"hostname":"web-17","agent_id":"a1","agent_secret":"another789abcdefghijkl"}`, nil})
	want(201, request{agents, "POST", "/api/v1/register", `{"hostname":"web-18","agent_id":"a2"}`, nil})
	a1 = c.register(t, controller)
	sample = samples(a1)
	want(200, get("/api/v1/agents/a1"))
	want(200, get("/api/v1/agents"))

	tag := want(200, sample["publishConfig"]).header.Get("ETag")
	want(200, sample["publishConfig"]) // without a change
	want(200, sample["getConfig"])
	want(304, sample["getConfig"].with("If-None-Match: "+tag))
	want(304, request{a1, "GET", "/api/v1/config?wait=10ms", "", []string{"If-None-Match: " + tag}})
	want(204, sample["reportAttempt"])
	want(200, get("/api/v1/rollouts/1"))
	want(408, get("/api/v1/rollouts/1?wait=0s&applied=1"))
	want(200, post("/api/v1/config?poll_interval=7&dry_run=true", `{"probe":true}`))
	want(200, post("/api/v1/config?poll_interval=7", `{"url":"http://other.example/","probe":false}`))
	want(204, request{a1, "POST", "/api/v1/agents/a1/status", `{"version":2,"status":"FAILED","error":"no"}`, nil})
	want(200, get("/api/v1/rollouts/1")) // superseded
	want(200, get("/api/v1/rollouts/2")) // with a failure and a straggler
	want(200, get("/api/v1/agents?limit=1&status=all"))
	want(200, get("/api/v1/agents?version=1&hostname=web*&transport=longpoll"))
	want(200, get("/api/v1/agents/summary"))
	for _, id := range []string{"listConfigs", "getConfigVersion", "diffConfigs", "rollbackConfig",
		"freezePublishing", "getFreeze", "listAudit", "retryAgent"} {
		if a := want(c.success(id), sample[id]); id == "diffConfigs" && strings.Count(a.body, `"field"`) < 2 {
			t.Errorf("the difference: got %v, want a URL and an interval", a)
		}
	}
	want(409, sample["publishConfig"])
	want(409, sample["rollbackConfig"])
	want(200, post("/api/v1/configs/1/rollback?dry_run=true&override=true", ""))
	want(200, post("/api/v1/configs/2/rollback?override=true", ""))
	want(200, get("/api/v1/configs")) // with restored_from
	want(200, sample["resumeFleet"])

	callInvalid(c, sample, want)
	want(404, get("/api/v1/agents/none"))
	want(404, get("/api/v1/configs/99"))
	want(404, get("/api/v1/configs/1/diff/99"))
	want(404, get("/api/v1/rollouts/99"))
	want(404, post("/api/v1/agents/none/retry", ""))
	want(404, post("/api/v1/agents/none/reset", ""))
	want(404, post("/api/v1/configs/99/rollback?override=true", ""))
	want(404, request{admin, "DELETE", "/api/v1/agents/none", "", nil})
	want(204, sample["liftFreeze"])
	want(200, sample["getFreeze"]) // none
	want(204, sample["resetAgent"])
	want(204, sample["deleteAgent"])
	want(401, sample["getConfig"]) // a1 was deleted
	want(200, get("/api/v1/audit?limit=1000"))
}

// success returns the lowest status of an operation.
func (c *contract) success(id string) int {
	code, _ := strconv.Atoi(slices.Min(slices.Collect(maps.Keys(c.operations[id].Responses.Map()))))
	return code
}

// callInvalid sends requests that every operation refuses.
func callInvalid(c *contract, sample map[string]request, want func(int, request) answer) {
	for id, r := range sample {
		body := c.operations[id].RequestBody != nil
		query := r.path + map[bool]string{true: "&", false: "?"}[strings.Contains(r.path, "?")]
		bad := r
		bad.path = query + "nonsense=1"
		if id == "getConfig" {
			bad.path = query + "wait=long"
		}
		want(400, bad)
		want(401, r.as(""))
		switch {
		case id == "getConfig": // allows all accounts; see callWithoutCertificate
		case r.who == admin:
			want(403, r.as(agents))
		default:
			want(403, r.as(admin))
		}
		if r.method != http.MethodGet {
			want(403, r.with("Origin: http://evil.example"))
		}
		if c.documents(id, http.StatusPreconditionFailed) {
			want(412, r.with(stale))
			want(400, r.with("If-Match: unquoted"))
		}
		if body {
			large := r
			large.body = `{"a":"` + strings.Repeat("x", 70_000) + `"}`
			want(413, large)
			want(415, r.with("Content-Type: text/plain"))
			malformed := r
			malformed.body = `{"unknown":null}`
			want(400, malformed)
		}
	}
}

// callLimited calls every operation above its rate limit.
func (c *contract) callLimited(t *testing.T) {
	controller := run(t, "controller", append(controllerIn(t.TempDir()), "LIMIT_REGISTER=1", "LIMIT_CONFIG=1",
		"LIMIT_STATUS=1", "LIMIT_ADMIN=1")...)
	a1 := c.register(t, controller)
	var calls sync.WaitGroup
	for id, r := range samples(a1) {
		if id == "deleteAgent" {
			r.path = "/api/v1/agents/none"
		}
		calls.Go(func() {
			if err := within(timeout, func() error {
				if a := c.send(t, controller, r.with(forwarded)); a.status != http.StatusTooManyRequests {
					return fmt.Errorf("%v: got %v, want 429", r, a)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
}

// callWithoutCertificate polls without a client certificate, which agents need.
func (c *contract) callWithoutCertificate(t *testing.T) {
	files := newDevCerts(t)
	controller := run(t, "controller", append(controllerIn(t.TempDir()), files.controller()...)...)
	https := &http.Client{Transport: &http.Transport{TLSClientConfig: files.trusted(t)}}
	defer https.CloseIdleConnections()
	if a := c.sendBy(t, https, "https://"+controller.addr,
		samples(agents)["getConfig"]); a.status != http.StatusForbidden {
		t.Errorf("a poll without a certificate: got %v, want 403", a)
	}
}

// newConflict runs a frozen controller whose database is older than the version of its
// agent a1.
func (c *contract) newConflict(t *testing.T, dir string) (controller *process, a1, path string) {
	t.Helper()
	controller = run(t, "controller", controllerIn(dir)...)
	path = filepath.Join(dir, "controller.db")
	a1 = c.register(t, controller)
	sample := samples(a1)
	c.send(t, controller, sample["publishConfig"])
	c.send(t, controller, sample["freezePublishing"])
	must(t, controller.stop())
	older := contents(path)
	must(t, controller.start())
	tag := c.send(t, controller, request{admin, "POST", "/api/v1/config?override=true",
		`{"url":"http://newer.example/"}`, nil}).header.Get("ETag")
	must(t, controller.stop())
	must(t, os.WriteFile(path, []byte(older), 0o600))
	must(t, controller.start())
	if a := c.send(t, controller, sample["getConfig"].with(
		"If-None-Match: "+tag)); a.status != http.StatusNotModified {
		t.Errorf("a poll with a version that the store does not have: got %v, want 304", a)
	}
	return controller, a1, path
}

// wantEach calls every operation with a documented status, while the database accepts
// no writes, and wants that status.
func (c *contract) wantEach(t *testing.T, controller *process, a1 string, status int) {
	t.Helper()
	sample := samples(a1)
	sample["reportAttempt"] = request{a1, "POST", "/api/v1/agents/a1/status",
		`{"version":1,"status":"FAILED","error":"no"}`, nil}
	sample["registerAgent"] = request{agents, "POST", "/api/v1/register", `{"hostname":"new"}`, nil}
	sample["publishConfig"] = request{admin, "POST", "/api/v1/config?override=true",
		`{"url":"http://third.example/"}`, nil}
	sample["rollbackConfig"] = request{admin, "POST", "/api/v1/configs/1/rollback?override=true", "", nil}
	var calls sync.WaitGroup
	for id, r := range sample {
		if r.method == http.MethodGet || !c.documents(id, status) {
			continue
		}
		calls.Go(func() {
			if a := c.send(t, controller, r); a.status != status {
				t.Errorf("%v: got %v, want %d", r, a, status)
			}
		})
	}
	calls.Wait()
}

// callOnFullDisk calls operations of a controller whose disk is full.
func (c *contract) callOnFullDisk(t *testing.T, exceptions map[string]string) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		for id := range c.operations {
			if c.documents(id, http.StatusInsufficientStorage) {
				exceptions[id+" 507"] = "this user cannot mount a small disk"
			}
		}
		return
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	controller, a1, _ := c.newConflict(t, dir)
	f, err := os.Create(filepath.Join(dir, "filler"))
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 512))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	c.wantEach(t, controller, a1, http.StatusInsufficientStorage)
}

func TestOpenAPI_Worker_MatchesDocument(t *testing.T) {
	t.Parallel()
	target := run(t, "target")
	worker := run(t, "worker", "HIT_TIMEOUT=200ms", "DENY_CIDRS=192.0.2.0/24")
	guarded := run(t, "worker", "WORKER_TOKEN=0123456789abcdefghijkl")
	c := newContract(t, worker)
	want := func(status int, p *process, method, path, body string, header ...string) answer {
		t.Helper()
		r := request{"", method, path, body, header}
		a := c.send(t, p, r)
		if a.status != status {
			t.Errorf("%v: got %v, want %d", r, a, status)
		}
		return a
	}
	push := func(url string) {
		t.Helper()
		want(200, worker, "POST", "/config", fmt.Sprintf(`{"url":%q,"version":3}`, url))
	}

	want(503, worker, "GET", "/hit", "")
	want(503, worker, "GET", "/ready", "")
	want(404, worker, "GET", "/config", "")
	push(target.url() + "/hello")
	for _, path := range probes {
		want(200, worker, "GET", path, "")
	}
	tag := want(200, worker, "GET", "/config", "").header.Get("ETag")
	want(304, worker, "GET", "/config", "", "If-None-Match: "+tag)

	want(200, worker, "GET", "/hit", "")
	want(400, worker, "GET", "/hit", "", "Connection: Upgrade", "Upgrade: web\x80socket")
	for _, status := range []int{404, 503} { // the target's
		push(fmt.Sprintf("%s/status/%d", target.url(), status))
		want(status, worker, "GET", "/hit", "")
	}
	push(target.url() + "/slow?for=1m")
	want(504, worker, "GET", "/hit", "")
	push(worker.url() + "/hit")
	want(508, worker, "GET", "/hit", "")
	must(t, target.crash())
	push(target.url() + "/hello")
	want(502, worker, "GET", "/hit", "")

	const good = `{"url":"http://target.example/"}`
	want(400, worker, "POST", "/config", `{"url":"no"}`)
	want(403, worker, "POST", "/config", good, forwarded)
	want(413, worker, "POST", "/config", `{"url":"`+strings.Repeat("x", 70_000)+`"}`)
	want(415, worker, "POST", "/config", good, "Content-Type: text/plain")
	want(422, worker, "POST", "/config", `{"url":"http://192.0.2.1/"}`)
	want(403, worker, "GET", "/config", "", forwarded)
	want(401, guarded, "GET", "/config", "")
	want(401, guarded, "POST", "/config", good)
	want(200, guarded, "POST", "/config", good, "Authorization: Bearer 0123456789abcdefghijkl")

	for _, r := range []request{
		{"", "POST", "/config", good, []string{"Authorization: Bearer wrong"}},
		{"", "GET", "/config", "", []string{"Authorization: Bearer wrong"}},
	} {
		eventually(t, func() error {
			if a := c.send(t, guarded, r); a.status != http.StatusTooManyRequests {
				return fmt.Errorf("%v: got %v, want 429", r, a)
			}
			return nil
		})
	}

	c.wantAll(t, map[string]string{
		"getMetrics 503": "takes concurrent slow scrapes: TestHandler_FifthConcurrentScrape_Rejected of pkg/metrics",
	})
}
