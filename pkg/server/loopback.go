package server

import (
	"net/http"
	"net/netip"
)

// FromLoopback reports whether a request comes from this machine: by the
// address of the socket, for a header can say anything, and not through a proxy
// that stands here and says so.
func FromLoopback(r *http.Request) bool {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && remote.Addr().IsLoopback() && Proxied(r) == ""
}

// Proxied is the header by which a request shows that it came through a proxy,
// "" if none does.
func Proxied(r *http.Request) string {
	for _, name := range [...]string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"} {
		if len(r.Header[name]) > 0 {
			return name
		}
	}
	return ""
}
