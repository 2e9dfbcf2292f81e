package config

import (
	"net"
	"net/url"
	"strings"

	"github.com/fleetconf/fleetconf/pkg/settings"
)

// Broker is the NATS server within the controller, for NATS_URL=embedded.
// Agents present what NATS_USERNAME and NATS_PASSWORD, or NATS_TOKEN, say.
type Broker struct {
	Listen   string `setting:"NATS_LISTEN" default:"127.0.0.1:4222" usage:"where the embedded NATS listens for agents"`
	CertFile string `setting:"NATS_TLS_CERT_FILE" usage:"file of the certificate of the embedded NATS; agents then connect with TLS"`
	KeyFile  string `setting:"NATS_TLS_KEY_FILE" usage:"file of its key"`

	ClusterListen   string          `setting:"NATS_CLUSTER_LISTEN" usage:"where the embedded NATS listens for those of other controllers; empty for a single controller"`
	ClusterRoutes   settings.Secret `setting:"NATS_CLUSTER_ROUTES" usage:"host:port of the NATS_CLUSTER_LISTEN of the others, with commas between"`
	ClusterUsername string          `setting:"NATS_CLUSTER_USERNAME" usage:"user name that embedded NATS servers know each other by"`
	ClusterPassword settings.Secret `setting:"NATS_CLUSTER_PASSWORD" usage:"its password"`
}

// Validate names every setting that cannot be parsed.
func (b *Broker) Validate() (faults settings.Faults) {
	faults.Check(settings.IsAddress(b.Listen), "NATS_LISTEN", "is %q; it must be an address and a port, such as 127.0.0.1:4222", b.Listen)
	faults.Check(b.ClusterListen == "" || settings.IsAddress(b.ClusterListen), "NATS_CLUSTER_LISTEN",
		"is %q; it must be an address and a port, such as 10.0.0.1:6222", b.ClusterListen)
	if _, err := b.Routes(); err != nil {
		faults.Check(false, "NATS_CLUSTER_ROUTES", "holds what is neither host:port nor a URL such as nats-route://user:password@host:6222")
	}
	return faults
}

// errRoute is the error of a route; the setting holds secrets.
type errRoute struct{}

func (errRoute) Error() string { return "no route" }

// Routes reads NATS_CLUSTER_ROUTES.
func (b *Broker) Routes() (routes []*url.URL, err error) {
	for text := range strings.SplitSeq(b.ClusterRoutes.Reveal(), ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if !strings.Contains(text, "://") {
			text = "nats-route://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "nats-route" && u.Scheme != "nats" || u.Path != "" || !settings.IsAddress(u.Host) {
			return nil, errRoute{}
		}
		routes = append(routes, u)
	}
	return routes, nil
}

// validateEmbedded names the settings with which others could reach the
// embedded broker without a password.
func (s *Settings) validateEmbedded() (faults settings.Faults) {
	faults.Check(s.NATSNKeyFile == "" && s.NATSCredsFile == "", "NATS_URL",
		"is embedded, which knows NATS_USERNAME and NATS_PASSWORD, or NATS_TOKEN, alone")
	faults.CheckPair("NATS_TLS_CERT_FILE", s.CertFile, "NATS_TLS_KEY_FILE", s.KeyFile)
	faults.CheckPair("NATS_CLUSTER_USERNAME", s.ClusterUsername, "NATS_CLUSTER_PASSWORD", s.ClusterPassword.Reveal())
	faults.Check(isLocal(s.Listen) || s.NATSPassword != "" || s.NATSToken != "", "NATS_LISTEN",
		"is %s, which other machines can reach; set NATS_USERNAME and NATS_PASSWORD, or NATS_TOKEN, here and in the agents, or NATS_LISTEN to 127.0.0.1:4222", s.Listen)
	faults.CheckSecret(hostOf(s.Listen), "NATS_PASSWORD", s.NATSPassword, s.NATSUsername)
	faults.CheckSecret(hostOf(s.Listen), "NATS_TOKEN", s.NATSToken)
	if s.ClusterListen != "" {
		faults.CheckSecret(hostOf(s.ClusterListen), "NATS_CLUSTER_PASSWORD", s.ClusterPassword, s.ClusterUsername)
	}
	faults.Check(s.ClusterListen == "" || isLocal(s.ClusterListen) || s.ClusterPassword != "", "NATS_CLUSTER_LISTEN",
		"is %s, which other machines can reach; set NATS_CLUSTER_USERNAME and NATS_CLUSTER_PASSWORD, the same in all controllers", s.ClusterListen)
	faults.Check(s.ClusterListen != "" || s.ClusterRoutes == "", "NATS_CLUSTER_LISTEN", "is empty, and NATS_CLUSTER_ROUTES is set; set both or none")
	return faults
}

func isLocal(address string) bool { return settings.IsLoopback(hostOf(address)) }

// hostOf is the host of an address to listen on; that of this machine where it is
// none, which is another fault.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "127.0.0.1"
	}
	return host
}
