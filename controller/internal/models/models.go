// Package models has the domain types of the controller, and its rules as pure
// functions. It knows neither storage nor transport.
package models

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Kinds of error. The error table of package api maps each to an HTTP status.
var (
	ErrNotFound     = errors.New("not found")
	ErrPrecondition = errors.New("the current configuration is not one that If-Match or If-None-Match allows")
	ErrDraining     = errors.New("the controller is stopping")
	// ErrSecret means that a known id was registered without that agent's secret.
	ErrSecret = errors.New("an agent with this agent_id exists and agent_secret is not its own")
	// ErrCertificate means that the connection's TLS certificate has another name than
	// the one that the agent registered with.
	ErrCertificate = errors.New("the certificate of this connection is not the one that this agent registered with")
)

// TooManyAgentsError rejects a new agent when Max agents are registered.
type TooManyAgentsError struct{ Max int }

func (e *TooManyAgentsError) Error() string {
	return fmt.Sprintf("%d agents are registered, as many as MAX_AGENTS allows", e.Max)
}

// TooOftenError rejects the request of an agent that exceeds its own rate limit.
type TooOftenError struct {
	What string        // what the agent did, as a verb: "reports"
	Wait time.Duration // until the next such request is allowed
}

func (e *TooOftenError) Error() string { return "this agent " + e.What + " too often" }

// InvalidError rejects the value of a field. Detail follows the name in the message.
type InvalidError struct{ Field, Detail string }

func (e *InvalidError) Error() string { return e.Field + " " + e.Detail }

// Content is the part of a configuration that agents receive. Publishing the content
// of the newest version changes nothing.
type Content struct {
	URL          string
	PollInterval time.Duration // whole seconds
	Probe        bool          // workers request the URL before they accept it
}

// Config is one version of the configuration, and its origin.
type Config struct {
	Content
	Version      int64  // 1, 2, 3, …; skips the versions observed after a restore
	ETag         string // strong, with its quotes, as in the header
	Message      string // the reason that the admin gave
	PublishedBy  string // the account
	PublishedAt  time.Time
	SourceIP     string
	RestoredFrom int64 // the version that a rollback copied; 0 for none
}

// Announcement tells agents that a version exists. Agents that receive it spread their
// fetches randomly over Spread.
type Announcement struct {
	Version int64
	ETag    string
	Spread  time.Duration
}

// TokenHash is the SHA-256 digest of an agent's token.
type TokenHash = [sha256.Size]byte

// Agent is the record of an agent.
type Agent struct {
	Seq          int64 // order of registration, from 1; 0 before it is stored
	ID           string
	Hostname     string
	Metadata     []byte // a JSON object
	RegisteredAt time.Time
	Token        TokenHash
	// PreviousToken is also accepted, so that two agents that share an id, for example
	// on a cloned disk, do not invalidate each other's token in turn.
	PreviousToken TokenHash
	// Secret authenticates a re-registration. While it is zero, one registration with
	// the shared credentials is accepted.
	Secret TokenHash
	// Certificate is the name in the TLS certificate that the agent registered over;
	// empty for none.
	Certificate string
	Presence

	// The fields below are in memory only: the next poll sets them again.

	// Held marks an agent that runs a version above the store's newest, under an ETag
	// that the store did not make. It is 1 + the store's newest version at the first such
	// poll, or Released after an admin resumed. It is 0 for all other agents.
	Held int64

	// Unknown means that the agent runs a version that its last poll did not name.
	Unknown bool

	// Mismatch means that the last poll named the applied version, but with another
	// content than that version has.
	Mismatch bool

	// PushError is why the agent polls instead of using its PUSH transport; empty if it
	// does not.
	PushError string
}

// Released is the value of Agent.Held after an admin resumed.
const Released = -1

// Presence is the part of an agent's record that polls and reports change. The store
// receives it in batches.
type Presence struct {
	LastPoll     time.Time      // zero before the first poll
	PollInterval time.Duration  // the longest time to the next poll, as last requested of the agent
	Transport    wire.Transport // how it receives hints; empty for unknown
	Applied      int64          // the version that its worker runs; 0 for none
	AppliedAt    time.Time      // when the controller learned of Applied; zero for unknown
	Attempt      wire.Attempt   // the last reported attempt
	Refused      Refusal
	Degraded     string // why the agent cannot reach or configure its worker; empty while it can
}

// Refusal is the version that the agent's worker refused last, and its error message.
// The zero value is none. That version is not offered again. Attempt does not replace
// it, because a restarted agent reports the version that it runs.
type Refusal struct {
	Version int64
	Error   string
}

// Poll is the state of an agent in one of its polls.
type Poll struct {
	At        time.Time     // by the controller's clock
	Interval  time.Duration // the longest time to the next poll
	Runs      int64         // the version that its worker runs; 0 for none or unknown
	Unknown   bool          // its worker runs a version that the poll does not name
	Transport wire.Transport
	Degraded  string // as Presence.Degraded
	PushError string // as Agent.PushError
	Mismatch  bool   // the agent's content is not that of Runs
	Foreign   bool   // Runs is above Newest, and the store did not make it
	Newest    int64  // the store's newest version
}

// Polled updates the presence from a poll. The version that the agent runs stands in
// for a lost report. reported says whether the poll changed a field that reports set.
func (p *Presence) Polled(poll Poll) (reported bool) {
	p.LastPoll, p.PollInterval, p.Transport, p.Degraded = poll.At, poll.Interval, poll.Transport, poll.Degraded
	if poll.Runs == 0 {
		return false
	}
	reported = p.applied(poll.Runs, poll.At)
	if p.Attempt.Version == poll.Runs && p.Attempt.Status != wire.Applied {
		p.Report(wire.Attempt{Version: poll.Runs, Status: wire.Applied, At: poll.At})
		return true
	}
	return reported
}

// Report updates the presence from a reported attempt.
func (p *Presence) Report(attempt wire.Attempt) {
	switch attempt.Status {
	case wire.Applied:
		p.applied(attempt.Version, attempt.At)
		if p.Refused.Version == attempt.Version {
			p.Refused = Refusal{} // the worker accepts the version now
		}
	case wire.Failed:
		p.Refused = Refusal{Version: attempt.Version, Error: attempt.Error}
	case wire.Applying:
	}
	p.Attempt = attempt
}

func (p *Presence) applied(version int64, at time.Time) (changed bool) {
	changed = p.Applied != version
	if changed {
		p.Applied, p.AppliedAt = version, at
	}
	return changed
}

// Refuses reports whether the agent's worker refused a version.
func (p *Presence) Refuses(version int64) bool { return version != 0 && p.Refused.Version == version }
