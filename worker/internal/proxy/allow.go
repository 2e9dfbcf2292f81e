package proxy

import (
	"fmt"
	"net/netip"
	"strings"
)

// allowList holds patterns of the hosts that may be fetched: a host, or *. and a domain for
// its subdomains. An empty list allows all.
type allowList []string

// newAllowList returns the canonical patterns.
func newAllowList(patterns []string) allowList {
	list := make(allowList, len(patterns))
	for i, pattern := range patterns {
		list[i] = canonical(pattern)
	}
	return list
}

// check returns ErrForbidden unless the list allows host.
func (l allowList) check(host string) error {
	name := canonical(host)
	for _, pattern := range l {
		below, isBelow := strings.CutPrefix(pattern, "*")
		if name == pattern || isBelow && strings.HasSuffix(name, below) && len(name) > len(below) {
			return nil
		}
	}
	if len(l) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the host %s is not one that this worker's ALLOW_HOSTS names", ErrForbidden, host)
}

// canonical returns the form in which hosts are compared: names in lower case without a root
// dot, addresses in their shortest form.
func canonical(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
