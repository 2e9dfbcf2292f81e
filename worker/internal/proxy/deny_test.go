package proxy

import (
	"errors"
	"net/netip"
	"testing"
)

func TestControl_EveryNotationOfAnAddress_Denied(t *testing.T) {
	metadata := []netip.Prefix{
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"),
		netip.MustParsePrefix("fd00:ec2::254/128"),
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	loopback6 := []netip.Prefix{netip.MustParsePrefix("::1/128")}
	mapped := []netip.Prefix{netip.MustParsePrefix("::ffff:169.254.0.0/112")}

	for _, tc := range []struct {
		name    string
		deny    []netip.Prefix
		address string
		denied  bool
	}{
		{"within", metadata, "169.254.169.254:80", true},
		{"beside", metadata, "169.253.255.255:80", false},
		{"public", metadata, "93.184.215.14:443", false},
		{"public IPv6", metadata, "[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:443", false},
		{"nothing is denied", nil, "169.254.169.254:80", false},
		{"IPv6 within", metadata, "[fd00:ec2::254]:80", true},
		{"link-local with a zone", metadata, "[fe80::1%eth0]:80", true},
		{"IPv4-mapped", metadata, "[::ffff:169.254.169.254]:80", true},
		{"IPv4-mapped in hexadecimal", metadata, "[::ffff:a9fe:a9fe]:80", true},
		{"IPv4-compatible", metadata, "[::169.254.169.254]:80", true},
		{"IPv4-translated", metadata, "[::ffff:0:a9fe:a9fe]:80", true},
		{"NAT64", metadata, "[64:ff9b::a9fe:a9fe]:80", true},
		{"NAT64 to a public address", metadata, "[64:ff9b::5db8:d70e]:80", false},
		{"local NAT64 of 96 bits", metadata, "[64:ff9b:1::a9fe:a9fe]:80", true},
		{"local NAT64 of 64 bits", metadata, "[64:ff9b:1:0:a9:fea9:fe00:0]:80", true},
		{"local NAT64 of 56 bits", metadata, "[64:ff9b:1:a9:fe:a9fe::]:80", true},
		{"local NAT64 of 48 bits", metadata, "[64:ff9b:1:a9fe:a9:fe00::]:80", true},
		{"6to4", metadata, "[2002:a9fe:a9fe::1]:80", true},
		{"6to4 from a public address", metadata, "[2002:5db8:d70e::1]:80", false},
		{"Teredo", metadata, "[2001:0:4136:e378:8000:63bf:5601:5601]:80", true},
		{"Teredo of a public client", metadata, "[2001:0:4136:e378:8000:63bf:a247:28f1]:80", false},
		{"unspecified is this machine", loopback, "0.0.0.0:80", true},
		{"unspecified IPv6 is this machine", loopback, "[::]:80", true},
		{"unspecified is this machine over IPv6", loopback6, "0.0.0.0:80", true},
		{"loopback IPv6 is not an embedded 0.0.0.1", []netip.Prefix{netip.MustParsePrefix("0.0.0.0/8")}, "[::1]:80",
			false},
		{"a network written as IPv4-mapped", mapped, "169.254.169.254:80", true},
		{"loopback, which is not denied", metadata, "127.0.0.1:80", false},
		{"no address", metadata, "localhost:80", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := newDenyList(tc.deny).control("tcp", tc.address, nil)
			if got := errors.Is(err, ErrForbidden); got != tc.denied || !got && err != nil {
				t.Errorf("control(%s): got %v, want denied %t", tc.address, err, tc.denied)
			}
		})
	}
}
