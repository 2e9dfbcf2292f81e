package proxy

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// forwarding has a worker fetch all targets by a forward proxy.
func forwarding(t *testing.T, by *httptest.Server) func(*Options) {
	t.Helper()
	u, err := url.Parse(by.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("worker", "hunter2")
	return func(o *Options) { o.Proxy = func(*url.URL) (*url.URL, error) { return u, nil } }
}

func TestHit_ForwardProxy(t *testing.T) {
	by := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Proxy-Authorization") != "Basic d29ya2VyOmh1bnRlcjI=":
			w.WriteHeader(http.StatusProxyAuthRequired)
		case r.Method == http.MethodConnect:
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/to":
			w.Header().Set("Location", r.URL.Query().Get("url"))
			w.WriteHeader(http.StatusFound)
		default:
			_, _ = io.WriteString(w, "by the proxy: "+r.URL.String())
		}
	})
	w := newWorker(t, forwarding(t, by), denying("169.254.0.0/16"))
	w.run(t, "http://target.invalid/page")
	if _, body, _ := w.hit(t); body != "by the proxy: http://target.invalid/page" {
		t.Errorf("got %q, want the proxy's answer", body)
	}
	w.run(t, "https://target.invalid/page")
	w.wantFailure(t, ErrUnreachable, "the proxy at "+strings.TrimPrefix(by.URL, "http://")+" answered 403 Forbidden")

	// What the proxy would connect to is not seen: addresses in URLs are.
	for to, words := range map[string]string{
		"http://169.254.169.254/latest":            "DENY_CIDRS",
		"http://[::ffff:169.254.169.254]/latest":   "DENY_CIDRS",
		"http://2852039166/latest":                 "no DNS name or address",
		"http://0xA9FEA9FE/latest":                 "no DNS name or address",
		"http://169.254.43518/latest":              "no DNS name or address",
		"http://metadata.internal.0251.0376.1.1./": "no DNS name or address",
	} {
		w.run(t, "http://target.invalid/to?url="+url.QueryEscape(to))
		w.wantFailure(t, ErrForbidden, words)
	}
	for _, entry := range w.logs.AllEntries() {
		if line, _ := entry.String(); strings.Contains(line, "hunter2") {
			t.Errorf("the proxy's password is logged: %s", line)
		}
	}
}

func TestHit_ForwardProxyDown_Unreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	w := newWorker(t, forwarding(t, &httptest.Server{URL: "http://" + ln.Addr().String()}))
	w.run(t, "http://target.invalid/")
	w.wantFailure(t, ErrUnreachable, "proxyconnect")
}
