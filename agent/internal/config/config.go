// Package config defines the agent's settings: their names, defaults and rules. No other
// package of the agent reads the environment.
package config

import (
	"net/url"
	"strings"

	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

const defaultPassword = "secret123"

// Settings are the options of an agent.
type Settings struct {
	Listener `group:"Listener"`

	ControllerURL      string          `group:"Controller" setting:"CONTROLLER_URL" default:"http://localhost:8080" usage:"where the configuration is fetched"`
	ControllerUsername string          `setting:"CONTROLLER_USERNAME" default:"agent" mistaken:"AGENT_USERNAME" usage:"user name that all agents register with"`
	ControllerPassword settings.Secret `setting:"CONTROLLER_PASSWORD" default:"secret123" mistaken:"AGENT_PASSWORD" usage:"password that all agents register with"`
	ControllerCAFile   string          `setting:"CONTROLLER_CA_FILE" usage:"file of the certificates to trust as the controller's, instead of those of the system"`
	ControllerCertFile string          `setting:"CONTROLLER_CERT_FILE" usage:"file of the client certificate, if the controller has TLS_CLIENT_CA_FILE"`
	ControllerKeyFile  string          `setting:"CONTROLLER_KEY_FILE" usage:"file of its key"`
	settings.Proxy     `group:"Proxy to the controller"`
	WorkerURL          string          `group:"Worker" setting:"WORKER_URL" default:"http://localhost:8082" usage:"the worker that this agent configures"`
	WorkerToken        settings.Secret `setting:"WORKER_TOKEN" usage:"the worker's own WORKER_TOKEN; may stay empty for a worker on this machine"`
	CacheFile          string          `group:"Agent" setting:"CACHE_FILE" default:"./agent_config.cache" usage:"file that keeps this agent's identity and the last good configuration"`
	AllowedHosts       []string        `setting:"ALLOWED_HOSTS" usage:"host names, separated by commas, that requests for /status may name besides localhost and IP addresses"`
	settings.Push      `group:"Push"`
	Ephemeral          bool `group:"Lifetime" setting:"EPHEMERAL" default:"false" usage:"true for an agent that will not return: it deregisters when it ends"`
	settings.Diagnosis `group:"Logs and profiles"`
}

// Listener is where the agent listens. The command health needs no other setting.
type Listener struct {
	Host string `setting:"HOST" default:"127.0.0.1" usage:"address to listen on for /status and the other probes; 0.0.0.0 is every interface"`
	Port int    `setting:"PORT" default:"8081" usage:"TCP port to listen on; 0 picks a free one"`
}

// Validate names every setting that cannot be used.
func (s *Settings) Validate() (faults settings.Faults) {
	faults = append(faults, s.Listener.Validate()...)
	faults.CheckServer("CONTROLLER_URL", s.ControllerURL)
	faults.CheckAccount("CONTROLLER_USERNAME", s.ControllerUsername, "CONTROLLER_PASSWORD", s.ControllerPassword)
	faults.CheckPassword(s.Host, "CONTROLLER_PASSWORD", s.ControllerPassword, defaultPassword, s.ControllerUsername)
	s.checkTLS(&faults)
	s.CheckProxyFor(&faults, s.ControllerURL)
	faults.CheckServer("WORKER_URL", s.WorkerURL)
	faults.CheckBearer("WORKER_TOKEN", s.WorkerToken)
	faults.CheckHosts("ALLOWED_HOSTS", s.AllowedHosts)
	faults.Check(strings.TrimSpace(s.CacheFile) != "", "CACHE_FILE", "is empty; name a file that this agent may write")
	faults = append(faults, s.Push.Validate()...)
	faults.Check(
		!s.Embedded(), "NATS_URL",
		"is embedded, which is for controllers; set it to the controller's NATS_LISTEN, "+
			"such as nats://controller.example.com:4222",
	)
	faults = append(faults, s.Diagnosis.Validate()...)
	return faults
}

// Validate names every setting that cannot be used.
func (l *Listener) Validate() (faults settings.Faults) {
	faults.CheckListener(l.Host, l.Port)
	return faults
}

// checkTLS adds the faults of TLS files, which CONTROLLER_URL must make use of.
func (s *Settings) checkTLS(faults *settings.Faults) {
	faults.CheckPair("CONTROLLER_CERT_FILE", s.ControllerCertFile, "CONTROLLER_KEY_FILE", s.ControllerKeyFile)
	if s.PlainHost() != "" {
		faults.CheckNoTLSFiles("CONTROLLER_URL", "https://",
			tlsfiles.File{Setting: "CONTROLLER_CA_FILE", Path: s.ControllerCAFile},
			tlsfiles.File{Setting: "CONTROLLER_CERT_FILE", Path: s.ControllerCertFile})
	}
}

// ControllerProxy returns the proxy through which the controller is reached, nil for none.
func (s *Settings) ControllerProxy() *url.URL {
	u, err := url.Parse(s.ControllerURL)
	if err != nil {
		return nil
	}
	return s.ProxyFor(u)
}

// PlainHost returns the host of CONTROLLER_URL if it is reached without TLS, else "".
func (s *Settings) PlainHost() string {
	u, err := url.Parse(s.ControllerURL)
	if err != nil || u.Scheme != "http" { // Parse lowers its case
		return ""
	}
	return u.Hostname()
}
