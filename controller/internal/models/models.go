// Package models is the domain of the controller: what a configuration and an
// agent are, apart from how they are stored and from how they are sent.
package models

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/fleetconf/fleetconf/pkg/etag"
)

// The kinds of error. Each is mapped to a status in exactly one place, the
// error table of package api.
var (
	ErrNotFound     = errors.New("not found")
	ErrPrecondition = errors.New("the current configuration is not one that If-Match or If-None-Match allows")
	ErrBusy         = errors.New("the database is locked by another process, or too many writes wait for it")
	ErrFull         = errors.New("the disk or the database is full")
	ErrReadOnly     = errors.New("the database cannot be written")
)

// InvalidError is the error of a value that the rules refuse.
type InvalidError struct{ Field, Detail string }

func (e *InvalidError) Error() string { return e.Field + " " + e.Detail }

// Content is what is distributed. Two versions with equal content are no change.
type Content struct {
	URL          string
	PollInterval time.Duration // whole seconds
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

// ETagOf makes the validator of a version: it depends on the store's epoch, so
// that a store made anew never validates what another one served; on the
// version; and on a hash of the content, so that a restored store that reaches
// a version again with other content does not either.
func ETagOf(epoch string, version int64, c Content) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s\x00%d", epoch, version, c.URL, c.PollInterval))
	return etag.Quote(base64.RawURLEncoding.EncodeToString(sum[:16]))
}

// Draft is what a publish asks for. A nil field keeps the value that is
// current.
type Draft struct {
	URL          *string
	PollInterval *time.Duration
	Message      string
	PublishedBy  string
	SourceIP     string

	// Allowed judges the preconditions of the caller against the ETag of the
	// current configuration, "" for none. It is asked within the transaction.
	Allowed func(etag string) bool
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
	Presence
}

// Presence is what changes with every poll and report of an agent. It lives in
// memory and is stored in batches.
type Presence struct {
	LastPoll     time.Time     // zero before the first poll
	PollInterval time.Duration // what the agent was told last
	Applied      int64         // the version that its worker runs; 0 for none
	Attempt      Attempt
	// Refused is the version that the worker refused last, 0 for none. It is not
	// offered again. It stands apart from Attempt, which a restarted agent
	// replaces when it reports what it runs.
	Refused int64
}

// AttemptStatus is the outcome of an attempt.
type AttemptStatus string

// The outcomes.
const (
	Applying AttemptStatus = "APPLYING"
	Applied  AttemptStatus = "APPLIED"
	Failed   AttemptStatus = "FAILED"
)

// Attempt is the last report of an agent. Its zero value is none.
type Attempt struct {
	Version int64
	Status  AttemptStatus
	Error   string
	At      time.Time // the controller's clock
}

// Status is how an agent is, as far as the controller can tell.
type Status string

// The states of an agent.
const (
	Online  Status = "online"
	Stale   Status = "stale"
	Offline Status = "offline"
	Refused Status = "failed" // heard of, but its worker refused the desired version
)

// Missed intervals after which an agent is no longer online, then offline.
const (
	onlineIntervals = 3
	staleIntervals  = 10
)

// StatusAt tells how the agent is at a moment, when desired is the current version.
func (a *Agent) StatusAt(now time.Time, desired int64) Status {
	seen := a.LastPoll
	if seen.IsZero() {
		seen = a.RegisteredAt
	}
	switch unseen := now.Sub(seen); {
	case unseen > staleIntervals*a.PollInterval:
		return Offline
	case a.Refuses(desired):
		return Refused
	case unseen > onlineIntervals*a.PollInterval:
		return Stale
	}
	return Online
}

// Polled takes into account that the agent was here and, where runs is not 0,
// what it said that its worker runs. That heals a report that was lost.
func (p *Presence) Polled(now time.Time, interval time.Duration, runs int64) {
	p.LastPoll, p.PollInterval = now, interval
	if runs == 0 {
		return
	}
	p.Applied = runs
	if p.Attempt.Version == runs && p.Attempt.Status != Applied {
		p.Report(Attempt{Version: runs, Status: Applied, At: now})
	}
}

// Report takes the outcome of an attempt into account.
func (p *Presence) Report(attempt Attempt) {
	switch attempt.Status {
	case Applied:
		p.Applied = attempt.Version
		if p.Refused == attempt.Version {
			p.Refused = 0 // the worker has changed its mind
		}
	case Failed:
		p.Refused = attempt.Version
	case Applying:
	}
	p.Attempt = attempt
}

// Refuses reports whether the agent's worker will not run a version.
func (p *Presence) Refuses(version int64) bool { return version != 0 && p.Refused == version }
