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

func TestFromLoopback_ThroughAProxyHere(t *testing.T) {
	for _, name := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"} {
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
