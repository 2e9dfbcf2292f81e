// Package config declares the worker's settings.
package config

import (
	"net/netip"
	"strings"
	"time"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

// maxHitTimeout is the longest HIT_TIMEOUT. A longer one is more likely a mistyped unit.
const maxHitTimeout = time.Hour

// Settings are the worker's settings. No published configuration changes them.
type Settings struct {
	Listener `group:"Listener"`

	// Without a token only this machine may push and read a configuration.
	WorkerToken settings.Secret `group:"Configuration" setting:"WORKER_TOKEN" usage:"token that POST and GET /config require (Authorization: Bearer), from any machine; needed behind a reverse proxy on this machine"`

	AllowedHosts []string `setting:"ALLOWED_HOSTS" usage:"names of this machine besides localhost and IP addresses (for POST: loopback addresses), with commas between, allowed as Host of POST and GET /config without WORKER_TOKEN"`

	HitTimeout time.Duration `group:"Hits" setting:"HIT_TIMEOUT" default:"30s" usage:"timeout of a hit, from its request to its last byte"`

	// The default lists link-local addresses, and the other addresses at which clouds serve
	// the credentials of a machine: AWS, Azure, GCP, Oracle and others at 169.254.169.254;
	// AWS, GCP, Oracle and Scaleway over IPv6; Alibaba, Oracle (classic) and Azure.
	DenyCIDRs []netip.Prefix `setting:"DENY_CIDRS" default:"169.254.0.0/16,fe80::/10,fd00:ec2::254,fd20:ce::254,fd00:c1::a9fe:a9fe,fd00:42::42,100.100.100.200,192.0.0.192,168.63.129.16" usage:"networks that no hit connects to, checked after DNS and at each redirect; none for no such network"`

	AllowHosts []string `setting:"ALLOW_HOSTS" usage:"hosts that may be fetched, with commas between: example.com, *.example.com (its subdomains), 192.0.2.7; unset: all. Checked when a configuration is pushed and at each redirect"`

	HitProxy       bool `setting:"HIT_PROXY" default:"false" usage:"true to fetch targets through the proxies below; DENY_CIDRS then applies only to addresses in URLs, since the proxy connects"`
	settings.Proxy `group:"Proxy to the targets, if HIT_PROXY"`

	settings.Diagnosis `group:"Logs and profiles"`
}

// Listener is the address of the worker. The command health needs no other settings.
type Listener struct {
	Host string `setting:"HOST" default:"127.0.0.1" usage:"address to listen on; 0.0.0.0 lets other machines hit this worker"`
	Port int    `setting:"PORT" default:"8082" usage:"TCP port to listen on; 0 picks a free one"`
}

// Validate returns a fault for every setting that cannot be used.
func (s *Settings) Validate() settings.Faults {
	var f settings.Faults
	f = append(f, s.Listener.Validate()...)
	f.CheckBearer("WORKER_TOKEN", s.WorkerToken)
	f.CheckHosts("ALLOWED_HOSTS", s.AllowedHosts)
	f.CheckSecret(s.Host, "WORKER_TOKEN", s.WorkerToken)
	f.Check(s.HitTimeout > 0 && s.HitTimeout <= maxHitTimeout, "HIT_TIMEOUT",
		"is %s; it must be more than 0s and at most %s", s.HitTimeout, maxHitTimeout)
	for _, pattern := range s.AllowHosts {
		f.Check(isHostPattern(pattern), "ALLOW_HOSTS",
			"holds %q, which is not a host such as example.com, *.example.com or 192.0.2.7", pattern)
	}
	if s.HitProxy {
		s.CheckProxies(&f)
	}
	f = append(f, s.Diagnosis.Validate()...)
	return f
}

// Validate returns a fault for every setting that cannot be used.
func (l *Listener) Validate() (faults settings.Faults) {
	faults.CheckListener(l.Host, l.Port)
	return faults
}

// isHostPattern reports whether pattern is a host that a URL may have, or *. and a domain.
func isHostPattern(pattern string) bool {
	if _, err := netip.ParseAddr(pattern); err == nil {
		return true
	}
	url := "http://" + strings.TrimPrefix(pattern, "*.") + "/"
	return !strings.ContainsAny(pattern, ":/?#@[]") && models.WorkerConfig{URL: url}.Validate() == nil
}
