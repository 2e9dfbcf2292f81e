package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/worker/docs"
	"github.com/fleetconf/fleetconf/worker/internal/api"
	"github.com/fleetconf/fleetconf/worker/internal/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "wt-0123456789"

// newHandler is a worker as cmd builds it, for requests of any origin.
func newHandler(t *testing.T, token string, deny ...netip.Prefix) (http.Handler, *logtest.Hook) {
	t.Helper()
	log, logs := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	p := proxy.New(proxy.Options{Timeout: time.Minute, Deny: deny, Log: log})
	t.Cleanup(p.Close)
	return server.Wrap(api.New(api.Parts{Proxy: p, Token: token, Hosts: []string{"worker.example"}, Log: log}), log),
		logs
}

func newServer(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// push is a push as the agent sends it, which change then makes another of.
func push(body string, change func(*http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://localhost:8082/config", strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:40000"
	r.Header.Set("Content-Type", "application/json")
	if change != nil {
		change(r)
	}
	return r
}

func send(h http.Handler, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// get is a request of this machine.
func get(path string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://localhost:8082"+path, nil)
	r.RemoteAddr = "127.0.0.1:40000"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// wantProblem reads an error answer, which must be whole.
func wantProblem(t *testing.T, res *http.Response, status int) problem.Problem {
	t.Helper()
	var p problem.Problem
	body, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(body, &p); err != nil || res.Header.Get("Content-Type") != problem.ContentType {
		t.Errorf("got %s %q, want a problem document", res.Header.Get("Content-Type"), body)
	}
	if res.StatusCode != status || p.Status != status || p.Title != http.StatusText(status) || p.Detail == "" ||
		p.Type != "about:blank" {
		t.Errorf("got %s %+v, want a whole problem of status %d", res.Status, p, status)
	}
	return p
}

const good = `{"url":"https://example.com/","version":8}`

func TestPush_Accepted(t *testing.T) {
	h, logs := newHandler(t, "")
	for _, contentType := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON"} {
		res := send(h, push(good, func(r *http.Request) { r.Header.Set("Content-Type", contentType) }))
		body, _ := io.ReadAll(res.Body)
		if want := `{"message":"Configuration applied","version":8}` + "\n"; res.StatusCode != 200 ||
			string(body) != want {
			t.Errorf("%s: got %s %s, want %s", contentType, res.Status, body, want)
		}
	}
	var changes int
	for _, e := range logs.AllEntries() {
		if e.Level <= logrus.InfoLevel {
			changes++
		}
	}
	if changes != 1 {
		t.Errorf("got %d lines at info for one change pushed three times, want 1", changes)
	}
}

func TestPush_WithoutVersion(t *testing.T) {
	h, _ := newHandler(t, "")
	if res := send(h, push(`{"url":"https://example.com/"}`, nil)); res.StatusCode != 200 {
		t.Errorf("got %s, want 200: a push by hand needs no version", res.Status)
	}
}

// guarded are the requests to /config that may be answered, and those that may not.
func guarded() []guardedRequest {
	return []guardedRequest{
		{"from here", "", nil, 200},
		{"from here over IPv6", "", func(r *http.Request) { r.RemoteAddr, r.Host = "[::1]:40000", "[::1]:8082" }, 200},
		{"from here on a socket for both", "", func(r *http.Request) { r.RemoteAddr = "[::ffff:127.0.0.1]:40000" },
			200},
		{"Host is an address", "", func(r *http.Request) { r.Host = "127.0.0.1:8082" }, 200},
		{"Host is an IPv4-mapped address", "", func(r *http.Request) { r.Host = "[::ffff:127.0.0.1]:8082" }, 200},
		{"Host is another loopback address", "", func(r *http.Request) { r.Host = "127.8.8.8" }, 200},
		{"Host is an IPv6 address without a port", "", func(r *http.Request) { r.Host = "[::1]" }, 200},
		{"Host in capitals", "", func(r *http.Request) { r.Host = "LOCALHOST" }, 200},
		{"a page of this worker", "", headers("Sec-Fetch-Site", "same-origin", "Origin", "http://localhost:8082"), 200},
		{"a page of this worker, old browser", "", headers("Origin", "http://localhost:8082"), 200},

		{"from another machine", "", func(r *http.Request) { r.RemoteAddr = "192.0.2.1:40000" }, 403},
		{"from another machine over IPv6", "", func(r *http.Request) { r.RemoteAddr = "[2001:db8::1]:40000" }, 403},
		{"from another machine that says it is here", "", func(r *http.Request) {
			r.RemoteAddr = "192.0.2.1:40000"
			headers("X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1", "Forwarded", "for=127.0.0.1")(r)
		}, 403},
		{"from nowhere", "", func(r *http.Request) { r.RemoteAddr = "@" }, 403},
		{"a name made to resolve to here", "", func(r *http.Request) { r.Host = "rebound.example:8082" }, 403},
		{"a name that begins like here", "", func(r *http.Request) { r.Host = "localhost.evil.example" }, 403},
		{"a name that begins like an address", "", func(r *http.Request) { r.Host = "127.0.0.1.evil.example" }, 403},
		{"no Host", "", func(r *http.Request) { r.Host = "" }, 403},
		{"Host of nonsense", "", func(r *http.Request) { r.Host = "[" }, 403},
		{"a page of another site", "", headers("Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), 403},
		{"a page of another port", "", headers("Sec-Fetch-Site", "same-site", "Origin", "http://localhost:3000"), 403},
		{"a page of another site, old browser", "", headers("Origin", "https://evil.example"), 403},
		{"a sandboxed page, as a hit is", "", headers("Sec-Fetch-Site", "cross-site", "Origin", "null"), 403},
		{"a sandboxed page, old browser", "", headers("Origin", "null"), 403},
		{"a token where none is set", "", func(r *http.Request) {
			r.RemoteAddr = "192.0.2.1:40000"
			headers("Authorization", "Bearer ")(r)
		}, 403},

		{"token from here", token, headers("Authorization", "Bearer "+token), 200},
		{"scheme in small letters", token, headers("Authorization", "bearer "+token), 200},
		{"token from anywhere, by any name", token, func(r *http.Request) {
			r.RemoteAddr, r.Host = "192.0.2.1:40000", "worker.example"
			headers("Authorization", "Bearer "+token)(r)
		}, 200},
		{"from here without the token", token, nil, 401},
		{"another token", token, headers("Authorization", "Bearer "+token+"x"), 401},
		{"beginning of the token", token, headers("Authorization", "Bearer "+token[:5]), 401},
		{"no token", token, headers("Authorization", "Bearer "), 401},
		{"another scheme", token, headers("Authorization", "Basic d3Q6eA=="), 401},
		{"oversized", token, headers("Authorization", "Bearer "+strings.Repeat("x", 10<<10)), 401},
		{"two tokens", token, headers("Authorization", "Bearer "+token+", "+token), 401},

		{"by an allowed name", "", func(r *http.Request) { r.Host = "Worker.Example.:8082" }, 200},
		{"below an allowed name", "", func(r *http.Request) { r.Host = "evil.worker.example" }, 403},
		{"from another machine by an allowed name", "", func(r *http.Request) {
			r.RemoteAddr, r.Host = "192.0.2.1:40000", "worker.example"
		}, 403},
		{"through nginx with a bare proxy_pass", "", func(r *http.Request) {
			r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0
			r.Host = "127.0.0.1:8082"
			headers("Connection", "close")(r)
		}, 403},
		{"through a proxy, with the token", token, func(r *http.Request) {
			r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0
			headers("Authorization", "Bearer "+token, "X-Forwarded-For", "198.51.100.7")(r)
		}, 200},
	}
}

// toAddresses are requests from here to addresses that are not loopback: no DNS rebinds
// an address, but only a proxy's connection comes from here with such a Host.
func toAddresses(status int) []guardedRequest {
	return []guardedRequest{
		{"another address", "", func(r *http.Request) { r.Host = "192.0.2.1:8082" }, status},
		{"another IPv6 address", "", func(r *http.Request) { r.Host = "[2001:db8::1]:8082" }, status},
		{"another address through a proxy", "", func(r *http.Request) {
			r.Host = "192.0.2.1:8082"
			headers("X-Forwarded-For", "198.51.100.7")(r)
		}, 403},
		{"another address from another machine", "", func(r *http.Request) {
			r.RemoteAddr, r.Host = "192.0.2.7:40000", "192.0.2.1:8082"
		}, 403},
	}
}

type guardedRequest struct {
	name   string
	token  string
	change func(*http.Request)
	status int
}

// The URL that runs may hold a key in its query: GET /config is guarded as a push is,
// but for the addresses that it may be read by.
func TestState_Access(t *testing.T) {
	for _, tc := range append(guarded(), toAddresses(200)...) {
		t.Run(tc.name, func(t *testing.T) {
			h, _ := newHandler(t, tc.token)
			pushed := push(`{"url":"https://example.com/?key=canary"}`, headers("Authorization", "Bearer "+tc.token))
			if res := send(h, pushed); res.StatusCode != 200 {
				t.Fatalf("push: got %s", res.Status)
			}
			r := get("/config")
			if tc.change != nil {
				tc.change(r)
			}
			want := tc.status
			if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
				want = 200 // a page of another site may send it, but not read the answer
			}
			res := send(h, r)
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != want || strings.Contains(string(body), "canary") != (want == 200) {
				t.Errorf("got %s %s, want %d", res.Status, body, want)
			}
			if challenge := res.Header.Get("WWW-Authenticate"); strings.HasPrefix(challenge,
				"Bearer ") != (want == 401) {
				t.Errorf("got WWW-Authenticate %q with %d", challenge, want)
			}
		})
	}
}

func TestPush_Access(t *testing.T) {
	for _, tc := range append(guarded(), toAddresses(403)...) {
		t.Run(tc.name, func(t *testing.T) {
			h, _ := newHandler(t, tc.token)
			res := send(h, push(good, tc.change))
			if tc.status == 200 {
				if res.StatusCode != 200 {
					t.Errorf("got %s, want 200", res.Status)
				}
				return
			}
			wantProblem(t, res, tc.status)
			if challenge := res.Header.Get("WWW-Authenticate"); strings.HasPrefix(challenge,
				"Bearer ") != (tc.status == 401) {
				t.Errorf("got WWW-Authenticate %q with %d", challenge, tc.status)
			}
			if res := send(h, get("/config", "Authorization", "Bearer "+tc.token)); res.StatusCode != 404 {
				t.Errorf("GET /config after a refused push: got %s, want 404", res.Status)
			}
		})
	}
}

func headers(pairs ...string) func(*http.Request) {
	return func(r *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			r.Header.Set(pairs[i], pairs[i+1])
		}
	}
}

func TestPush_BadDocument(t *testing.T) {
	h, logs := newHandler(t, "")
	if res := send(h, push(good, nil)); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	url := func(u string) string { return `{"url":"` + u + `","version":9}` }
	for _, tc := range []struct {
		name, body string
		status     int
		fields     []string
	}{
		{"empty", "", 400, nil},
		{"no JSON", "url=http://a.example/", 400, nil},
		{"cut short", `{"url":"http://a.ex`, 400, nil},
		{"two documents", good + good, 400, nil},
		{"null", "null", 400, nil},
		{"array", "[]", 400, nil},
		{"unknown field", `{"url":"http://a.example/","urls":[]}`, 400, []string{"urls"}},
		{"field in other case", `{"URL":"http://a.example/"}`, 400, []string{"URL"}},
		{"a field twice", `{"url":"http://a.example/","url":"http://b.example/"}`, 400, []string{"url"}},
		{"url of another type", `{"url":1}`, 400, []string{"url"}},
		{"url null", `{"url":null}`, 400, []string{"url"}},
		{"version of another type", `{"url":"http://a.example/","version":"8"}`, 400, []string{"version"}},
		{"version fractional", `{"url":"http://a.example/","version":1.5}`, 400, []string{"version"}},
		{"version too large", `{"url":"http://a.example/","version":99999999999999999999}`, 400, []string{"version"}},
		{"version negative and no url", `{"version":-1}`, 400, []string{"url", "version"}},
		{"NUL", `{"url":"http://a.example/\u0000"}`, 400, []string{"url"}},
		{"invalid UTF-8", "{\"url\":\"http://a.example/\xff\"}", 400, nil},
		{"relative", url("/hit"), 400, []string{"url"}},
		{"no host", url("http:///x"), 400, []string{"url"}},
		{"another scheme", url("ftp://a.example/"), 400, []string{"url"}},
		{"a file", url("file:///etc/passwd"), 400, []string{"url"}},
		{"user name", url("http://user@a.example/"), 400, []string{"url"}},
		{"fragment", url("http://a.example/#top"), 400, []string{"url"}},
		{"too long", url("http://a.example/" + strings.Repeat("x", 2048)), 400, []string{"url"}},
		{"space", url("http://a.example/a b"), 400, []string{"url"}},
		{"unicode host", url("http://bücher.example/"), 400, []string{"url"}},
		{"too large", url("http://a.example/" + strings.Repeat("x", 64<<10)), 413, nil},
		{"deep", strings.Repeat("[", 60000), 400, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := wantProblem(t, send(h, push(tc.body, nil)), tc.status)
			var fields []string
			for _, e := range p.Errors {
				fields = append(fields, e.Field)
			}
			if tc.name == "invalid UTF-8" || tc.name == "deep" {
				return // which field is for the decoder to say
			}
			if diff := cmp.Diff(tc.fields, fields); diff != "" {
				t.Errorf("fields of %q (-want +got):\n%s", p.Detail, diff)
			}
		})
	}
	for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded",
		"multipart/form-data; boundary=x", "application/jsonp", ";"} {
		res := send(h, push(good, func(r *http.Request) { r.Header["Content-Type"] = []string{contentType} }))
		wantProblem(t, res, http.StatusUnsupportedMediaType)
	}
	body, _ := io.ReadAll(send(h, get("/config")).Body)
	if !strings.Contains(string(body), `"url":"https://example.com/","version":8`) {
		t.Errorf("after bad pushes: got %s, want the configuration of before", body)
	}
	for _, e := range logs.AllEntries() {
		if e.Level < logrus.InfoLevel {
			t.Errorf("a bad push was logged as ours: %s %v", e.Message, e.Data)
		}
	}
}

func TestState_NotConfigured(t *testing.T) {
	h, _ := newHandler(t, "")
	wantProblem(t, send(h, get("/config")), http.StatusNotFound)
}

func TestState_Conditional(t *testing.T) {
	h, _ := newHandler(t, "")
	send(h, push(good, nil))
	res := send(h, get("/config"))
	var state models.WorkerState
	if err := json.NewDecoder(res.Body).Decode(&state); err != nil {
		t.Fatal(err)
	}
	if state.Instance == "" || state != (models.WorkerState{URL: "https://example.com/", Version: 8,
		Instance: state.Instance}) {
		t.Errorf("got %+v, want what was pushed, and an instance", state)
	}
	tag := res.Header.Get("ETag")
	for _, tc := range []struct {
		name   string
		lines  []string
		status int
	}{
		{"held", []string{tag}, 304},
		{"in a list", []string{`"other", ` + tag}, 304},
		{"in a second line", []string{`"other"`, tag}, 304},
		{"weakened", []string{"W/" + tag}, 304},
		{"anything", []string{"*"}, 304},
		{"another", []string{`"other"`}, 200},
		{"unquoted", []string{strings.Trim(tag, `"`)}, 200},
		{"empty", []string{""}, 200},
		{"long", []string{`"` + strings.Repeat("x", 10<<10) + `"`}, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := get("/config")
			r.Header["If-None-Match"] = tc.lines
			res := send(h, r)
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != tc.status || res.Header.Get("ETag") != tag || (len(body) == 0) != (tc.status == 304) {
				t.Errorf("got %s %s %q, want %d with %s", res.Status, res.Header.Get("ETag"), body, tc.status, tag)
			}
		})
	}
	send(h, push(`{"url":"https://example.com/","version":9}`, nil))
	if res := send(h, get("/config", "If-None-Match", tag)); res.StatusCode != 200 {
		t.Errorf("after another push: got %s, want 200", res.Status)
	}
}

func TestPush_Refused_UnprocessableEntity(t *testing.T) {
	h, _ := newHandler(t, "", netip.MustParsePrefix("169.254.0.0/16"))
	send(h, push(`{"url":"http://127.0.0.1:1/","version":4}`, nil))
	for body, words := range map[string]string{
		`{"url":"http://169.254.169.254/latest/meta-data/?key=secret","version":5}`: "DENY_CIDRS",
		`{"url":"http://127.0.0.1:1/other?key=secret","version":5,"probe":true}`:    "cannot be reached",
	} {
		p := wantProblem(t, send(h, push(body, nil)), http.StatusUnprocessableEntity)
		if !strings.Contains(p.Detail, words) || strings.Contains(p.Detail, "secret") {
			t.Errorf("%s: got %q, want %q and no query", body, p.Detail, words)
		}
	}
	body, _ := io.ReadAll(send(h, get("/config")).Body)
	if !strings.Contains(string(body), `"version":4`) {
		t.Errorf("what runs: got %s, want what ran before", body)
	}
}

// The target was never asked: it is the caller's request that cannot be passed on.
func TestHit_InvalidUpgrade_BlamesTheCaller(t *testing.T) {
	asked := false
	target := newServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	h, _ := newHandler(t, "")
	send(h, push(`{"url":"`+target.URL+`"}`, nil))
	p := wantProblem(t, send(h, get("/hit", "Connection", "Upgrade", "Upgrade", "web\x80socket")),
		http.StatusBadRequest)
	if asked || strings.Contains(p.Detail, "target") || !strings.Contains(p.Detail, "request") {
		t.Errorf("asked the target: %v; got %q, want the request blamed", asked, p.Detail)
	}
	if res := send(h, get("/hit", "Connection", "Upgrade", "Upgrade", "websocket")); res.StatusCode != 200 {
		t.Errorf("an upgrade that is not taken: got %s, want 200", res.Status)
	}
}

func TestBodies_EndWithNewline(t *testing.T) {
	h, _ := newHandler(t, "")
	for _, r := range []*http.Request{
		get("/"), get("/hit"), get("/config"), get("/ready"), get("/health"), get("/version"), get("/openapi.json"),
		get("/nothing"), push("{}", nil), push(good, nil), get("/config"),
	} {
		res := send(h, r)
		if body, _ := io.ReadAll(res.Body); !strings.HasSuffix(string(body), "\n") {
			t.Errorf("%s %s: got %s %q, want a newline at the end", r.Method, r.URL.Path, res.Status, body)
		}
	}
}

func TestHit_FailureStatusCodes(t *testing.T) {
	h, _ := newHandler(t, "", netip.MustParsePrefix("169.254.0.0/16"))
	res := send(h, get("/hit"))
	wantProblem(t, res, http.StatusServiceUnavailable)
	if res.Header.Get("Retry-After") != "1" {
		t.Errorf("got Retry-After %q, want 1", res.Header.Get("Retry-After"))
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, tc := range []struct{ name, url, words string }{
		{"unreachable", closed.URL, "cannot be reached"},
	} {
		send(h, push(`{"url":"`+tc.url+`","version":4}`, nil))
		res := send(h, get("/hit"))
		if p := wantProblem(t, res, http.StatusBadGateway); !strings.Contains(p.Detail, tc.words) {
			t.Errorf("%s: got %q, want %q", tc.name, p.Detail, tc.words)
		}
		if res.Header.Get("X-Config-Version") != "4" {
			t.Errorf("%s: got version %q, want the one that failed", tc.name, res.Header.Get("X-Config-Version"))
		}
	}
	self := newServer(t, h)
	send(h, push(`{"url":"`+self.URL+`/hit"}`, nil))
	wantProblem(t, send(h, get("/hit")), http.StatusLoopDetected)
}

func TestHit_TooSlow(t *testing.T) {
	silent := newServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	log, _ := logtest.NewNullLogger()
	p := proxy.New(proxy.Options{Timeout: 50 * time.Millisecond, Log: log})
	h := server.Wrap(api.New(api.Parts{Proxy: p, Log: log}), log)
	send(h, push(`{"url":"`+silent.URL+`"}`, nil))
	wantProblem(t, send(h, get("/hit")), http.StatusGatewayTimeout)
}

func TestHit_WholeStack(t *testing.T) {
	more := make(chan struct{})
	finish := sync.OnceFunc(func() { close(more) })
	target := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		w.Header().Set("X-Content-Type-Options", "theirs")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, "<p>first")
		w.(http.Flusher).Flush()
		<-more
		fmt.Fprint(w, " second")
	}))
	t.Cleanup(finish) // before the target closes, whatever fails
	h, _ := newHandler(t, "")
	w := newServer(t, h)
	send(h, push(`{"url":"`+target.URL+`","version":3}`, nil))
	res, err := w.Client().Get(w.URL + "/hit")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 8)
	_, err = io.ReadFull(res.Body, first)
	finish()
	rest, err2 := io.ReadAll(res.Body)
	if string(first)+string(rest) != "<p>first second" || err != nil || err2 != nil || res.StatusCode != 202 {
		t.Errorf("got %s %q %q, want 202 and the body as it came", res.Status, first, rest)
	}
	for name, want := range map[string][]string{"Content-Type": nil, "X-Config-Version": {"3"},
		"X-Content-Type-Options": {"nosniff"}} {
		if diff := cmp.Diff(want, res.Header[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if ids := res.Header["X-Request-Id"]; len(ids) != 1 {
		t.Errorf("got request ids %q, want one", ids)
	}
}

func TestHit_ThousandAtOnce(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 10<<10)
	target := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }))
	h, _ := newHandler(t, "")
	w := newServer(t, h)
	send(h, push(`{"url":"`+target.URL+`"}`, nil))
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			res, err := w.Client().Get(w.URL + "/hit")
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, body) || res.StatusCode != 200 {
				t.Errorf("got %s, %d bytes, %v", res.Status, len(got), err)
			}
		})
	}
	all.Wait()
}

func TestRoutes_Unknown(t *testing.T) {
	h, _ := newHandler(t, "")
	for _, path := range []string{"/hit/", "/Hit", "/config/1", "/api/v1/config", "/../hit", "//hit", "/%ff",
		"/hit%00"} {
		r := get("/")
		r.URL.Path = path
		wantProblem(t, send(h, r), http.StatusNotFound)
	}
	wantProblem(t, send(h, get("/swagger/../api.go")), http.StatusNotFound)
	wantProblem(t, send(h, get("/swagger/nothing.js")), http.StatusNotFound)
	wantProblem(t, send(h, get("/swagger/.")), http.StatusNotFound)
}

// Requests through a proxy on this machine do not count as local.
func TestPush_LocalReverseProxy_Rejected(t *testing.T) {
	h, _ := newHandler(t, "")
	for _, name := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP",
		"X-Envoy-External-Address"} {
		wantProblem(t, send(h, push(good, headers(name, "198.51.100.7"))), http.StatusForbidden)
	}
}

// The access rule of each route.
func TestRoutes_Access(t *testing.T) {
	const anyone, guarded = false, true
	rules := map[string]bool{
		"GET /": anyone, "GET /hit": anyone, "GET /health": anyone, "GET /ready": anyone, "GET /metrics": anyone,
		"GET /version": anyone, "GET /openapi.json": anyone, "GET /swagger": anyone, "GET /swagger/*file": anyone,
		"GET /config": guarded, "POST /config": guarded,
	}
	log, _ := logtest.NewNullLogger()
	tested := map[string]bool{}
	for _, route := range api.New(api.Parts{Log: log}).(*gin.Engine).Routes() {
		name := strings.Replace(route.Method, http.MethodHead, http.MethodGet, 1) + " " + route.Path
		rule, known := rules[name]
		if !known {
			t.Errorf("%s is not in the table of access rules", name)
			continue
		}
		tested[name] = true
		for token, refusal := range map[string]int{"": http.StatusForbidden, token: http.StatusUnauthorized} {
			h, _ := newHandler(t, token)
			r := push(good, nil)
			r.Method, r.URL.Path = route.Method, strings.Replace(route.Path, "*file", "index.html", 1)
			r.RemoteAddr = "192.0.2.1:40000"
			got := send(h, r).StatusCode
			if refused := got == 401 || got == 403; refused != rule || refused && got != refusal {
				t.Errorf("%s %s from elsewhere, WORKER_TOKEN=%q: got %d", route.Method, route.Path, token, got)
			}
		}
	}
	for name := range rules {
		if !tested[name] {
			t.Errorf("%s is not a route", name)
		}
	}
}

// A route whose access rule was forgotten is closed, not open.
func TestRoutes_NoAccessRule_Forbidden(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	for _, token := range []string{"", token} {
		h := server.Wrap(api.NewWithoutRule(api.Parts{Token: token, Log: log}), log)
		wantProblem(t, send(h, get("/unset", "Authorization", "Bearer "+token)), http.StatusForbidden)
	}
}

func TestRoutes_OtherMethods(t *testing.T) {
	h, _ := newHandler(t, "")
	for _, tc := range []struct{ method, path, allow string }{
		{"POST", "/hit", "GET"}, {"OPTIONS", "/hit", "GET"}, {"BREW", "/hit", "GET"}, {"CONNECT", "/hit", "GET"},
		{"PUT", "/config", "GET, POST"}, {"DELETE", "/config", "GET, POST"}, {"PATCH", "/config", "GET, POST"},
		{"POST", "/health", "GET"}, {"POST", "/ready", "GET"}, {"POST", "/version", "GET"},
		{"POST", "/swagger/index.html", "GET"},
	} {
		res := send(h, httptest.NewRequest(tc.method, tc.path, nil))
		wantProblem(t, res, http.StatusMethodNotAllowed)
		for _, method := range strings.Split(tc.allow, ", ") {
			if got := res.Header.Get("Allow"); !strings.Contains(got, method) || !strings.Contains(got, "HEAD") {
				t.Errorf("%s %s: got Allow %q, want %q and HEAD", tc.method, tc.path, got, tc.allow)
			}
		}
	}
}

func TestProcessRoutes(t *testing.T) {
	h, _ := newHandler(t, token) // these need no token
	if res := send(h, get("/health")); res.StatusCode != 200 {
		t.Errorf("/health: got %s, want 200", res.Status)
	}
	if p := wantProblem(t, send(h, get("/ready")), http.StatusServiceUnavailable); len(p.Errors) != 1 {
		t.Errorf("/ready before a push: got %+v, want its reason", p)
	}
	send(h, push(good, headers("Authorization", "Bearer "+token)))
	if res := send(h, get("/ready")); res.StatusCode != 200 {
		t.Errorf("/ready after a push: got %s, want 200", res.Status)
	}
	var info struct{ Version, Commit, Date, Go string }
	if err := json.NewDecoder(send(h, get("/version")).Body).Decode(&info); err != nil || info.Version == "" ||
		info.Go == "" {
		t.Errorf("/version: got %+v %v, want the build", info, err)
	}
}

func TestSwagger_Pages(t *testing.T) {
	h, _ := newHandler(t, "")
	for path, want := range map[string]struct{ contentType, words string }{
		"/swagger/index.html":             {"text/html; charset=utf-8", "swagger-ui-bundle.js"},
		"/swagger/swagger-initializer.js": {"text/javascript; charset=utf-8", `"../openapi.json"`},
		"/swagger/swagger-ui.css":         {"text/css; charset=utf-8", ".swagger-ui"},
		"/swagger/swagger-ui-bundle.js":   {"text/javascript; charset=utf-8", "SwaggerUIBundle"},
		"/swagger/doc.json":               {"application/json", `"openapi": "3.0.3"`},
		"/openapi.json":                   {"application/json", `"openapi": "3.0.3"`},
	} {
		res := send(h, get(path))
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != want.contentType ||
			!strings.Contains(string(body), want.words) {
			t.Errorf("%s: got %s %s, %d bytes; want %s with %s", path, res.Status, res.Header.Get("Content-Type"),
				len(body), want.contentType, want.words)
		}
		if got := res.Header.Get("Content-Security-Policy"); path != "/openapi.json" &&
			got != "frame-ancestors 'none'" {
			t.Errorf("%s: got Content-Security-Policy %q, want it in no other site's frame", path, got)
		}
	}
	for path, location := range map[string]string{"/swagger": "swagger/index.html", "/swagger/": "index.html"} {
		if res := send(h, get(path)); res.StatusCode != 302 || res.Header.Get("Location") != location {
			t.Errorf("%s: got %s with the location %q, want 302 to %s", path, res.Status, res.Header.Get("Location"),
				location)
		}
	}
}

// The API document has every route, and no other.
func TestOpenAPI_ListsEveryRoute(t *testing.T) {
	var doc struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal([]byte(docs.OpenAPI), &doc); err != nil {
		t.Fatal(err)
	}
	got, want := map[string]bool{}, map[string]bool{}
	for path, methods := range doc.Paths {
		for method := range methods {
			got[strings.ToUpper(method)+" "+path] = true
		}
	}
	log, _ := logtest.NewNullLogger()
	for _, r := range api.New(api.Parts{Log: log}).(*gin.Engine).Routes() {
		// HEAD is as GET; pages are for a browser
		if r.Method != http.MethodHead && !strings.HasPrefix(r.Path, "/swagger") {
			want[r.Method+" "+r.Path] = true
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes in the API document, -want +got:\n%s", diff)
	}
}

// Wrong tokens are limited for each source, on every route that takes one.
func TestToken_Guesses_Limited(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		synctest.Test(t, func(t *testing.T) {
			h, _ := newHandler(t, token)
			ask := func(remote, presented string) *http.Response {
				r := push(`{"url":"http://target.example/"}`, nil)
				r.Method, r.RemoteAddr = method, remote
				r.Header.Set("Authorization", "Bearer "+presented)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Result()
			}
			const known, guesser = "192.0.2.1:40000", "198.51.100.7:40000"
			passes := func(resp *http.Response) bool { return resp.StatusCode == 200 || resp.StatusCode == 404 }
			if !passes(ask(known, token)) {
				t.Fatal("the token is not accepted")
			}
			for range 20 {
				for _, remote := range []string{known, guesser} {
					if got := ask(remote, "guess").StatusCode; got != 401 {
						t.Fatalf("%s: got %d, want 401", method, got)
					}
				}
			}
			seen := map[string]bool{} // when to come back
			for i := range 100 {
				presented := []string{"guess", token}[i%2]
				resp := ask(guesser, presented)
				seen[resp.Header.Get("Retry-After")] = true
				if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode != 429 || err != nil ||
					after < 1 || after > 60 {
					t.Errorf("%s with %q: got %d and Retry-After %q, want 429 and up to a minute", method, presented,
						resp.StatusCode, resp.Header.Get("Retry-After"))
				}
			}
			if len(seen) < 20 {
				t.Errorf("%s: got Retry-After %v, want nearly every second of a minute", method, seen)
			}
			if !passes(ask(known, token)) || !passes(ask("203.0.113.7:40000", token)) {
				t.Errorf("%s: the token is not accepted where it was before, and elsewhere", method)
			}
			time.Sleep(time.Minute)
			if !passes(ask(guesser, token)) {
				t.Errorf("%s: a minute later the token is not accepted", method)
			}
		})
	}
}
