package proxy

import (
	"fmt"
	"net/netip"
	"strings"
)

// allowList is the patterns of the hosts that may be fetched: a host, or *. and
// a domain for all that lies below it. An empty one allows all.
type allowList []string

// newAllowList writes patterns as hosts are compared.
func newAllowList(patterns []string) allowList {
	list := make(allowList, len(patterns))
	for i, pattern := range patterns {
		list[i] = canonical(pattern)
	}
	return list
}

// check returns ErrForbidden unless the list names host.
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

// canonical is how a host is compared: names without regard to case or to the
// root dot, addresses in their shortest form.
func canonical(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
