package api

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddr is the address that a request comes from, the zero Addr where it is
// unknown. The address of the socket counts, unless it is a trusted proxy's: then
// the last address in X-Forwarded-For does that is no trusted proxy's. What stands
// before that one is the client's own word.
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

// parseAddr reads an address, with a port or without.
func parseAddr(text string) netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		withPort, _ := netip.ParseAddrPort(text) // the zero value where it is none
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone("")
}

func isTrusted(client netip.Addr, trusted []netip.Prefix) bool {
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(client) })
}

// source is where the request comes from.
func (c *call) source() netip.Addr { return clientAddr(c.Request, c.api.TrustedProxies) }

// ClientIP is source as it is recorded. It hides that of gin, which reads headers
// that no trusted proxy wrote.
func (c *call) ClientIP() string {
	if addr := c.source(); addr.IsValid() {
		return addr.String()
	}
	return ""
}
