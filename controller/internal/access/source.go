package access

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddr returns the address of the client, the zero Addr if it is unknown: the peer's
// address, or if the peer is a trusted proxy, the last address in X-Forwarded-For that is not
// a trusted proxy's. Addresses before that one are unverified.
func clientAddr(r *http.Request, trusted []netip.Prefix) netip.Addr {
	client := parseAddr(r.RemoteAddr)
	forwarded := r.Header["X-Forwarded-For"]
	for line := len(forwarded) - 1; line >= 0; line-- {
		for rest, found := forwarded[line], true; found; {
			if !isTrusted(client, trusted) {
				return client
			}
			last := strings.LastIndexByte(rest, ',')
			text := strings.Trim(rest[last+1:], " \t")
			if found = last >= 0; found {
				rest = rest[:last]
			}
			if text == "" {
				continue
			}
			before := parseAddr(text)
			if !before.IsValid() {
				return client
			}
			client = before
		}
	}
	return client
}

// parseAddr parses an IP address with or without a port. It returns the zero Addr if text is
// neither.
func parseAddr(text string) netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		withPort, _ := netip.ParseAddrPort(text)
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone("")
}

func isTrusted(client netip.Addr, trusted []netip.Prefix) bool {
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(client) })
}

// source returns the address of the client.
func (g *Guard) source(r *http.Request) netip.Addr { return clientAddr(r, g.TrustedProxies) }

// ClientIP returns the address of the client as text, "" if it is unknown.
func (g *Guard) ClientIP(r *http.Request) string {
	if addr := g.source(r); addr.IsValid() {
		return addr.String()
	}
	return ""
}
