package server_test

import (
	"net/http/httptest"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/server"
)

func TestFromLoopback(t *testing.T) {
	for remote, want := range map[string]bool{
		"127.0.0.1:40000":          true,
		"127.8.8.8:40000":          true,
		"[::1]:40000":              true,
		"[::ffff:127.0.0.1]:40000": true, // on a socket for both
		"192.0.2.1:40000":          false,
		"[2001:db8::1]:40000":      false,
		"127.0.0.1":                false,
		"localhost:40000":          false,
		"@":                        false,
		"":                         false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		if got := server.FromLoopback(r); got != want {
			t.Errorf("from %q: got %v, want %v", remote, got, want)
		}
	}
}

// nginx speaks HTTP/1.0 to its backends where nothing else is configured, and adds no header.
func TestFromLoopback_HTTP10_CountsAsProxy(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr, r.Proto, r.ProtoMajor, r.ProtoMinor = "127.0.0.1:40000", "HTTP/1.0", 1, 0
	if got := server.Proxied(r); got != "HTTP/1.0" || server.FromLoopback(r) {
		t.Errorf("got %q, %v, want it refused for HTTP/1.0", got, server.FromLoopback(r))
	}
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	if got := server.Proxied(r); got != "" {
		t.Errorf("HTTP/2: got %q, want no sign of a proxy", got)
	}
}

func TestFromLoopback_OwnClientHeaders_AreNoProxySign(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "127.0.0.1:40000"
	for _, name := range []string{"X-Request-Id", "User-Agent", "Accept", "Authorization", "X-Applied-Version",
		"X-Worker-Error", "X-Push-Error", "X-Transport"} {
		r.Header.Set(name, "x")
	}
	if got := server.Proxied(r); got != "" {
		t.Errorf("got %q, want no sign of a proxy", got)
	}
}

func TestHostAllowed(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:8081": true, "localhost.": true, "127.0.0.1:8081": true, "192.0.2.7": true,
		"[2001:db8::7]:8081": true,
		"[::1]":              true, "agent.example": true, "Agent.Example.:8081": true,
		"": false, "[": false, "rebound.example": false, "localhost.evil.example": false, "x.agent.example": false,
		"127.0.0.1.evil.example": false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = host
		if got := server.HostAllowed(r, []string{"agent.example"}); got != want {
			t.Errorf("Host %q: got %v, want %v", host, got, want)
		}
	}
}

func TestFromLoopback_LocalReverseProxy(t *testing.T) {
	for _, name := range []string{
		"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "X-Envoy-Internal",
		"X-Varnish",
		"X-Amzn-Trace-Id", "Cdn-Loop", "X-Original-Forwarded-For",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "127.0.0.1:40000"
		r.Header.Set(name, "127.0.0.1")
		if got := server.Proxied(r); got != name || server.FromLoopback(r) {
			t.Errorf("with %s: got %q, %v, want it to give the proxy away", name, got, server.FromLoopback(r))
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "192.0.2.1:40000"
	r.Header.Set("X-Forwarded-For", "127.0.0.1")
	if server.FromLoopback(r) {
		t.Error("from elsewhere: a header made it loopback")
	}
}
