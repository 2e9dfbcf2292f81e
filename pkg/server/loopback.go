package server

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// FromLoopback reports whether a request comes from this machine: by the
// address of the socket, for a header can say anything, and not through a proxy
// that stands here and says so.
func FromLoopback(r *http.Request) bool {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && remote.Addr().IsLoopback() && Proxied(r) == ""
}

// ToLoopback reports whether a request names this machine in a way that no DNS
// can change: a name of another may be rebound to it, and a browser's page cannot
// help sending that name.
func ToLoopback(r *http.Request) bool {
	name, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(r.Host, "["), "]")
	}
	addr, err := netip.ParseAddr(name)
	return strings.EqualFold(name, "localhost") || err == nil && addr.IsLoopback()
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
