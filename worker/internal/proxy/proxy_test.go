package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/requestid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// worker is a Proxy behind a real server. A failed hit is answered 599, and
// its error is in failed.
type worker struct {
	*Proxy
	*httptest.Server
	plain  *http.Client // shows an answer as it was sent
	logs   *logtest.Hook
	failed chan error // of the hits that failed; tests that fail none read none
}

func newWorker(t testing.TB, change ...func(*Options)) *worker {
	t.Helper()
	log, logs := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	o := Options{Timeout: 10 * time.Second, Log: log}
	for _, f := range change {
		f(&o)
	}
	w := &worker{Proxy: New(o), logs: logs, failed: make(chan error, 100)}
	w.Server = serve(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Request-Id", "ours")
		if err := w.Hit(rw, r); err != nil {
			w.failed <- err
			rw.WriteHeader(599)
		}
	})
	t.Cleanup(w.Proxy.Close)
	w.plain = w.Client()
	w.plain.Transport.(*http.Transport).DisableCompression = true
	w.plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return w
}

func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func (w *worker) apply(t testing.TB, target string, version int64) {
	t.Helper()
	if _, err := w.Apply(requestid.With(t.Context(), "req-1"),
		models.WorkerConfig{URL: target, Version: version}); err != nil {
		t.Fatalf("Apply(%s): %v", target, err)
	}
}

// hit answers with the response, its body read whole, and the error of reading it.
func (w *worker) hit(t testing.TB, headers ...string) (res *http.Response, body string, broken error) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, w.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err = w.plain.Do(req)
	if err != nil {
		t.Fatalf("GET /hit: %v", err)
	}
	defer res.Body.Close()
	b, broken := io.ReadAll(res.Body)
	return res, string(b), broken
}

func (w *worker) wantFailure(t *testing.T, kind error, errorText string) {
	t.Helper()
	res, body, _ := w.hit(t)
	if res.StatusCode != 599 || body != "" {
		t.Fatalf("got %s %q, want a failed hit", res.Status, body)
	}
	if err := <-w.failed; !errors.Is(err, kind) || !strings.Contains(err.Error(), errorText) {
		t.Errorf("got %q, want %q with %q", err, kind, errorText)
	}
}

func TestHit_NotConfigured(t *testing.T) {
	newWorker(t).wantFailure(t, ErrNotConfigured, "")
}

func TestHit_PassesTheResponseOn(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for name, value := range map[string]string{
			"Date": "Tue, 24 Nov 2026 02:00:00 GMT", "Content-Type": "text/x-tea; charset=latin1", "Etag": `"tea"`,
			"Cache-Control":           "max-age=60",
			"Content-Security-Policy": "default-src 'none'", "Server": "pot",
			"X-Config-Version": "99", "X-Request-Id": "theirs",
			"Connection": "x-hop, Keep-Alive", "X-Hop": "1", "Keep-Alive": "timeout=5", "Proxy-Authenticate": "Basic",
			"Proxy-Connection": "close", "Upgrade": "h2c", "Te": "trailers",
		} {
			h.Set(name, value)
		}
		h["Link"] = []string{"<a>; rel=a", "<b>; rel=b"}
		h["Set-Cookie"] = []string{"a=1", "b=2"}
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, r.Method, " ", r.URL)
	})
	w := newWorker(t)
	w.apply(t, target.URL+"/a%2Fb/?q=1&r;s", 7)

	res, body, err := w.hit(t)
	if err != nil || res.StatusCode != http.StatusTeapot || body != "GET /a%2Fb/?q=1&r;s" {
		t.Errorf("got %s %q %v, want 418 and the target's body, fetched as configured", res.Status, body, err)
	}
	want := http.Header{
		"Date": {"Tue, 24 Nov 2026 02:00:00 GMT"}, "Content-Type": {"text/x-tea; charset=latin1"}, "Etag": {`"tea"`},
		"Cache-Control":           {"max-age=60"},
		"Content-Security-Policy": {"default-src 'none'", sandbox}, "Server": {"pot"},
		"Link": {"<a>; rel=a", "<b>; rel=b"}, "Set-Cookie": {"a=1", "b=2"}, "Content-Length": {"19"},
		"X-Config-Version": {"7"}, "X-Request-Id": {"ours"},
	}
	if diff := cmp.Diff(want, res.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestHit_NoContentType(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		fmt.Fprint(w, "<html>not to be guessed at")
	})
	w := newWorker(t)
	w.apply(t, target.URL, 1)
	res, body, _ := w.hit(t)
	if got, ok := res.Header["Content-Type"]; ok || body == "" {
		t.Errorf("got Content-Type %q, want none", got)
	}
}

func TestHit_CompressedStaysCompressed(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		fmt.Fprint(w, "opaque, asked for with "+r.Header.Get("Accept-Encoding"))
	})
	w := newWorker(t)
	w.apply(t, target.URL, 1)
	res, body, err := w.hit(t)
	if err != nil || body != "opaque, asked for with " || res.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("got %q %v, Content-Encoding %q, want the target's bytes", body, err,
			res.Header.Get("Content-Encoding"))
	}
}

func TestHit_Trailers(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "body")
		w.Header().Set("X-Sum", "42")
	})
	w := newWorker(t)
	w.apply(t, target.URL, 1)
	if res, body, err := w.hit(t); err != nil || body != "body" || res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("got %q %v with trailers %v, want X-Sum: 42 behind the body", body, err, res.Trailer)
	}
}

func TestHit_InterimAnswer(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "<style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "body")
	})
	w := newWorker(t)
	w.apply(t, target.URL, 5)
	if res, body, _ := w.hit(t); res.StatusCode != 200 || body != "body" || res.Header.Get("X-Config-Version") != "5" ||
		res.Header.Get("X-Request-Id") != "ours" {
		t.Errorf("got %s %q %v, want the final answer with our headers", res.Status, body, res.Header)
	}
}

func TestHit_ForwardsContentNegotiationOnly(t *testing.T) {
	seen := make(chan *http.Request, 2)
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Header.Set("Body", string(body))
		seen <- r
		if r.URL.Path == "/" {
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
			http.Redirect(w, r, "/next", http.StatusTemporaryRedirect)
		}
	})
	w := newWorker(t)
	w.apply(t, target.URL, 1)

	req, _ := http.NewRequest(http.MethodGet, w.URL+"?caller=1", strings.NewReader("a body"))
	req.Host = "caller.example"
	req.Header = http.Header{
		"Accept": {"text/html", "text/plain"}, "Accept-Language": {"de"}, "Range": {"bytes=0-1"}, "If-Range": {`"x"`},
		"If-None-Match": {`"x"`}, "If-Modified-Since": {"Tue, 24 Nov 2026 02:00:00 GMT"}, "User-Agent": {"caller/1"},
		"Via":    {"1.0 edge"},
		"Cookie": {"session=secret"}, "Authorization": {"Basic c2VjcmV0"}, "Proxy-Authorization": {"Basic c2VjcmV0"},
		"Referer": {"https://caller.example/secret"}, "Origin": {"https://caller.example"},
		"X-Forwarded-For": {"192.0.2.1"}, "Forwarded": {"for=192.0.2.1"},
		"X-Api-Key": {"secret"}, "Accept-Encoding": {"br"}, "Connection": {"X-Api-Key, upgrade"},
		"Upgrade": {"websocket"}, "Te": {"trailers"}, "X-Request-Id": {"abc"},
	}
	res, err := w.plain.Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("got %v %v, want 200", res, err)
	}
	res.Body.Close()

	want := http.Header{
		"Accept": {"text/html", "text/plain"}, "Accept-Language": {"de"}, "Range": {"bytes=0-1"}, "If-Range": {`"x"`},
		"If-None-Match": {`"x"`}, "If-Modified-Since": {"Tue, 24 Nov 2026 02:00:00 GMT"}, "User-Agent": {"caller/1"},
		"Via": {"1.0 edge", "1.1 fleetconf-" + w.instance}, "X-Request-Id": {"abc"}, "Body": {""},
	}
	for range 2 { // the request and the one that follows the redirect
		r := <-seen
		if diff := cmp.Diff(want, r.Header); diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", r.URL, diff)
		}
		if r.Host != strings.TrimPrefix(target.URL, "http://") || r.URL.RawQuery != "" {
			t.Errorf("got %s from host %s, want the configured URL", r.URL, r.Host)
		}
	}
}

func TestHit_ConnectionHeaders_NotForwarded(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, len(r.Header["Accept"])) })
	w := newWorker(t)
	w.apply(t, target.URL, 1)
	if _, body, _ := w.hit(t, "Accept", "text/html", "Connection", "Accept"); body != "0" {
		t.Error("a header that the caller's Connection names went along")
	}
}

func TestHit_NoUserAgent(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/next", http.StatusFound)
			return
		}
		fmt.Fprintf(w, "%q", r.Header["User-Agent"])
	})
	w := newWorker(t)
	w.apply(t, target.URL, 1)
	if _, body, _ := w.hit(t, "User-Agent", ""); body != "[]" {
		t.Errorf("got User-Agent %s, want none of ours", body)
	}
}

func TestHit_RangesAndConditions(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"v1"`)
		http.ServeContent(w, r, "a.txt", time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), strings.NewReader("0123456789"))
	})
	w := newWorker(t)
	w.apply(t, target.URL, 1)
	for _, tc := range []struct {
		name    string
		headers []string
		status  int
		body    string
		header  string
		value   string
	}{
		{"whole", nil, 200, "0123456789", "Content-Length", "10"},
		{"range", []string{"Range", "bytes=2-4"}, 206, "234", "Content-Range", "bytes 2-4/10"},
		{"range of this version", []string{"Range", "bytes=2-4", "If-Range", `"v1"`}, 206, "234", "Content-Range",
			"bytes 2-4/10"},
		{"range of another version", []string{"Range", "bytes=2-4", "If-Range", `"v0"`}, 200, "0123456789", "Etag",
			`"v1"`},
		{"range beyond the end", []string{"Range", "bytes=20-"}, 416, "invalid range: failed to overlap\n",
			"Content-Range", "bytes */10"},
		{"held already", []string{"If-None-Match", `"v1"`}, 304, "", "Etag", `"v1"`},
		{"not modified since", []string{"If-Modified-Since", "Tue, 24 Nov 2026 02:00:00 GMT"}, 304, "", "Etag", `"v1"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, body, err := w.hit(t, tc.headers...)
			if err != nil || res.StatusCode != tc.status || body != tc.body || res.Header.Get(tc.header) != tc.value {
				t.Errorf("got %s %q %v, %s: %q; want %d %q, %q", res.Status, body, err, tc.header,
					res.Header.Get(tc.header), tc.status, tc.body, tc.value)
			}
		})
	}
}

func TestHit_Redirects(t *testing.T) {
	// /n redirects n times, to /n-1 and at last to /0; ?to=x redirects to x.
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
			return
		}
		switch n, _ := strconv.Atoi(r.URL.Path[1:]); {
		case r.URL.Path == "/nowhere":
			w.WriteHeader(http.StatusFound)
		case r.URL.Path == "/itself":
			http.Redirect(w, r, "/itself", http.StatusFound)
		case n > 0:
			http.Redirect(w, r, strconv.Itoa(n-1), []int{301, 302, 303, 307, 308}[n%5])
		default:
			fmt.Fprintf(w, "end, Referer %q, Cookie %q", r.Header["Referer"], r.Header["Cookie"])
		}
	})
	w := newWorker(t)
	for path, want := range map[string]string{"/10": `end, Referer [], Cookie []`, "/nowhere": ""} {
		w.apply(t, target.URL+path, 1)
		if res, body, err := w.hit(t); err != nil || body != want {
			t.Errorf("%s: got %s %q %v, want %q", path, res.Status, body, err, want)
		}
	}
	for _, tc := range []struct {
		name, path string
		kind       error
		errorText  string
	}{
		{"eleven", "/11", ErrForbidden, "more than 10 times"},
		{"to itself", "/itself", ErrForbidden, "more than 10 times"},
		{"to a file", "/?to=file:///etc/passwd", ErrForbidden, `the scheme "file"`},
		{"to FTP", "/?to=ftp://127.0.0.1/", ErrForbidden, `the scheme "ftp"`},
		{"with a password", "/?to=http://user:secret@" + target.Listener.Addr().String() + "/0", ErrForbidden,
			"a user name"},
		{"with no host", "/?to=http:///0", ErrForbidden, "no host"},
		{"to no URL", "/?to=http://[::1", ErrForbidden, "to what is no URL"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.apply(t, target.URL+tc.path, 1)
			w.wantFailure(t, tc.kind, tc.errorText)
		})
	}
}

func denying(networks ...string) func(*Options) {
	return func(o *Options) {
		for _, n := range networks {
			o.Deny = append(o.Deny, netip.MustParsePrefix(n))
		}
	}
}

// run makes a worker run what it would refuse now.
func (w *worker) run(t *testing.T, url string) {
	t.Helper()
	next, err := w.prepare(models.WorkerConfig{URL: url, Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	w.running.Store(next)
}

func TestHit_DeniedTarget(t *testing.T) {
	reached := make(chan string, 10)
	target := serve(t, func(_ http.ResponseWriter, r *http.Request) { reached <- r.Host })
	_, port, _ := net.SplitHostPort(target.Listener.Addr().String())
	w := newWorker(t, denying("127.0.0.0/8", "::1/128", "169.254.0.0/16"))
	for _, tc := range []struct{ name, host string }{
		{"by its address", "127.0.0.1"},
		{"by a name that resolves to it", "localhost"},
		{"by another address of the same network", "127.1.2.3"},
		{"by the unspecified address", "0.0.0.0"},
		{"by the unspecified IPv6 address", "[::]"},
		{"by an IPv4-mapped address", "[::ffff:127.0.0.1]"},
		{"cloud metadata", "169.254.169.254"},
		{"cloud metadata through NAT64", "[64:ff9b::a9fe:a9fe]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := w.Apply(t.Context(), models.WorkerConfig{URL: "http://" + tc.host + ":" + port, Version: 1})
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "DENY_CIDRS") {
				t.Errorf("the push: got %v, want it refused", err)
			}
			w.run(t, "http://"+tc.host+":"+port) // as if its name had meant something else then
			w.wantFailure(t, ErrForbidden, "DENY_CIDRS")
		})
	}
	if len(reached) > 0 {
		t.Errorf("a denied target was reached as %s", <-reached)
	}
}

// rebinding makes the name rebound.test resolve to each of the addresses in
// turn, and then to the last.
func rebinding(t *testing.T, addresses ...[4]byte) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil {
				t.Error(err)
				return
			}
			m.Response, m.Additionals = true, nil
			if m.Questions[0].Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
					Body:   &dnsmessage.AResource{A: addresses[0]},
				}}
				addresses = addresses[min(1, len(addresses)-1):]
			}
			answer, err := m.Pack()
			if err != nil {
				t.Error(err)
				return
			}
			conn.WriteTo(answer, from)
		}
	})
	last := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() { net.DefaultResolver = last; conn.Close(); done.Wait() })
}

func TestHit_DNSRebinding_Denied(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "allowed") })
	target.Config.SetKeepAlivesEnabled(false) // each hit opens a connection
	_, port, _ := net.SplitHostPort(target.Listener.Addr().String())
	// for the push, for a hit, and from then on
	rebinding(t, [4]byte{127, 0, 0, 1}, [4]byte{127, 0, 0, 1}, [4]byte{169, 254, 169, 254})
	w := newWorker(t, denying("169.254.0.0/16"))
	w.apply(t, "http://rebound.test.:"+port+"/", 1)
	if res, body, _ := w.hit(t); body != "allowed" {
		t.Fatalf("while the name is harmless: got %s %q, want the target's answer", res.Status, body)
	}
	w.wantFailure(t, ErrForbidden, "169.254.169.254 is in 169.254.0.0/16")
}

func TestHit_RedirectToDeniedTarget(t *testing.T) {
	reached := make(chan string, 10)
	ln, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skipf("this system has one loopback address only: %v", err)
	}
	inner := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter,
		r *http.Request) {
		reached <- r.Host
	}))
	inner.Listener.Close()
	inner.Listener = ln
	inner.Start()
	t.Cleanup(inner.Close)
	outer := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, inner.URL, http.StatusFound) })

	allowed := newWorker(t)
	allowed.apply(t, outer.URL, 1)
	if res, _, _ := allowed.hit(t); res.StatusCode != 200 || len(reached) != 1 {
		t.Fatalf("got %s, want the redirect followed where nothing is denied", res.Status)
	}
	<-reached
	w := newWorker(t, denying("127.0.0.2/32"))
	w.apply(t, outer.URL, 1)
	w.wantFailure(t, ErrForbidden, "127.0.0.2 is in 127.0.0.2/32")
	if len(reached) > 0 {
		t.Error("the denied target was reached")
	}
}

func TestHit_ProxyInEnvironment_Ignored(t *testing.T) {
	if New(Options{}).transport.Proxy != nil {
		t.Error("got a proxy, want every target dialled, and so judged, by the worker")
	}
}

func TestHit_Loop_Detected(t *testing.T) {
	a, b := newWorker(t), newWorker(t)
	a.apply(t, a.URL, 1)
	if res, _, _ := a.hit(t); res.StatusCode != 599 || !errors.Is(<-a.failed, ErrLoop) {
		t.Errorf("a worker that hits itself: got %s, want its own refusal", res.Status)
	}
	a.apply(t, b.URL, 2)
	b.apply(t, a.URL, 2)
	if res, _, _ := a.hit(t); res.StatusCode != 599 || !errors.Is(<-a.failed, ErrLoop) || len(b.failed) > 0 {
		t.Errorf("two workers in a ring: got %s, want the first one's refusal", res.Status)
	}
	redirect := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, a.URL, http.StatusFound) })
	a.apply(t, redirect.URL, 3)
	if res, _, _ := a.hit(t); res.StatusCode != 599 || !errors.Is(<-a.failed, ErrLoop) {
		t.Errorf("a redirect to the worker: got %s, want its own refusal", res.Status)
	}
}

func TestHit_Streams(t *testing.T) {
	for _, length := range []string{"", "11"} {
		t.Run("Content-Length "+length, func(t *testing.T) {
			more := make(chan struct{})
			finish := sync.OnceFunc(func() { close(more) })
			target := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				fmt.Fprint(w, "first")
				w.(http.Flusher).Flush()
				<-more
				fmt.Fprint(w, "second")
			})
			t.Cleanup(finish) // before the target closes, whatever fails
			w := newWorker(t)
			w.apply(t, target.URL, 1)
			res, err := w.plain.Get(w.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			first := make([]byte, 5)
			_, err = io.ReadFull(res.Body, first)
			finish()
			if err != nil || string(first) != "first" {
				t.Fatalf("got %q %v before the target had finished, want first", first, err)
			}
			if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "second" {
				t.Errorf("got %q %v, want second", rest, err)
			}
		})
	}
}

func TestHit_LargeBody_ConstantMemory(t *testing.T) {
	const size = 256 << 20
	block := bytes.Repeat([]byte("x"), 64<<10)
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for range size / len(block) {
			w.Write(block)
		}
	})
	w := newWorker(t, func(o *Options) { o.Timeout = time.Minute })
	w.apply(t, target.URL, 1)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, err := w.plain.Get(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, make([]byte, len(block)))
	runtime.ReadMemStats(&after)
	if err != nil || n != size {
		t.Fatalf("got %d bytes %v, want %d", n, err, size)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("a hit of %d MiB allocated %d KiB in all, want less than 4 MiB", size>>20, got>>10)
	}
}

func TestHit_ReusesBuffers(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "small") })
	w := newWorker(t)
	w.apply(t, target.URL, 1)
	const hits = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range hits {
		if _, body, err := w.hit(t); err != nil || body != "small" {
			t.Fatalf("got %q %v, want small", body, err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / hits; got > bufferBytes {
		t.Errorf("got %d bytes allocated for each small hit, target and caller too; want less than one buffer", got)
	}
}

func within(d time.Duration) func(*Options) { return func(o *Options) { o.Timeout = d } }

func TestHit_TargetTooSlow(t *testing.T) {
	silent := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	w := newWorker(t, within(50*time.Millisecond))
	w.apply(t, silent.URL, 1)
	w.wantFailure(t, ErrTimeout, "50ms")
}

func TestHit_TargetTooSlowAfterRedirect(t *testing.T) {
	silent := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/next", http.StatusFound)
			return
		}
		<-r.Context().Done()
	})
	w := newWorker(t, within(50*time.Millisecond))
	w.apply(t, silent.URL, 1)
	w.wantFailure(t, ErrTimeout, "50ms")
}

func TestHit_TargetTooSlowDuringBody_Cuts(t *testing.T) {
	stalling := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "first")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	w := newWorker(t, within(100*time.Millisecond))
	w.apply(t, stalling.URL, 1)
	res, body, err := w.hit(t)
	if res.StatusCode != 200 || body != "first" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %s %q %v, want what came, and then the connection cut", res.Status, body, err)
	}
	if entry := w.logs.LastEntry(); entry.Message != "Response incomplete" || entry.Level != logrus.DebugLevel {
		t.Errorf("got %q, want the cut logged for who looks for it", entry.Message)
	}
}

func TestHit_TargetFailsDuringBody_Cuts(t *testing.T) {
	for _, head := range []string{"Content-Length: 100\r\n\r\nfirst",
		"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"} {
		w := newWorker(t)
		w.apply(t, raw(t, "HTTP/1.1 200 OK\r\n"+head), 1)
		res, err := w.plain.Get(w.URL)
		if err == nil { // what came first may have gone out before the cut, or not
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if err == nil || len(w.failed) > 0 {
			t.Errorf("%q: got a whole answer, want the connection cut", head)
		}
	}
}

// raw is the URL of a server that answers each connection with the same bytes
// and closes it.
func raw(t *testing.T, answer string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			for n := 0; !bytes.Contains(buf[:n], []byte("\r\n\r\n")); {
				m, err := conn.Read(buf[n:])
				if err != nil {
					break
				}
				n += m
			}
			io.WriteString(conn, answer)
			conn.Close()
		}
	})
	t.Cleanup(func() { ln.Close(); done.Wait() })
	return "http://" + ln.Addr().String()
}

func TestHit_Unreachable(t *testing.T) {
	closed := serve(t, nil)
	closed.Close()
	secure := httptest.NewTLSServer(nil)
	secure.Config.ErrorLog = stdlog.New(io.Discard, "", 0) // of the handshakes that fail here
	t.Cleanup(secure.Close)
	for _, tc := range []struct{ name, url, errorText string }{
		{"no listener", closed.URL, "connection refused"},
		{"unknown certificate", secure.URL, "certificate"},
		{"speaks another protocol", raw(t, "SSH-2.0-OpenSSH_9.9\r\n"), "malformed"},
		{"hangs up", raw(t, ""), "EOF"},
		{"hangs up in its headers", raw(t, "HTTP/1.1 200 OK\r\nServer: x"), "EOF"},
		{"endless headers", raw(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 100<<10)+"\r\n\r\n"), "exceeded"},
		{"switches protocols unasked", raw(t,
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), "101"},
		{"a status that is none", raw(t, "HTTP/1.1 042 Answer\r\nContent-Length: 0\r\n\r\n"), "42"},
		{"a name that does not resolve", "http://nobody.invalid/", "nobody.invalid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorker(t)
			w.apply(t, tc.url+"/?token=secret", 1)
			res, _, _ := w.hit(t)
			if res.StatusCode != 599 {
				t.Fatalf("got %s, want a failed hit", res.Status)
			}
			err := <-w.failed
			if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), tc.errorText) {
				t.Errorf("got %q, want %q with %q", err, ErrUnreachable, tc.errorText)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("got %q, which tells the query", err)
			}
		})
	}
}

func TestHit_ClientDisconnects(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	target := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(ended)
	})
	w := newWorker(t)
	w.apply(t, target.URL, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, w.URL, nil)
	if _, err := w.plain.Do(req); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the request given up", err)
	}
	<-ended // the request to the target is canceled
	if len(w.failed) > 0 {
		t.Errorf("got %v, want no response to a disconnected client", <-w.failed)
	}
}

// writer is a server's, as far as deadlines go.
type writer struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (w *writer) SetWriteDeadline(t time.Time) error { w.deadline = t; return nil }

func TestHit_TimeoutAboveWriteTimeout(t *testing.T) {
	const timeout = 2 * time.Hour
	w := newWorker(t, within(timeout), denying("127.0.0.0/8"))
	w.run(t, "http://127.0.0.1:1")
	rw := &writer{ResponseRecorder: httptest.NewRecorder()}
	before := time.Now()
	if err := w.Hit(rw, httptest.NewRequest(http.MethodGet, "/hit", nil)); !errors.Is(err, ErrForbidden) {
		t.Fatal(err)
	}
	if got := rw.deadline; got.Before(before.Add(timeout)) || got.After(time.Now().Add(timeout+writeGrace)) {
		t.Errorf("got a write deadline in %s, want a little more than %s", time.Until(got), timeout)
	}
}

func TestApply_InvalidConfiguration_ChangesNothing(t *testing.T) {
	w := newWorker(t)
	w.apply(t, "http://good.example/", 1)
	for _, bad := range []models.WorkerConfig{
		{}, {URL: "/relative"}, {URL: "http://"}, {URL: "ftp://a.example/"}, {URL: "http://user:pw@a.example/"},
		{URL: "http://a.example/#x"},
		{URL: "http://a.example/" + strings.Repeat("x", models.MaxURLBytes)}, {URL: "http://a.example/ b"},
		{URL: "http://ü.example/"},
		{URL: "http://a.example/", Version: -1},
	} {
		var invalid *models.Invalid
		if _, err := w.Apply(t.Context(), bad); !errors.As(err, &invalid) {
			t.Errorf("Apply(%+v): got %v, want the bad field named", bad, err)
		}
	}
	state, _, ok := w.State()
	if want := (models.WorkerState{URL: "http://good.example/", Version: 1, Instance: w.instance}); !ok ||
		state != want {
		t.Errorf("got %+v, want %+v", state, want)
	}
}

func TestApply_UnchangedConfiguration_NotLogged(t *testing.T) {
	w := newWorker(t)
	for _, c := range []models.WorkerConfig{
		{URL: "http://a.example/?token=secret", Version: 1},
		{URL: "http://a.example/?token=secret", Version: 1}, // no change
		{URL: "http://a.example/?token=secret", Version: 2},
		{URL: "https://b.example:8443/", Version: 2},
	} {
		w.apply(t, c.URL, c.Version)
	}
	var got []logrus.Fields
	for _, e := range w.logs.AllEntries() {
		if e.Message != "Configuration applied" || e.Level != logrus.InfoLevel {
			t.Errorf("got %s %q, want Info Configuration applied", e.Level, e.Message)
		}
		got = append(got, e.Data)
	}
	want := []logrus.Fields{
		{"version": int64(1), "host": "a.example", "request_id": "req-1"},
		{"version": int64(2), "host": "a.example", "request_id": "req-1"},
		{"version": int64(2), "host": "b.example:8443", "request_id": "req-1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestState_ETag_DependsOnContentAndProcess(t *testing.T) {
	if _, _, ok := newWorker(t).State(); ok {
		t.Fatal("got a state before any push")
	}
	w := newWorker(t)
	tagOf := func(w *worker, url string, version int64) string {
		t.Helper()
		w.apply(t, url, version)
		_, tag, _ := w.State()
		return tag
	}
	first := tagOf(w, "http://a.example/", 1)
	if len(first) != 24 || first[0] != '"' || first[23] != '"' {
		t.Errorf("got %s, want a strong tag in quotes", first)
	}
	if again := tagOf(w, "http://a.example/", 1); again != first {
		t.Errorf("the same configuration: got %s, want %s", again, first)
	}
	for name, other := range map[string]string{
		"another version": tagOf(w, "http://a.example/", 2), "another URL": tagOf(w, "http://b.example/", 1),
		"another process": tagOf(newWorker(t), "http://a.example/", 1),
	} {
		if other == first {
			t.Errorf("%s: got the same tag", name)
		}
	}
}

func TestHit_ConcurrentApply(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path[1:]) })
	w := newWorker(t)
	w.apply(t, target.URL+"/1", 1)
	stop := make(chan struct{})
	var pushes, hits sync.WaitGroup
	pushes.Go(func() {
		for v := int64(2); ; v++ {
			select {
			case <-stop:
				return
			default:
				w.apply(t, fmt.Sprintf("%s/%d", target.URL, v), v)
			}
		}
	})
	for range 8 {
		hits.Go(func() {
			last := 0
			for range 50 {
				res, body, err := w.hit(t)
				if version := res.Header.Get("X-Config-Version"); err != nil || body != version {
					t.Errorf("got %q %v under version %s, want one configuration through the whole hit", body, err,
						version)
				}
				if n, _ := strconv.Atoi(body); n < last {
					t.Errorf("got version %d after %d", n, last)
				} else {
					last = n
				}
			}
		})
	}
	hits.Wait()
	close(stop)
	pushes.Wait()
}

func TestApply_HitsInFlight_KeepTheirConfiguration(t *testing.T) {
	begun, more := make(chan struct{}), make(chan struct{})
	old := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-more
		fmt.Fprint(w, "old")
	})
	w := newWorker(t)
	w.apply(t, old.URL, 1)
	go func() {
		<-begun
		if _, err := w.Apply(t.Context(), models.WorkerConfig{URL: "http://127.0.0.1:1/", Version: 2}); err != nil {
			t.Error(err)
		}
		close(more)
	}()
	if res, body, err := w.hit(t); err != nil || body != "old" || res.Header.Get("X-Config-Version") != "1" {
		t.Errorf("got %q %v, want the answer of the old target", body, err)
	}
}

func BenchmarkHit(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			body := bytes.Repeat([]byte("x"), size)
			target := serve(b, func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
			w := newWorker(b)
			w.apply(b, target.URL, 1)
			u, _ := url.Parse(w.URL)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				transport := &http.Transport{}
				defer transport.CloseIdleConnections()
				for pb.Next() {
					res, err := transport.RoundTrip(&http.Request{Method: http.MethodGet, URL: u,
						Header: http.Header{}})
					if err != nil {
						b.Error(err)
						return
					}
					n, _ := io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if n != int64(size) {
						b.Errorf("got %d bytes, want %d", n, size)
					}
				}
			})
		})
	}
}
