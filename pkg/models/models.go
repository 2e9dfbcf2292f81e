// Package models is the wire contract: the documents that controller, agent, worker and admin
// exchange, and their one validator. What the controller accepts, agent and worker accept too.
package models

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/fleetconf/fleetconf/pkg/etag"
)

// Limits of the contract. A document beyond one is rejected with the name of the field.
const (
	MaxBodyBytes     = 64 << 10         // a JSON document in a request or a response
	MaxURLBytes      = 2048             // the configured URL
	MaxMessageBytes  = 1024             // why a version was published
	MaxErrorBytes    = 1024             // a worker's error message in a report
	MaxETagBytes     = 256              //
	MaxHintBytes     = 1 << 10          // an announcement
	MaxHostnameBytes = 253              // RFC 1035 §2.3.4
	MaxHeaderText    = 256              // a text in a header
	MaxMetadataBytes = 4 << 10          // an agent's description of itself
	MaxMetadataDepth = 16               // levels of objects and arrays in it
	MaxAgentIDBytes  = 64               //
	MaxFleetBytes    = 64               //
	MinPollInterval  = time.Second      //
	MaxPollInterval  = 24 * time.Hour   //
	ConfigPath       = "/api/v1/config" // where a configuration is fetched and published
)

// KeepAlive is how long an agent and its controller keep an idle connection: longer than
// the default SWEEP_INTERVAL, so that one resync reuses the connection of the last.
const KeepAlive = 8 * time.Minute

// WaitSlack returns how much longer than wait a controller may hold a response, so that
// long polls that start together end apart.
func WaitSlack(wait time.Duration) time.Duration { return wait / 16 }

// Headers of the contract that no RFC names.
const (
	// HeaderPollInterval is the poll interval in whole seconds, on every response to a poll.
	HeaderPollInterval = "X-Poll-Interval-Seconds"
	// HeaderSweepInterval is the poll interval of an agent that receives hints, in whole
	// seconds, on every response to a poll.
	HeaderSweepInterval = "X-Sweep-Interval-Seconds"
	// HeaderWait is the longest time in whole seconds that the controller holds this poll. It
	// is missing if the controller does not hold polls.
	HeaderWait = "X-Wait-Seconds"
	// HeaderSpread is on a 200 during a rollout: its duration in milliseconds. Agents delay
	// their reports by it, in favor of agents that fetch the configuration.
	HeaderSpread = "X-Spread-Milliseconds"
	// HeaderTransport is the Transport by which the agent receives hints now.
	HeaderTransport = "X-Transport"
	// HeaderAppliedVersion and HeaderAppliedContent are on a poll of an agent whose worker has a
	// configuration: its version, and the hash of the content that the agent has for it
	// (Config.ContentHash). Gateways change ETags, but not these.
	HeaderAppliedVersion = "X-Applied-Version"
	HeaderAppliedContent = "X-Applied-Content"
	// HeaderOlderBecause is on a 200 whose version is below the applied one: OlderPublish or
	// OlderResume. Without it the agent ignores the version.
	HeaderOlderBecause = "X-Older-Because"
	// HeaderFleet is the id of the controller's fleet, on every response to a poll.
	HeaderFleet = "X-Fleet"
	// HeaderWorkerError is on a poll of an agent that cannot reach or configure its worker: the
	// reason, as HeaderText encodes it.
	HeaderWorkerError = "X-Worker-Error"
	// HeaderPushError is on a poll of an agent that does not receive hints: the reason, as
	// HeaderText encodes it.
	HeaderPushError = "X-Push-Error"
	// HeaderConfigVersion is the version that a hit was served with.
	HeaderConfigVersion = "X-Config-Version"
)

// Why a controller offers an older version than the applied one.
const (
	OlderPublish = "publish" // an admin published after the controller first saw the applied one
	OlderResume  = "resume"  // an admin told agents to follow the store
)

// Transport is how an agent learns of a newer version.
type Transport string

// The transports. Polling is the fallback of all others.
const (
	Polling  Transport = "poll"
	LongPoll Transport = "longpoll"
	Redis    Transport = "redis"
	NATS     Transport = "nats"
)

// Transports are all of them.
var Transports = []Transport{Polling, LongPoll, Redis, NATS}

// Data is the part of a configuration that the admin writes and the worker runs.
type Data struct {
	// URL is fetched for every hit: absolute, http or https.
	URL string `json:"url" example:"https://example.com/"`
	// Probe makes a worker fetch the URL once before it applies it, and refuse one that does
	// not answer with a status below 500.
	Probe bool `json:"probe,omitzero"`
}

// Config is a configuration as an agent fetches it.
type Config struct {
	Version             int64 `json:"version" example:"8"`
	Data                Data  `json:"data"`
	PollIntervalSeconds int   `json:"poll_interval_seconds" example:"30"`
}

// PollInterval returns PollIntervalSeconds as a duration.
func (c Config) PollInterval() time.Duration {
	return time.Duration(c.PollIntervalSeconds) * time.Second
}

// ContentHash returns the hash of the content of c (etag.HashContent).
func (c Config) ContentHash() string {
	return etag.HashContent(c.Data.URL, c.PollIntervalSeconds, c.Data.Probe)
}

// PublishRequest publishes a configuration. Omitted fields keep their value, but the message
// belongs to this version only.
type PublishRequest struct {
	URL                 *string `json:"url" example:"https://example.com/"`
	PollIntervalSeconds *int    `json:"poll_interval_seconds,omitempty" example:"30"`
	Probe               *bool   `json:"probe,omitempty"` // workers fetch the URL before they apply it
	Message             *string `json:"message,omitempty" example:"move to the new site"`
}

// PublishResponse is the result of a publish, a rollback or a resume. If the content was current
// already, Changed is false and Version is the current one.
type PublishResponse struct {
	Message string `json:"message" example:"Configuration published"`
	Version int64  `json:"version" example:"8"`
	Changed bool   `json:"changed" example:"true"`
}

// Preview is the result that a publish or a rollback would have. Version is the one that it
// would create.
type Preview struct {
	Message string       `json:"message" example:"Nothing was stored: dry run"`
	Version int64        `json:"version" example:"9"`
	Changed bool         `json:"changed" example:"true"`
	DryRun  bool         `json:"dry_run" example:"true"`
	Config  Config       `json:"config"`  // as agents would fetch it
	Changes []Difference `json:"changes"` // from the current configuration
	Agents  int          `json:"agents" example:"20"`
}

// PublishedConfig is a version in the history.
type PublishedConfig struct {
	Version             int64     `json:"version" example:"8"`
	Data                Data      `json:"data"`
	PollIntervalSeconds int       `json:"poll_interval_seconds" example:"30"`
	ETag                string    `json:"etag" example:"\"pXq3nYk0m1Zr7tQe5uWc2A\""` // quoted, as in the header
	Message             string    `json:"message" example:"move to the new site"`
	PublishedBy         string    `json:"published_by" example:"admin"`
	PublishedAt         time.Time `json:"published_at"`
	SourceIP            string    `json:"source_ip" example:"127.0.0.1"`
	RestoredFrom        *int64    `json:"restored_from"` // the version that a rollback copied, else null
}

// RegisterRequest registers an agent, or re-registers the agent of AgentID and AgentSecret.
// Without an id the controller makes one.
type RegisterRequest struct {
	Hostname string         `json:"hostname" example:"web-17"`
	Metadata jsontext.Value `json:"metadata,omitempty" swaggertype:"object"` // any JSON object, stored unchanged
	AgentID  string         `json:"agent_id,omitempty" example:"019aa1f0-7e2c-7c31-9a51-0a4f6e1d2b3c"`
	// AgentSecret is made by the agent. Later registrations of this agent_id require it.
	AgentSecret string `json:"agent_secret,omitempty" example:"pXq3nYk0m1Zr7tQe5uWc2AhV9bLs4dFg6jKo8iTzRwE"`
}

// RegisterResponse is an agent's identity. The token is sent only here; the controller stores
// its hash.
type RegisterResponse struct {
	AgentID             string `json:"agent_id"`
	AgentToken          string `json:"agent_token"`
	PollURL             string `json:"poll_url" example:"config"` // relative to the URL of the registration
	PollIntervalSeconds int    `json:"poll_interval_seconds" example:"30"`
}

// AttemptStatus is the outcome of an agent's last attempt to apply a version.
type AttemptStatus string

// The outcomes. APPLIED means that the worker accepted exactly that version.
const (
	Applying AttemptStatus = "APPLYING"
	Applied  AttemptStatus = "APPLIED"
	Failed   AttemptStatus = "FAILED"
)

// Report is an agent's report of an attempt.
type Report struct {
	Version int64         `json:"version" example:"8"`
	Status  AttemptStatus `json:"status" enums:"APPLYING,APPLIED,FAILED" example:"APPLIED"`
	Error   string        `json:"error,omitempty"` // the worker's error message
	ETag    string        `json:"etag,omitempty"`  // of the version, as it was fetched
}

// Attempt is the last report of an agent, with the time of the controller.
type Attempt struct {
	Version int64         `json:"version"`
	Status  AttemptStatus `json:"status" enums:"APPLYING,APPLIED,FAILED"`
	Error   string        `json:"error"`
	At      time.Time     `json:"at"`
}

// Agent is an agent in the admin's API.
type Agent struct {
	ID             string         `json:"id"`
	Hostname       string         `json:"hostname"`
	Metadata       jsontext.Value `json:"metadata" swaggertype:"object"`
	RegisteredAt   time.Time      `json:"registered_at"`
	LastPoll       *time.Time     `json:"last_poll"` // null until the first poll
	Status         AgentStatus    `json:"status" enums:"online,stale,offline,inactive,failed,conflict,degraded"`
	DesiredVersion *int64         `json:"desired_version"`                   // null until something is published
	DesiredBecause string         `json:"desired_because" example:"current"` // why the agent is offered that version, or keeps what it runs
	AppliedVersion *int64         `json:"applied_version"`                   // null until its worker has accepted one
	LastAttempt    *Attempt       `json:"last_attempt"`
	// ContentMismatch reports that the agent's content of its applied version is not that of
	// the store, for example because its cache was edited.
	ContentMismatch bool       `json:"content_mismatch"`
	Transport       *Transport `json:"transport" enums:"poll,longpoll,redis,nats"` // null until the first poll
	PushError       *string    `json:"push_error"`                                 // why it polls instead of using its PUSH; null otherwise
	Degraded        *string    `json:"degraded"`                                   // why it cannot reach or configure its worker; null while it can
}

// WorkerConfig is what an agent pushes to its worker. A manual push may omit the version, which
// is then 0.
type WorkerConfig struct {
	URL     string `json:"url" example:"https://example.com/"`
	Version int64  `json:"version,omitempty" example:"8"`
	Probe   bool   `json:"probe,omitzero"` // fetch the URL before it is applied
}

// WorkerAccepted is a worker's response to a push.
type WorkerAccepted struct {
	Message string `json:"message" example:"Configuration applied"`
	Version int64  `json:"version" example:"8"`
}

// WorkerState is the configuration of a worker. Instance is random per process: it changes when
// the worker restarts.
type WorkerState struct {
	URL      string `json:"url"`
	Version  int64  `json:"version"`
	Instance string `json:"instance"`
}
