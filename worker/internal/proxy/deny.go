package proxy

import (
	"fmt"
	"net/netip"
	"syscall"
)

// denyList holds the networks that no hit connects to.
type denyList []netip.Prefix

// newDenyList returns a denyList with networks of IPv4-mapped addresses as IPv4 networks.
func newDenyList(prefixes []netip.Prefix) denyList {
	list := make(denyList, 0, len(prefixes))
	for _, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		list = append(list, p)
	}
	return list
}

// control is the Control of a net.Dialer, which calls it for each resolved address between
// socket and connect. So it checks the very address of the connection: neither the DNS nor a
// redirect can change it afterwards.
func (d denyList) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q is not an address", ErrForbidden, address)
	}
	return d.check(to.Addr())
}

// check returns ErrForbidden if a connection to addr may reach one of the networks.
func (d denyList) check(addr netip.Addr) error {
	for _, destination := range destinations(addr) {
		for _, network := range d {
			if network.Contains(destination) {
				return fmt.Errorf("%w: %s is in %s, which this worker's DENY_CIDRS lists", ErrForbidden, addr.Unmap(),
					network)
			}
		}
	}
	return nil
}

// Prefixes of IPv6 addresses that a gateway or the kernel translates to IPv4.
var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 §2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765 §2.1
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052 §2.1
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056 §2
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380 §4
)

// destinations returns addr and every other address that a connection to it may reach.
func destinations(addr netip.Addr) []netip.Addr {
	addr = addr.WithZone("").Unmap() // a prefix contains no address with a zone
	all := []netip.Addr{addr}
	if addr.IsUnspecified() { // the kernel connects to this machine
		return append(all, netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	if addr.Is4() || addr.IsLoopback() {
		return all
	}
	b := addr.As16()
	embedded := func(at ...int) {
		all = append(all, netip.AddrFrom4([4]byte{b[at[0]], b[at[1]], b[at[2]], b[at[3]]}))
	}
	switch {
	case compatible.Contains(addr), translated.Contains(addr), nat64.Contains(addr):
		embedded(12, 13, 14, 15)
	case nat64Local.Contains(addr): // any prefix length of RFC 6052 §2.2
		embedded(6, 7, 9, 10)
		embedded(7, 9, 10, 11)
		embedded(9, 10, 11, 12)
		embedded(12, 13, 14, 15)
	case sixToFour.Contains(addr):
		embedded(2, 3, 4, 5)
	case teredo.Contains(addr):
		for i := 12; i < 16; i++ {
			b[i] = ^b[i] // RFC 4380 §4: the client's address, inverted
		}
		embedded(12, 13, 14, 15)
	}
	return all
}
