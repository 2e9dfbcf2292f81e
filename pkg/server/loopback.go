package server

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// FromLoopback reports whether a request comes from this machine, by the address of the
// socket, and not through a proxy (Proxied).
func FromLoopback(r *http.Request) bool {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && remote.Addr().IsLoopback() && Proxied(r) == ""
}

// ToLoopback reports whether the Host of a request is localhost or a loopback address, which
// DNS cannot rebind. A page in a browser sends the name that it was loaded from.
func ToLoopback(r *http.Request) bool {
	name, addr := host(r)
	return name == "localhost" || addr.IsLoopback()
}

// HostAllowed reports whether the Host of a request is safe from DNS rebinding: an IP
// address, localhost, or one of names.
func HostAllowed(r *http.Request, names []string) bool {
	name, addr := host(r)
	return name == "localhost" || addr.IsValid() || HostIn(r, names)
}

// HostIn reports whether the Host of a request is one of names, without regard to
// case, the root dot and the port.
func HostIn(r *http.Request, names []string) bool {
	name, _ := host(r)
	return slices.ContainsFunc(names, func(s string) bool {
		return strings.EqualFold(strings.TrimSuffix(s, "."), name)
	})
}

// host returns the Host of a request without port and root dot, in lower case, and as an
// address, if it is one.
func host(r *http.Request) (name string, addr netip.Addr) {
	name, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(r.Host, "["), "]")
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	addr, _ = netip.ParseAddr(name) // the zero Addr for a name
	return name, addr
}

// proxyHeaders are added by proxies and gateways, and not by our clients.
var proxyHeaders = []string{
	"Cdn-Loop", "Cf-Connecting-Ip", "Client-Ip", "Fastly-Client-Ip", "Forwarded", "Max-Forwards", "Proxy-Connection",
	"Surrogate-Capability", "True-Client-Ip", "Via", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Uri",
	"X-Original-Url", "X-Real-Ip", "X-Remote-Addr", "X-Remote-Ip", "X-Request-Start", "X-Rewrite-Url", "X-Scheme",
	"X-Varnish",
}

// proxyPrefixes are prefixes of such headers.
var proxyPrefixes = []string{
	"X-Amzn-", "X-Appengine-", "X-Arr-", "X-Envoy-", "X-Forwarded", "X-Original-Forwarded", "X-Proxy",
}

// Proxied returns the sign that a request came through a proxy: a header, or HTTP/1.0, which
// nginx uses to its backends by default and our clients do not. It returns "" if there is
// none; a proxy can be configured to show none.
func Proxied(r *http.Request) string {
	if !r.ProtoAtLeast(1, 1) {
		return r.Proto
	}
	for _, name := range proxyHeaders {
		if len(r.Header[name]) > 0 {
			return name
		}
	}
	for name := range r.Header {
		for _, prefix := range proxyPrefixes {
			if strings.HasPrefix(name, prefix) {
				return name
			}
		}
	}
	return ""
}
