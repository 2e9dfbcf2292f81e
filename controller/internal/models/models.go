// Package models is the domain of the controller: what a configuration and an
// agent are, apart from how they are stored and from how they are sent.
package models

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// The kinds of error. Each is mapped to a status in exactly one place, the
// error table of package api.
var (
	ErrNotFound     = errors.New("not found")
	ErrPrecondition = errors.New("the current configuration is not one that If-Match or If-None-Match allows")
	ErrDraining     = errors.New("the controller is stopping")
	// ErrSecret: a registration of a known id came without the secret of that agent.
	ErrSecret = errors.New("an agent with this agent_id exists and agent_secret is not its own")
	// ErrCertificate: the TLS certificate of the connection is not that of the agent.
	ErrCertificate = errors.New("the certificate of this connection is not the one that this agent registered with")
)

// TooManyAgentsError is the error of a new agent where Max are registered.
type TooManyAgentsError struct{ Max int }

func (e *TooManyAgentsError) Error() string {
	return fmt.Sprintf("%d agents are registered, as many as MAX_AGENTS allows", e.Max)
}

// TooOftenError is the error of an agent that does something too often. It may do it
// again after Wait.
type TooOftenError struct {
	What string
	Wait time.Duration
}

func (e *TooOftenError) Error() string { return "this agent " + e.What + " too often" }

// InvalidError is the error of a value that the rules refuse.
type InvalidError struct{ Field, Detail string }

func (e *InvalidError) Error() string { return e.Field + " " + e.Detail }

// Content is what is distributed. Two versions with equal content are no change.
type Content struct {
	URL          string
	PollInterval time.Duration // whole seconds
	Probe        bool          // workers try the URL before they run it
}

// Config is a configuration: a version of the content, and where it came from.
type Config struct {
	Content
	Version      int64  // 1, 2, 3, … without gaps
	ETag         string // strong, in its quotes, as in the header
	Message      string // why it was published
	PublishedBy  string
	PublishedAt  time.Time
	SourceIP     string
	RestoredFrom int64 // the version that a rollback copied; 0 for none
}

// Announcement says that a version exists. Those who hear it spread their fetches
// over Spread.
type Announcement struct {
	Version int64
	ETag    string
	Spread  time.Duration
}

// TokenHash is the SHA-256 digest of an agent's token.
type TokenHash = [sha256.Size]byte

// Agent is an agent as it is stored and listed.
type Agent struct {
	Seq          int64 // order of registration, from 1; 0 before it is stored
	ID           string
	Hostname     string
	Metadata     []byte // a JSON object
	RegisteredAt time.Time
	Token        TokenHash
	// PreviousToken is accepted too, so that two agents that share an id by
	// mistake, say on a cloned disk, do not lock each other out in turns.
	PreviousToken TokenHash
	// Secret is the digest of what the agent proves with that it is the one of
	// this ID. Zeros: one registration with the shared credentials is accepted.
	Secret TokenHash
	// Certificate is the name in the TLS certificate that it registered over;
	// empty for none.
	Certificate string
	Presence

	// Held is set, in memory only, while the agent says that it runs a version above the
	// store's newest, under an ETag that the store did not make: to 1 + the store's newest
	// version when it first said so, and to Released once an admin has had it follow the
	// store. It is 0 otherwise.
	Held int64

	// Unknown says, in memory only, that the last poll did not say which version the
	// agent runs, though it runs one.
	Unknown bool

	// Mismatch says, in memory only, that the last poll named the applied version with
	// another content than that version has.
	Mismatch bool

	// PushError is, in memory only, why the agent polls although its PUSH is another, as
	// it said last; empty otherwise.
	PushError string
}

// Released is a value of Agent.Held.
const Released = -1

// Presence is what changes with every poll and report of an agent. It lives in
// memory and is stored in batches.
type Presence struct {
	LastPoll     time.Time      // zero before the first poll
	PollInterval time.Duration  // within which it was told last to come again
	Transport    wire.Transport // how it hears of a newer version; empty for unknown
	Applied      int64          // the version that its worker runs; 0 for none
	AppliedAt    time.Time      // when the controller heard of it; zero for unknown
	Attempt      wire.Attempt
	Refused      Refusal
	Degraded     string // why it cannot reach or feed its worker, as it said last; empty while it can
}

// Refusal is the version that a worker refused last, and its words. The zero
// value is none. The version is not offered again. It stands apart from
// Attempt, which a restarted agent replaces when it reports what it runs.
type Refusal struct {
	Version int64
	Error   string
}

// Poll is what an agent's poll tells of it.
type Poll struct {
	At        time.Time     // the controller's clock
	Interval  time.Duration // within which it is to come again
	Runs      int64         // the version that its worker runs; 0 where it did not say
	Unknown   bool          // its worker runs something, and it did not say which version
	Transport wire.Transport
	Degraded  string // as Presence.Degraded
	PushError string // as Agent.PushError
	Mismatch  bool   // the content that the agent holds is not that of Runs
	Foreign   bool   // Runs is above Newest, and the store did not make it
	Newest    int64  // the store's newest version
}

// Polled takes a poll into account. The version that runs replaces a report that was
// lost: reported says whether it changed what reports set.
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

// Report takes the outcome of an attempt into account.
func (p *Presence) Report(attempt wire.Attempt) {
	switch attempt.Status {
	case wire.Applied:
		p.applied(attempt.Version, attempt.At)
		if p.Refused.Version == attempt.Version {
			p.Refused = Refusal{} // the worker has changed its mind
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

// Refuses reports whether the agent's worker will not run a version.
func (p *Presence) Refuses(version int64) bool { return version != 0 && p.Refused.Version == version }
