// Package models is the wire contract: what controller, agent and worker say
// to each other and to the admin, and the one validator that judges it. What
// the controller accepts, agent and worker accept, because all three ask here.
package models

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/fleetconf/fleetconf/pkg/etag"
)

// Bounds of the contract. A document outside of them is refused with the name
// of the field.
const (
	MaxBodyBytes     = 64 << 10         // a JSON document in a request or an answer
	MaxURLBytes      = 2048             // the configured URL
	MaxMessageBytes  = 1024             // why a version was published
	MaxErrorBytes    = 1024             // a worker's own words in a report
	MaxETagBytes     = 256              //
	MaxHintBytes     = 1 << 10          // an announcement
	MaxHostnameBytes = 253              // RFC 1035 §2.3.4
	MaxHeaderText    = 256              // a text in a header
	MaxMetadataBytes = 4 << 10          // what an agent says of itself
	MaxMetadataDepth = 16               // levels of objects and arrays in that
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
	// HeaderPollInterval repeats the poll interval, in whole seconds, on every
	// answer to a poll, the ones without a body too.
	HeaderPollInterval = "X-Poll-Interval-Seconds"
	// HeaderSweepInterval is how often an agent polls while it hears of newer
	// versions by push, in whole seconds; on every answer to a poll.
	HeaderSweepInterval = "X-Sweep-Interval-Seconds"
	// HeaderWait says that the answer to a poll was held, or would have been, and
	// for how long at most, in whole seconds. It is missing where nothing is held.
	HeaderWait = "X-Wait-Seconds"
	// HeaderSpread is on a 200 while the whole fleet fetches: how long that takes, in
	// milliseconds. A report that is sent so much later leaves the controller to
	// those who wait for the configuration.
	HeaderSpread = "X-Spread-Milliseconds"
	// HeaderTransport is how whoever polls hears of newer versions at this moment.
	HeaderTransport = "X-Transport"
	// HeaderAppliedVersion and HeaderAppliedContent are on a poll of an agent whose
	// worker runs something: the version, and the hash of the content that the agent
	// holds for it (Config.ContentHash). A gateway that changes ETags leaves them alone.
	HeaderAppliedVersion = "X-Applied-Version"
	HeaderAppliedContent = "X-Applied-Content"
	// HeaderOlderBecause is on a 200 whose version is below the applied one: OlderPublish
	// or OlderResume. Without it the agent keeps what it runs.
	HeaderOlderBecause = "X-Older-Because"
	// HeaderFleet is on every answer to a poll: the id of the controller's fleet.
	HeaderFleet = "X-Fleet"
	// HeaderWorkerError is on a poll of an agent that cannot reach or feed its worker,
	// and says why, as HeaderText makes it.
	HeaderWorkerError = "X-Worker-Error"
	// HeaderPushError is on a poll of an agent that polls because its push does not
	// work, and says why, as HeaderText makes it.
	HeaderPushError = "X-Push-Error"
	// HeaderConfigVersion names the version that a hit was served with.
	HeaderConfigVersion = "X-Config-Version"
)

// Why a controller offers an older version than the applied one.
const (
	OlderPublish = "publish" // an admin has published since the controller first saw the applied one
	OlderResume  = "resume"  // an admin has had agents follow the store
)

// Transport is how an agent hears of a newer version.
type Transport string

// The transports. Polling is beneath all of them, and all that is left where
// push is switched off or lost.
const (
	Polling  Transport = "poll"
	LongPoll Transport = "longpoll"
	Redis    Transport = "redis"
	NATS     Transport = "nats"
)

// Data is what a worker runs: the part of a configuration that the admin writes.
type Data struct {
	// URL is fetched for every hit: absolute, http or https.
	URL string `json:"url" example:"https://example.com/"`
	// Probe has a worker try the URL once before it runs it, and refuse one that
	// does not answer with a status below 500.
	Probe bool `json:"probe,omitzero"`
}

// Config is a configuration as an agent fetches it.
type Config struct {
	Version             int64 `json:"version" example:"8"`
	Data                Data  `json:"data"`
	PollIntervalSeconds int   `json:"poll_interval_seconds" example:"30"`
}

// PollInterval is PollIntervalSeconds as a duration.
func (c Config) PollInterval() time.Duration {
	return time.Duration(c.PollIntervalSeconds) * time.Second
}

// ContentHash identifies what c distributes (etag.HashContent).
func (c Config) ContentHash() string {
	return etag.HashContent(c.Data.URL, c.PollIntervalSeconds, c.Data.Probe)
}

// PublishRequest publishes a configuration. A field that is left out keeps the
// value it has; the message belongs to this publish alone.
type PublishRequest struct {
	URL                 *string `json:"url" example:"https://example.com/"`
	PollIntervalSeconds *int    `json:"poll_interval_seconds,omitempty" example:"30"`
	Probe               *bool   `json:"probe,omitempty"` // workers try the URL before they run it
	Message             *string `json:"message,omitempty" example:"move to the new site"`
}

// PublishResponse says what a publish, a rollback or a resume came to. Changed
// is false when the same content was current already: then Version is the one
// that carries it.
type PublishResponse struct {
	Message string `json:"message" example:"Configuration published"`
	Version int64  `json:"version" example:"8"`
	Changed bool   `json:"changed" example:"true"`
}

// Preview says what a publish or a rollback would come to: nothing was stored.
// Version is the one that it would be.
type Preview struct {
	Message string       `json:"message" example:"Nothing was stored: dry run"`
	Version int64        `json:"version" example:"9"`
	Changed bool         `json:"changed" example:"true"`
	DryRun  bool         `json:"dry_run" example:"true"`
	Config  Config       `json:"config"`  // as agents would fetch it
	Changes []Difference `json:"changes"` // against what is current
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

// RegisterRequest registers an agent. With the id and the secret of a known agent
// it is the same agent, come back; without an id the controller makes one.
type RegisterRequest struct {
	Hostname string         `json:"hostname" example:"web-17"`
	Metadata jsontext.Value `json:"metadata,omitempty" swaggertype:"object"` // any JSON object, kept as it was sent
	AgentID  string         `json:"agent_id,omitempty" example:"019aa1f0-7e2c-7c31-9a51-0a4f6e1d2b3c"`
	// AgentSecret is made by the agent, never by the controller: from now on a
	// registration of this agent_id needs it.
	AgentSecret string `json:"agent_secret,omitempty" example:"pXq3nYk0m1Zr7tQe5uWc2AhV9bLs4dFg6jKo8iTzRwE"`
}

// RegisterResponse is an agent's identity. The token is said once, here, and
// kept by the controller as a hash only.
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

// Report is what an agent says of an attempt.
type Report struct {
	Version int64         `json:"version" example:"8"`
	Status  AttemptStatus `json:"status" enums:"APPLYING,APPLIED,FAILED" example:"APPLIED"`
	Error   string        `json:"error,omitempty"` // the worker's own words
	ETag    string        `json:"etag,omitempty"`  // of the version, as it was fetched
}

// Attempt is the last report of an agent, with the controller's clock.
type Attempt struct {
	Version int64         `json:"version"`
	Status  AttemptStatus `json:"status" enums:"APPLYING,APPLIED,FAILED"`
	Error   string        `json:"error"`
	At      time.Time     `json:"at"`
}

// Agent is an agent as the admin sees it.
type Agent struct {
	ID             string         `json:"id"`
	Hostname       string         `json:"hostname"`
	Metadata       jsontext.Value `json:"metadata" swaggertype:"object"`
	RegisteredAt   time.Time      `json:"registered_at"`
	LastPoll       *time.Time     `json:"last_poll"` // null until the first poll
	Status         AgentStatus    `json:"status" enums:"online,stale,offline,inactive,failed,conflict,degraded"`
	DesiredVersion *int64         `json:"desired_version"`                   // null until something is published
	DesiredBecause string         `json:"desired_because" example:"current"` // why the agent is offered that version, or keeps what it runs
	AppliedVersion *int64         `json:"applied_version"`                   // null until its worker accepted one
	LastAttempt    *Attempt       `json:"last_attempt"`
	// ContentMismatch says that what the agent holds as its applied version is not the
	// content of that version: its cache was edited, say.
	ContentMismatch bool       `json:"content_mismatch"`
	Transport       *Transport `json:"transport" enums:"poll,longpoll,redis,nats"` // null until it said so in a poll
	PushError       *string    `json:"push_error"`                                 // why it polls although its PUSH is another; null otherwise
	Degraded        *string    `json:"degraded"`                                   // why it cannot reach or feed its worker; null while it can
}

// WorkerConfig is what an agent pushes to its worker. A push by hand may leave
// the version out: then it is 0.
type WorkerConfig struct {
	URL     string `json:"url" example:"https://example.com/"`
	Version int64  `json:"version,omitempty" example:"8"`
	Probe   bool   `json:"probe,omitzero"` // try the URL before it is run
}

// WorkerAccepted is a worker's answer to a push.
type WorkerAccepted struct {
	Message string `json:"message" example:"Configuration applied"`
	Version int64  `json:"version" example:"8"`
}

// WorkerState is what a worker runs. Instance is random per process: when it
// changes, the worker was restarted.
type WorkerState struct {
	URL      string `json:"url"`
	Version  int64  `json:"version"`
	Instance string `json:"instance"`
}
