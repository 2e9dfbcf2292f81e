// Package config defines the controller's settings. No other package of the controller reads
// the environment.
package config

import (
	"net/netip"
	"time"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

// Settings are all settings of the controller. The usage texts are the reference.
type Settings struct {
	Listener `group:"Listener"`
	Store    `group:"Database"`

	AgentUsername string          `group:"Credentials" setting:"AGENT_USERNAME" default:"agent" usage:"user name with which all agents register"`
	AgentPassword settings.Secret `setting:"AGENT_PASSWORD" default:"secret123" mistaken:"CONTROLLER_PASSWORD" usage:"password with which all agents register"`
	AdminUsername string          `setting:"ADMIN_USERNAME" default:"admin" usage:"user name of the admin"`
	AdminPassword settings.Secret `setting:"ADMIN_PASSWORD" default:"admin123" usage:"password of the admin"`

	// In whole seconds, as in the API.
	DefaultPollInterval int    `group:"Polling and push" setting:"DEFAULT_POLL_INTERVAL" default:"30" mistaken:"POLL_INTERVAL" usage:"seconds between two polls of an agent, until a publish sets another interval"`
	InitialURL          string `setting:"INITIAL_URL" usage:"URL to publish as version 1 if the database has no version"`

	settings.Push
	Broker        `group:"Embedded NATS"`
	PushRate      int           `group:"Pace" setting:"PUSH_RATE" default:"40000" usage:"maximum number of agents per second that fetch a new version; a rollout to a larger fleet takes more seconds"`
	SweepInterval time.Duration `setting:"SWEEP_INTERVAL" default:"5m" usage:"time between two resync polls of an agent that receives hints over a broker"`

	// Rates per second of each route class; bursts of as many are accepted after an idle second.
	LimitRegister int `group:"Limits" setting:"LIMIT_REGISTER" default:"500" usage:"maximum number of registrations and removals of agents per second; others get 429 with Retry-After"`
	LimitConfig   int `setting:"LIMIT_CONFIG" default:"50000" usage:"maximum number of polls per second; keep it above PUSH_RATE"`
	LimitStatus   int `setting:"LIMIT_STATUS" default:"20000" usage:"maximum number of reports of agents per second"`
	LimitWaiting  int `setting:"LIMIT_WAITING" default:"100000" usage:"maximum number of waiting long polls; others are answered immediately"`
	LimitAdmin    int `setting:"LIMIT_ADMIN" default:"100" usage:"maximum number of requests of the admin per second; those from this machine are not limited"`

	TrustedProxies []netip.Prefix `setting:"TRUSTED_PROXIES" usage:"addresses or networks of the reverse proxies whose X-Forwarded-For names the client, for limits and the audit log, separated by commas; empty to ignore the header"`

	InactiveAfter time.Duration `group:"Fleet" setting:"INACTIVE_AFTER" default:"168h" usage:"time without a poll or report after which an agent is inactive: rollouts exclude it, and lists too unless requested"`
	PruneAfter    time.Duration `setting:"PRUNE_AFTER" default:"2160h" usage:"time without a poll or report after which an agent is removed; 0s for never. A removed agent that still runs registers again"`
	MaxAgents     int           `setting:"MAX_AGENTS" default:"1000000" usage:"maximum number of registered agents; a new agent beyond it gets 507"`

	settings.Diagnosis `group:"Logs and profiles"`
}

// Listener is the address and certificate of the API. The command health reads only these
// settings.
type Listener struct {
	Host string `setting:"HOST" default:"127.0.0.1" usage:"address to listen on; 0.0.0.0 for every interface"`
	Port int    `setting:"PORT" default:"8080" usage:"TCP port to listen on; 0 picks a free one"`

	// The files are reloaded when they change.
	TLSCertFile     string `setting:"TLS_CERT_FILE" usage:"file with the controller's certificate and its intermediate certificates; empty for plain HTTP"`
	TLSKeyFile      string `setting:"TLS_KEY_FILE" usage:"file with the key of that certificate"`
	TLSClientCAFile string `setting:"TLS_CLIENT_CA_FILE" usage:"file with the authorities that sign agents' certificates; if set, agents must present one"`
}

// Store is the location of the database. The commands backup, export and import read only these
// settings.
type Store struct {
	DBPath string `setting:"DB_PATH" default:"./controller.db" mistaken:"DATABASE_PATH DB_FILE" usage:"SQLite file that stores versions and agents; created if missing"`
}

// Default passwords, which are public. They are valid only if HOST is a loopback address.
const (
	knownAgentPassword = "secret123"
	knownAdminPassword = "admin123"
)

// Upper bounds, above the capacity of a single machine.
const (
	maxPushRate = 1_000_000
	maxLimit    = 1_000_000
	maxAgents   = 100_000_000
)

// PollInterval returns DefaultPollInterval as a duration.
func (s *Settings) PollInterval() time.Duration {
	return time.Duration(s.DefaultPollInterval) * time.Second
}

// Validate returns a fault for every setting that cannot be used.
func (s *Settings) Validate() (faults settings.Faults) {
	faults = append(faults, s.Listener.Validate()...)
	faults = append(faults, s.Store.Validate()...)
	faults.CheckAccount("AGENT_USERNAME", s.AgentUsername, "AGENT_PASSWORD", s.AgentPassword)
	faults.CheckAccount("ADMIN_USERNAME", s.AdminUsername, "ADMIN_PASSWORD", s.AdminPassword)
	faults.Check(s.AdminUsername != s.AgentUsername, "ADMIN_USERNAME",
		"is the same as AGENT_USERNAME; they must differ")
	known := []string{knownAgentPassword, knownAdminPassword, s.AgentUsername, s.AdminUsername}
	faults.CheckPassword(s.Host, "AGENT_PASSWORD", s.AgentPassword, known...)
	faults.CheckPassword(s.Host, "ADMIN_PASSWORD", s.AdminPassword, known...)
	faults.CheckOnce(settings.IsLoopback(s.Host) || s.AdminPassword != s.AgentPassword, "ADMIN_PASSWORD",
		"is the same as AGENT_PASSWORD, which every agent has; set a different one")
	faults.Check(s.PollInterval() >= models.MinPollInterval && s.PollInterval() <= models.MaxPollInterval,
		"DEFAULT_POLL_INTERVAL", "is %d; it must be %.0f to %.0f seconds",
		s.DefaultPollInterval, models.MinPollInterval.Seconds(), models.MaxPollInterval.Seconds())
	faults = append(faults, s.Push.Validate()...)
	faults = append(faults, s.Broker.Validate()...)
	if s.Embedded() {
		faults = append(faults, s.validateEmbedded()...)
	}
	faults.Check(s.PushRate >= 1 && s.PushRate <= maxPushRate, "PUSH_RATE",
		"is %d; it must be 1 to %d", s.PushRate, maxPushRate)
	faults.Check(s.SweepInterval >= models.MinPollInterval && s.SweepInterval <= models.MaxPollInterval &&
		s.SweepInterval%time.Second == 0,
		"SWEEP_INTERVAL", "is %s; it must be whole seconds, 1s to 24h", s.SweepInterval)
	for _, limit := range []struct {
		setting string
		value   int
	}{
		{"LIMIT_REGISTER", s.LimitRegister}, {"LIMIT_CONFIG", s.LimitConfig}, {"LIMIT_STATUS", s.LimitStatus},
		{"LIMIT_ADMIN", s.LimitAdmin}, {"LIMIT_WAITING", s.LimitWaiting},
	} {
		faults.Check(limit.value >= 1 && limit.value <= maxLimit, limit.setting,
			"is %d; it must be 1 to %d (effectively unlimited)", limit.value, maxLimit)
	}
	faults.Check(s.InactiveAfter >= time.Minute, "INACTIVE_AFTER", "is %s; it must be 1m or more", s.InactiveAfter)
	faults.Check(s.MaxAgents >= 1 && s.MaxAgents <= maxAgents, "MAX_AGENTS",
		"is %d; it must be 1 to %d", s.MaxAgents, maxAgents)
	faults.Check(
		s.PruneAfter == 0 || s.PruneAfter >= time.Minute, "PRUNE_AFTER",
		"is %s; it must be 1m or more, or 0s for never", s.PruneAfter,
	)
	if s.InitialURL != "" {
		err := models.PublishRequest{URL: &s.InitialURL}.Validate()
		faults.Check(err == nil, "INITIAL_URL", "cannot be published: %v", err)
	}
	faults = append(faults, s.Diagnosis.Validate()...)
	return faults
}

// Validate returns a fault for every setting that cannot be used.
func (l *Listener) Validate() (faults settings.Faults) {
	faults.CheckListener(l.Host, l.Port)
	faults.CheckPair("TLS_CERT_FILE", l.TLSCertFile, "TLS_KEY_FILE", l.TLSKeyFile)
	faults.Check(l.TLSClientCAFile == "" || l.TLSCertFile != "", "TLS_CLIENT_CA_FILE",
		"requires TLS_CERT_FILE and TLS_KEY_FILE")
	return faults
}

// Validate returns a fault for every setting that cannot be used.
func (s *Store) Validate() (faults settings.Faults) {
	faults.Check(s.DBPath != "", "DB_PATH", "is empty; name the file of the database")
	return faults
}
