package registry_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
)

func TestCertificateName_SortedAndBounded(t *testing.T) {
	spiffe := &url.URL{Scheme: "spiffe", Host: "fleet", Path: "/agent/7"}
	many := &x509.Certificate{}
	for range 100 {
		many.DNSNames = append(many.DNSNames, strings.Repeat("a", 60)+string(rune('a'+len(many.DNSNames)%26)))
	}
	more := &x509.Certificate{DNSNames: append(many.DNSNames[:100:100], "zz")}
	for name, row := range map[string]struct {
		cert *x509.Certificate
		want string
	}{
		"names in another order": {&x509.Certificate{DNSNames: []string{"b", "A", "b"}}, "DNS:a,DNS:b"},
		"of every kind": {
			&x509.Certificate{
				URIs: []*url.URL{spiffe}, EmailAddresses: []string{"x@y"}, IPAddresses: []net.IP{net.IPv6loopback},
				DNSNames: []string{"a"}, Subject: pkix.Name{CommonName: "c"},
			},
			"DNS:a,IP:::1,URI:spiffe://fleet/agent/7,email:x@y",
		},
		"none":                    {&x509.Certificate{Subject: pkix.Name{CommonName: "web-1"}}, "subject:CN=web-1"},
		"nothing":                 {&x509.Certificate{}, "subject:"},
		"one that looks like two": {&x509.Certificate{DNSNames: []string{"a,DNS:b"}}, `DNS:"a,dns:b"`},
	} {
		if got := registry.CertificateName(row.cert); got != row.want {
			t.Errorf("%s: got %q, want %q", name, got, row.want)
		}
	}
	if a, b := registry.CertificateName(many), registry.CertificateName(more); len(a) > 512 || a == b {
		t.Errorf("got %d bytes for many names, want at most 512, and different ones for different certificates", len(a))
	}
}

func TestCheckCertificate_OtherName_Rejected(t *testing.T) {
	agents := newAgents(t)
	web1, web2 := &x509.Certificate{DNSNames: []string{"web-1"}}, &x509.Certificate{DNSNames: []string{"web-2"}}
	_, token, _, err := agents.Register(t.Context(), registry.Registration{
		ID: "a1", Hostname: "h", Metadata: []byte("{}"), Certificate: registry.CertificateName(web1),
	})
	if err != nil {
		t.Fatal(err)
	}
	live := fleettest.Login(t, agents, "a1", token)
	renewed := *web1
	for range 2 {
		if err := errors.Join(live.CheckCertificate(web1), live.CheckCertificate(&renewed)); err != nil {
			t.Errorf("its certificate, and a renewed one: got %v", err)
		}
		err := live.CheckCertificate(web2)
		if !errors.Is(err, models.ErrCertificate) || !strings.Contains(err.Error(), "DNS:web-2") {
			t.Errorf("another certificate: got %v, want ErrCertificate with its name", err)
		}
	}
	if err := live.CheckCertificate(web1); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = live.CheckCertificate(web1) }); n != 0 {
		t.Errorf("got %v allocations for each request, want none", n)
	}
	if _, _, _, err := agents.Register(t.Context(), registry.Registration{
		ID: "a1", Hostname: "h", Metadata: []byte("{}"), Certificate: registry.CertificateName(web2), Self: live,
	}); err != nil {
		t.Fatal(err)
	}
	if err := live.CheckCertificate(web1); !errors.Is(err, models.ErrCertificate) {
		t.Errorf("the previous certificate, after a re-registration: got %v, want ErrCertificate", err)
	}
	if err := live.CheckCertificate(web2); err != nil {
		t.Fatal(err)
	}
	if err := agents.Reset(t.Context(), "a1", fleettest.ByAdmin); err != nil {
		t.Fatal(err)
	}
	if err := live.CheckCertificate(web2); !errors.Is(err, registry.ErrUnbound) {
		t.Errorf("after a reset: got %v, want ErrUnbound", err)
	}
}
