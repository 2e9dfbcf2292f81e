package config

import (
	"net"
	"net/url"
	"strings"

	"github.com/fleetconf/fleetconf/pkg/settings"
)

// Broker is the settings of the embedded NATS server, which NATS_URL=embedded selects. Agents
// authenticate with NATS_USERNAME and NATS_PASSWORD, or with NATS_TOKEN.
type Broker struct {
	Listen   string `setting:"NATS_LISTEN" default:"127.0.0.1:4222" usage:"address and port on which the embedded NATS listens for agents"`
	CertFile string `setting:"NATS_TLS_CERT_FILE" usage:"file with the certificate of the embedded NATS; agents then connect over TLS"`
	KeyFile  string `setting:"NATS_TLS_KEY_FILE" usage:"file with the key of that certificate"`

	ClusterListen   string          `setting:"NATS_CLUSTER_LISTEN" usage:"address and port on which the embedded NATS listens for those of other controllers; empty for a single controller"`
	ClusterRoutes   settings.Secret `setting:"NATS_CLUSTER_ROUTES" usage:"NATS_CLUSTER_LISTEN of the other controllers, as host:port, separated by commas"`
	ClusterUsername string          `setting:"NATS_CLUSTER_USERNAME" usage:"user name that embedded NATS servers use with each other"`
	ClusterPassword settings.Secret `setting:"NATS_CLUSTER_PASSWORD" usage:"password of that user"`
}

// Validate returns a fault for every setting that cannot be parsed.
func (b *Broker) Validate() (faults settings.Faults) {
	faults.Check(settings.IsAddress(b.Listen), "NATS_LISTEN",
		"is %q; it must be an address and a port, such as 127.0.0.1:4222", b.Listen)
	faults.Check(b.ClusterListen == "" || settings.IsAddress(b.ClusterListen), "NATS_CLUSTER_LISTEN",
		"is %q; it must be an address and a port, such as 10.0.0.1:6222", b.ClusterListen)
	if _, err := b.Routes(); err != nil {
		faults.Check(false, "NATS_CLUSTER_ROUTES",
			"has an entry that is neither host:port nor a URL such as nats-route://user:password@host:6222")
	}
	return faults
}

// errRoute is the error of an invalid route. It has no detail, because a route may hold a
// password.
type errRoute struct{}

func (errRoute) Error() string { return "invalid route" }

// Routes parses NATS_CLUSTER_ROUTES.
func (b *Broker) Routes() (routes []*url.URL, err error) {
	for text := range strings.SplitSeq(b.ClusterRoutes.Reveal(), ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if !strings.Contains(text, "://") {
			text = "nats-route://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "nats-route" && u.Scheme != "nats" || u.Path != "" ||
			!settings.IsAddress(u.Host) {
			return nil, errRoute{}
		}
		routes = append(routes, u)
	}
	return routes, nil
}

// validateEmbedded returns the faults of the settings of the embedded broker, such as an address
// that other machines can reach without a password.
func (s *Settings) validateEmbedded() (faults settings.Faults) {
	faults.Check(s.NATSNKeyFile == "" && s.NATSCredsFile == "", "NATS_URL",
		"is embedded, which supports only NATS_USERNAME and NATS_PASSWORD, or NATS_TOKEN")
	faults.CheckPair("NATS_TLS_CERT_FILE", s.CertFile, "NATS_TLS_KEY_FILE", s.KeyFile)
	faults.CheckPair("NATS_CLUSTER_USERNAME", s.ClusterUsername, "NATS_CLUSTER_PASSWORD", s.ClusterPassword.Reveal())
	faults.Check(isLocal(s.Listen) || s.NATSPassword != "" || s.NATSToken != "", "NATS_LISTEN",
		"is %s, which other machines can reach; set NATS_USERNAME and NATS_PASSWORD, or NATS_TOKEN, "+
			"here and in the agents, or NATS_LISTEN to 127.0.0.1:4222", s.Listen)
	faults.CheckSecret(hostOf(s.Listen), "NATS_PASSWORD", s.NATSPassword, s.NATSUsername)
	faults.CheckSecret(hostOf(s.Listen), "NATS_TOKEN", s.NATSToken)
	if s.ClusterListen != "" {
		faults.CheckSecret(hostOf(s.ClusterListen), "NATS_CLUSTER_PASSWORD", s.ClusterPassword, s.ClusterUsername)
	}
	faults.Check(s.ClusterListen == "" || isLocal(s.ClusterListen) || s.ClusterPassword != "", "NATS_CLUSTER_LISTEN",
		"is %s, which other machines can reach; set NATS_CLUSTER_USERNAME and NATS_CLUSTER_PASSWORD, "+
			"the same in all controllers",
		s.ClusterListen)
	faults.Check(s.ClusterListen != "" || s.ClusterRoutes == "", "NATS_CLUSTER_LISTEN",
		"is empty, and NATS_CLUSTER_ROUTES is set; set both or neither")
	return faults
}

func isLocal(address string) bool { return settings.IsLoopback(hostOf(address)) }

// hostOf returns the host of a listening address. For an invalid address, which is a fault of
// its own, it returns a loopback address.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "127.0.0.1"
	}
	return host
}
