// Package models holds the words that the parts of the agent share: who it is
// to the controller, what it holds, and how an attempt can end. It knows no
// HTTP and no file.
package models

import (
	"errors"
	"fmt"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Identity is what an agent authenticates as. The zero Identity belongs to an
// agent that never registered. It never prints its token and its secret.
type Identity struct {
	AgentID    string `json:"agent_id"`
	AgentToken string `json:"agent_token"`
	// AgentSecret is made by the agent and proves, when the token is not valid any
	// more, that AgentID is its own. Builds before it had none.
	AgentSecret string `json:"agent_secret,omitempty"`
}

func (i Identity) String() string   { return i.AgentID }
func (i Identity) GoString() string { return i.AgentID }

// Release is a configuration with the ETag that it was fetched under, as it
// stood in the header; "" if the answer had none.
type Release struct {
	ETag      string      `json:"etag"`
	Config    wire.Config `json:"config"`
	FetchedAt time.Time   `json:"fetched_at"` // for people: nothing orders by it
}

// Same reports whether both are the same release, whenever they were fetched.
func (r *Release) Same(other *Release) bool {
	if r == nil || other == nil {
		return r == other
	}
	return r.ETag == other.ETag && r.Config == other.Config
}

// Push is what a worker is told to run it.
func (r *Release) Push() wire.WorkerConfig {
	return wire.WorkerConfig{URL: r.Config.Data.URL, Version: r.Config.Version, Probe: r.Config.Data.Probe}
}

// RunsOn reports whether that is what a worker runs: the version alone would
// not do, for a worker can be told anything by hand.
func (r *Release) RunsOn(w wire.WorkerState) bool {
	return w.Version == r.Config.Version && w.URL == r.Config.Data.URL
}

// State is all that an agent remembers over a restart.
type State struct {
	Identity Identity `json:"identity"`
	// Registered is a digest of what the controller was told last of this agent;
	// empty if that is not known.
	Registered string   `json:"registered,omitempty"`
	Fleet      string   `json:"fleet,omitempty"`     // the id that the controller named last
	Candidate  *Release `json:"candidate,omitempty"` // fetched; the worker has not judged it yet
	LastGood   *Release `json:"last_good,omitempty"` // the worker accepted it last: the applied one
}

// Desired is what the worker should run, nil if nothing was ever fetched.
func (s State) Desired() *Release {
	if s.Candidate != nil {
		return s.Candidate
	}
	return s.LastGood
}

// Query is what to ask the controller for.
type Query struct {
	ETag      string         // names the applied release; "" if there is none
	Applied   *wire.Config   // what the worker runs; nil if it runs nothing
	Transport wire.Transport // how this agent hears of newer versions now
	// MayWait has the controller hold its answer for up to Wait while there is
	// nothing newer, or say at least whether it would.
	MayWait bool
	Wait    time.Duration // whole seconds
	// PushError is why Transport is poll although PUSH asks for another; else "".
	PushError string
	// WorkerError is why the agent cannot reach or feed its worker; "" while it can.
	WorkerError string
}

// Answer is what the controller said. All but Release is set with some errors
// too.
type Answer struct {
	Release        *Release      // nil with an error
	PollInterval   time.Duration // within the bounds of the contract; 0 if the answer named none
	ResyncInterval time.Duration // as PollInterval
	Holds          bool          // the controller holds answers
	Held           time.Duration // how long it held this one at most
	Spread         time.Duration // how long the whole fleet takes to fetch this; 0 for nobody else
	Fleet          string        // the id of the controller's fleet; "" if it named none
	OlderBecause   string        // why Release is older than what the worker runs; "" for no reason
}

// Registration is who the controller takes this agent for.
type Registration struct {
	Identity     Identity
	PollInterval time.Duration // as in Answer
}

// What the controller answers besides a release. All else is an outage, to be
// tried again.
var (
	// ErrNotModified: what If-None-Match named is what this agent should run.
	ErrNotModified = errors.New("not modified")
	// ErrNothingPublished: there is no configuration yet.
	ErrNothingPublished = errors.New("nothing is published yet")
	// ErrUnauthorized: the credentials are wrong, or not valid any more.
	ErrUnauthorized = errors.New("credentials refused")
	// ErrForbidden is an ErrUnauthorized: the credentials are right, and the
	// certificate is not.
	ErrForbidden = fmt.Errorf("%w for this connection", ErrUnauthorized)
	// ErrCut: something between here and the controller has no patience for an
	// answer that is held.
	ErrCut = errors.New("the wait was cut short on the way")
	// ErrProxy is an ErrCut: a proxy answered with an error that may also mean that
	// the controller is away.
	ErrProxy = fmt.Errorf("%w, or the controller is away", ErrCut)
	// ErrInvalidConfig: what came is no configuration that may be run.
	ErrInvalidConfig = errors.New("not a valid configuration")
	// ErrOlder: what came is older than what the worker runs, and the controller does
	// not say why.
	ErrOlder = errors.New("an older configuration without a reason")
	// ErrUnwanted: the controller will never take this report.
	ErrUnwanted = errors.New("report not wanted")
)

// ErrNothingRuns is the answer of a worker that has no configuration yet.
var ErrNothingRuns = errors.New("the worker runs no configuration yet")

// Refused is a worker's no to a configuration. The same one is not pushed again
// until it is offered again.
type Refused struct {
	Message string // the worker's own
}

func (e *Refused) Error() string { return "the worker refused: " + e.Message }

// RetryLater is the error of a neighbour that named the time before which
// nothing should be tried again.
type RetryLater struct {
	After time.Duration
	Err   error
}

func (e *RetryLater) Error() string { return fmt.Sprintf("%v (asked to wait %s)", e.Err, e.After) }
func (e *RetryLater) Unwrap() error { return e.Err }

// Floor is the wait that err asks for, 0 if it asks for none.
func Floor(err error) time.Duration {
	var later *RetryLater
	if errors.As(err, &later) {
		return later.After
	}
	return 0
}

// Status is what GET /status answers. Times and texts are empty, numbers null,
// until there is something to say.
type Status struct {
	AgentID             string         `json:"agent_id"`
	Registered          bool           `json:"registered"` // the controller has accepted the token since this process started
	DesiredVersion      *int64         `json:"desired_version"`
	AppliedVersion      *int64         `json:"applied_version"` // the version that the worker accepted last
	Transport           wire.Transport `json:"transport"`       // what newer versions are heard by now
	Push                PushStatus     `json:"push"`
	PollIntervalSeconds int            `json:"poll_interval_seconds"`
	LastFetch           *time.Time     `json:"last_fetch"` // last answer to a poll, a 304 too
	LastError           string         `json:"last_error"` // "" while all is well
	CacheAgeSeconds     *int64         `json:"cache_age_seconds"`
	Worker              WorkerStatus   `json:"worker"`
	Cache               CacheStatus    `json:"cache"`

	ControllerError string `json:"-"` // LastError holds it too
	InSync          bool   `json:"-"` // the worker runs the last good configuration, or the candidate
}

// PushStatus says whether newer versions are heard of between two polls.
type PushStatus struct {
	Transport wire.Transport `json:"transport"` // what PUSH asks for; poll for none
	Healthy   bool           `json:"healthy"`
	Error     string         `json:"error"`
}

// WorkerStatus is how the worker was when last asked.
type WorkerStatus struct {
	Reachable bool   `json:"reachable"`
	Version   *int64 `json:"version"` // null while it runs nothing
	Instance  string `json:"instance"`
	Error     string `json:"error"`
}

// CacheStatus says whether a restart of the agent would find what it holds.
type CacheStatus struct {
	Writable bool   `json:"writable"`
	Error    string `json:"error"`
}
