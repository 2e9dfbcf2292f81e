// Package config is the settings of the controller. No other package of it
// reads the environment.
package config

import (
	"net/netip"
	"time"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

// Settings is the manual page of the controller's options.
type Settings struct {
	Listener `group:"Listener"`
	Store    `group:"Database"`

	AgentUsername string          `group:"Credentials" setting:"AGENT_USERNAME" default:"agent" usage:"user name that all agents register with"`
	AgentPassword settings.Secret `setting:"AGENT_PASSWORD" default:"secret123" mistaken:"CONTROLLER_PASSWORD" usage:"password that all agents register with"`
	AdminUsername string          `setting:"ADMIN_USERNAME" default:"admin" usage:"user name of the admin"`
	AdminPassword settings.Secret `setting:"ADMIN_PASSWORD" default:"admin123" usage:"password of the admin"`

	// Whole seconds: the unit of the HTTP contract.
	DefaultPollInterval int    `group:"Polling and push" setting:"DEFAULT_POLL_INTERVAL" default:"30" mistaken:"POLL_INTERVAL" usage:"seconds between two polls of an agent, until a publish says otherwise"`
	InitialURL          string `setting:"INITIAL_URL" usage:"URL to publish as version 1 where nothing was ever published"`

	settings.Push
	Broker `group:"Embedded NATS"`
	// What the controller can serve: agents are let go, and told to come, no faster.
	PushRate      int           `group:"Pace" setting:"PUSH_RATE" default:"40000" usage:"agents a second that fetch a newer version at most; with a larger fleet they are spread over as many seconds as it takes"`
	SweepInterval time.Duration `setting:"SWEEP_INTERVAL" default:"5m" usage:"how often agents poll all the same while a broker tells them of newer versions"`

	// Requests a second that are let in, each kind apart, and as many at once after a quiet second.
	LimitRegister int `group:"Limits" setting:"LIMIT_REGISTER" default:"500" usage:"registrations and removals of agents a second at most; more are told when to come back (429)"`
	LimitConfig   int `setting:"LIMIT_CONFIG" default:"50000" usage:"polls a second at most; keep it above PUSH_RATE"`
	LimitStatus   int `setting:"LIMIT_STATUS" default:"20000" usage:"reports of agents a second at most"`
	LimitWaiting  int `setting:"LIMIT_WAITING" default:"100000" usage:"polls that are held at once at most; to more the answer is given at once"`
	LimitAdmin    int `setting:"LIMIT_ADMIN" default:"100" usage:"requests of admins a second at most; an admin on this machine is not limited"`

	TrustedProxies []netip.Prefix `setting:"TRUSTED_PROXIES" usage:"addresses or networks of the reverse proxies in front, with commas between: from them X-Forwarded-For names the client, for limits and the audit log; empty to believe no such header"`

	InactiveAfter time.Duration `group:"Fleet" setting:"INACTIVE_AFTER" default:"168h" usage:"how long an agent is unseen before it is inactive: out of lists and rollouts, unless asked for"`
	PruneAfter    time.Duration `setting:"PRUNE_AFTER" default:"2160h" usage:"how long an agent is unseen before it is removed; 0s for never. It registers again should it come back"`
	MaxAgents     int           `setting:"MAX_AGENTS" default:"1000000" usage:"agents that may be registered; no new one is beyond that (507)"`

	settings.Diagnosis `group:"Logs and profiles"`
}

// Listener is where the controller answers, and with which certificate: all that
// the command health needs to know.
type Listener struct {
	Host string `setting:"HOST" default:"127.0.0.1" usage:"address to listen on; 0.0.0.0 for every interface"`
	Port int    `setting:"PORT" default:"8080" usage:"TCP port to listen on; 0 picks a free one"`

	// Files that may change at any time: what is new in them is used at once.
	TLSCertFile     string `setting:"TLS_CERT_FILE" usage:"file of the controller's certificate, and of those that lead to its authority; empty for plain HTTP"`
	TLSKeyFile      string `setting:"TLS_KEY_FILE" usage:"file of its key"`
	TLSClientCAFile string `setting:"TLS_CLIENT_CA_FILE" usage:"file of the authorities that sign agents' certificates; with it no agent is let in without one"`
}

// Store is where versions and agents are kept: all that a command needs to know
// which touches nothing else.
type Store struct {
	DBPath string `setting:"DB_PATH" default:"./controller.db" mistaken:"DATABASE_PATH DB_FILE" usage:"SQLite file that keeps versions and agents; made if missing"`
}

// Passwords that everybody knows. With one of them only this machine may reach
// the controller.
const (
	knownAgentPassword = "secret123"
	knownAdminPassword = "admin123"
)

// Beyond what one machine serves.
const (
	maxPushRate = 1_000_000
	maxLimit    = 1_000_000
	maxAgents   = 100_000_000
)

// PollInterval is DefaultPollInterval as a duration.
func (s *Settings) PollInterval() time.Duration {
	return time.Duration(s.DefaultPollInterval) * time.Second
}

// Validate names every setting that cannot be used.
func (s *Settings) Validate() (faults settings.Faults) {
	faults = append(faults, s.Listener.Validate()...)
	faults = append(faults, s.Store.Validate()...)
	faults.CheckAccount("AGENT_USERNAME", s.AgentUsername, "AGENT_PASSWORD", s.AgentPassword)
	faults.CheckAccount("ADMIN_USERNAME", s.AdminUsername, "ADMIN_PASSWORD", s.AdminPassword)
	faults.Check(s.AdminUsername != s.AgentUsername, "ADMIN_USERNAME", "is the same as AGENT_USERNAME; the two must be told apart")
	known := []string{knownAgentPassword, knownAdminPassword, s.AgentUsername, s.AdminUsername}
	faults.CheckPassword(s.Host, "AGENT_PASSWORD", s.AgentPassword, known...)
	faults.CheckPassword(s.Host, "ADMIN_PASSWORD", s.AdminPassword, known...)
	faults.CheckOnce(settings.IsLoopback(s.Host) || s.AdminPassword != s.AgentPassword, "ADMIN_PASSWORD",
		"is the same as AGENT_PASSWORD, which every agent's machine has; set it to another")
	faults.Check(s.PollInterval() >= models.MinPollInterval && s.PollInterval() <= models.MaxPollInterval,
		"DEFAULT_POLL_INTERVAL", "is %d; it must be %.0f to %.0f seconds", s.DefaultPollInterval, models.MinPollInterval.Seconds(), models.MaxPollInterval.Seconds())
	faults = append(faults, s.Push.Validate()...)
	faults = append(faults, s.Broker.Validate()...)
	if s.Embedded() {
		faults = append(faults, s.validateEmbedded()...)
	}
	faults.Check(s.PushRate >= 1 && s.PushRate <= maxPushRate, "PUSH_RATE", "is %d; it must be 1 to %d", s.PushRate, maxPushRate)
	faults.Check(s.SweepInterval >= models.MinPollInterval && s.SweepInterval <= models.MaxPollInterval && s.SweepInterval%time.Second == 0,
		"SWEEP_INTERVAL", "is %s; it must be whole seconds, 1s to 24h", s.SweepInterval)
	for _, limit := range []struct {
		setting string
		value   int
	}{{"LIMIT_REGISTER", s.LimitRegister}, {"LIMIT_CONFIG", s.LimitConfig}, {"LIMIT_STATUS", s.LimitStatus}, {"LIMIT_ADMIN", s.LimitAdmin}, {"LIMIT_WAITING", s.LimitWaiting}} {
		faults.Check(limit.value >= 1 && limit.value <= maxLimit, limit.setting,
			"is %d; it must be 1 to %d (which is as good as none)", limit.value, maxLimit)
	}
	faults.Check(s.InactiveAfter >= time.Minute, "INACTIVE_AFTER", "is %s; it must be 1m or more", s.InactiveAfter)
	faults.Check(s.MaxAgents >= 1 && s.MaxAgents <= maxAgents, "MAX_AGENTS", "is %d; it must be 1 to %d", s.MaxAgents, maxAgents)
	faults.Check(s.PruneAfter == 0 || s.PruneAfter >= time.Minute, "PRUNE_AFTER", "is %s; it must be 1m or more, or 0s for never", s.PruneAfter)
	if s.InitialURL != "" {
		err := models.PublishRequest{URL: &s.InitialURL}.Validate()
		faults.Check(err == nil, "INITIAL_URL", "cannot be published: %v", err)
	}
	faults = append(faults, s.Diagnosis.Validate()...)
	return faults
}

// Validate names every setting that cannot be used.
func (l *Listener) Validate() (faults settings.Faults) {
	faults.CheckListener(l.Host, l.Port)
	faults.CheckPair("TLS_CERT_FILE", l.TLSCertFile, "TLS_KEY_FILE", l.TLSKeyFile)
	faults.Check(l.TLSClientCAFile == "" || l.TLSCertFile != "", "TLS_CLIENT_CA_FILE",
		"is set, and TLS_CERT_FILE is empty; agents show a certificate to who shows one")
	return faults
}

// Validate names every setting that cannot be used.
func (s *Store) Validate() (faults settings.Faults) {
	faults.Check(s.DBPath != "", "DB_PATH", "is empty; name the file of the database")
	return faults
}
