package controller

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/certs"
)

// forwardProxy is a proxy that connects to any host for clients that know its password, and
// counts the connections. It answers requests for http:// URLs itself.
func forwardProxy(t *testing.T, status int) (at *url.URL, connected *atomic.Int64) {
	t.Helper()
	connected = new(atomic.Int64)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "Basic YWdlbnQ6aHVudGVyMg==" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		connected.Add(1)
		if r.Method != http.MethodConnect {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("ETag", `"e7"`)
			_, _ = io.WriteString(w, document)
			return
		}
		if status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		there, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		here, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		tunnel(here, there, buffered)
	})
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: handler}
	go func() { _ = server.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	return &url.URL{Scheme: "http", Host: ln.Addr().String(), User: url.UserPassword("agent", "hunter2")}, connected
}

func tunnel(here, there net.Conn, buffered *bufio.ReadWriter) {
	_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { // ends with either connection
		_, _ = io.Copy(there, buffered)
		_ = there.Close()
	}()
	_, _ = io.Copy(here, there)
	_ = here.Close()
}

func TestFetch_Proxy_Used(t *testing.T) {
	ours := authority(t, "ours")
	over := secure(t, ours, certs.Leaf{Hosts: []string{"127.0.0.1"}, NotAfter: time.Now().Add(day)}, &tls.Config{})
	for _, base := range []string{over, "http://controller.invalid:8080"} {
		proxy, connected := forwardProxy(t, http.StatusOK)
		c := New(Options{URL: base, TLS: files(t, ours, nil, certs.Leaf{}), Proxy: proxy})
		got, err := c.Fetch(t.Context(), self, protocol.Query{})
		if err != nil || got.Release == nil || connected.Load() != 1 {
			t.Errorf("%s: got %+v, %v, by %d connections, want the document by one", base, got, err, connected.Load())
		}
	}
	// TLS ends at the controller, not at the proxy.
	proxy, _ := forwardProxy(t, http.StatusOK)
	stranger := New(Options{URL: over, TLS: files(t, authority(t, "others"), nil, certs.Leaf{}), Proxy: proxy})
	_, err := stranger.Fetch(t.Context(), self, protocol.Query{})
	if err == nil || !strings.Contains(err.Error(), "is not trusted") {
		t.Errorf("got %v, want the controller's certificate checked", err)
	}
}

func TestFetch_ProxyRefuses_NamedInError(t *testing.T) {
	refusing, _ := forwardProxy(t, http.StatusForbidden)
	unknown, _ := forwardProxy(t, http.StatusOK)
	unknown.User = url.UserPassword("agent", "hunter2-of-others")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	away := &url.URL{Scheme: "http", Host: ln.Addr().String(), User: url.UserPassword("agent", "hunter2")}
	for words, proxy := range map[string]*url.URL{
		"the proxy answered 403 Forbidden":                     refusing,
		"the proxy answered 407 Proxy Authentication Required": unknown,
		"nothing listens there":                                away,
	} {
		_, err := New(Options{URL: "https://controller.invalid", Proxy: proxy}).Fetch(
			t.Context(), self, protocol.Query{},
		)
		if err == nil {
			t.Fatalf("got nil, want %q", words)
		}
		said := err.Error()
		if !strings.Contains(said, words) || !strings.Contains(said, "by the proxy at "+proxy.Host) ||
			strings.Contains(said, "hunter2") {
			t.Errorf("got %v, want %q and the proxy, without its password", err, words)
		}
	}
}
