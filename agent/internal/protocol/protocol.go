// Package protocol holds what an agent exchanges with its controller and its worker, and
// the errors that either answers with. It knows no HTTP.
package protocol

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Identity is what an agent authenticates as. The zero Identity belongs to an agent
// that never registered. Printing it shows neither the token nor the secret.
type Identity struct {
	AgentID    string `json:"agent_id"`
	AgentToken string `json:"agent_token"`
	// AgentSecret is made by the agent. It proves that AgentID is its own when the
	// token is not valid any more. Older builds have none.
	AgentSecret string `json:"agent_secret,omitempty"`
}

func (i Identity) String() string   { return i.AgentID }
func (i Identity) GoString() string { return i.AgentID }

// Release is a configuration with the ETag that it was fetched under, as the header had
// it; "" if there was none.
type Release struct {
	ETag      string      `json:"etag"`
	Config    wire.Config `json:"config"`
	FetchedAt time.Time   `json:"fetched_at"` // for people; nothing is ordered by it
}

// Same reports whether both are the same release, whenever they were fetched.
func (r *Release) Same(other *Release) bool {
	if r == nil || other == nil {
		return r == other
	}
	return r.ETag == other.ETag && r.Config == other.Config
}

// WithETagOf returns r, or the known release with the same content if a gateway has dropped
// the ETag of r. Known releases may be nil.
func (r *Release) WithETagOf(known ...*Release) *Release {
	for _, k := range known {
		if k != nil && r.ETag == "" && r.Config == k.Config {
			r = k
		}
	}
	return r
}

// WorkerConfig returns what to push to a worker that should run the release.
func (r *Release) WorkerConfig() wire.WorkerConfig {
	return wire.WorkerConfig{URL: r.Config.Data.URL, Version: r.Config.Version, Probe: r.Config.Data.Probe}
}

// RunsOn reports whether a worker runs the release. It compares the URL too, because
// anyone with access to a worker can push a configuration to it.
func (r *Release) RunsOn(w wire.WorkerState) bool {
	return w.Version == r.Config.Version && w.URL == r.Config.Data.URL
}

// Query is what to ask the controller for.
type Query struct {
	ETag      string         // of the applied release; "" if there is none
	Applied   *wire.Config   // what the worker runs; nil if it runs nothing
	Transport wire.Transport // how this agent learns of newer versions now
	// MayWait makes the query a long poll: the controller delays its answer for up to
	// Wait, in whole seconds, until there is something newer. With a Wait of 0 the
	// controller only says whether it supports long polls.
	MayWait     bool
	Wait        time.Duration
	PushError   string // why Transport is poll although PUSH asks for another; else ""
	WorkerError string // why the agent cannot reach the worker or push to it; "" while it can
}

// Answer is the controller's answer to a Query. With some errors all but Release is set
// too.
type Answer struct {
	Release        *Release      // nil with an error
	PollInterval   time.Duration // within the bounds of the contract; 0 if the answer named none
	ResyncInterval time.Duration // as PollInterval
	CanWait        bool          // the controller supports long polls
	Waited         time.Duration // how long it delayed this answer at most
	Spread         time.Duration // how long the whole fleet takes to fetch this; 0: it is for this agent alone
	Fleet          string        // the id of the controller's fleet; "" if it named none
	OlderBecause   string        // why Release is older than what the worker runs; "" for no reason
}

// Registration is the controller's answer to a registration.
type Registration struct {
	Identity     Identity
	PollInterval time.Duration // as in Answer
}

// What the controller answers besides a release. Any other error is an outage, and is
// retried.
var (
	// ErrNotModified: the agent should run what If-None-Match named.
	ErrNotModified = errors.New("not modified")
	// ErrNothingPublished: there is no configuration yet.
	ErrNothingPublished = errors.New("nothing is published yet")
	// ErrUnauthorized: the credentials are wrong, or not valid any more.
	ErrUnauthorized = errors.New("credentials refused")
	// ErrForbidden is an ErrUnauthorized: the credentials are valid, and the client
	// certificate is not.
	ErrForbidden = fmt.Errorf("%w for this connection", ErrUnauthorized)
	// ErrCut: a proxy ended a long poll.
	ErrCut = errors.New("the wait was cut short on the way")
	// ErrProxy is an ErrCut: a proxy answered with an error, which may also mean that
	// the controller is away.
	ErrProxy = fmt.Errorf("%w, or the controller is away", ErrCut)
	// ErrInvalidConfig: the answer holds no valid configuration.
	ErrInvalidConfig = errors.New("not a valid configuration")
	// ErrOlder: the answer is older than what the worker runs, and gives no reason.
	ErrOlder = errors.New("an older configuration without a reason")
	// ErrUnwanted: the controller will never take this report.
	ErrUnwanted = errors.New("report not wanted")
)

// ErrNothingRuns is the answer of a worker that has no configuration yet.
var ErrNothingRuns = errors.New("the worker runs no configuration yet")

// Refused is the error of a worker that will not run a configuration. The same one is
// not pushed again until the controller offers it again.
type Refused struct {
	Message string // the worker's
}

func (e *Refused) Error() string { return "the worker refused: " + e.Message }

// RetryLater is the error of a server that named the time before which nothing should
// be tried again.
type RetryLater struct {
	After time.Duration
	Err   error
}

func (e *RetryLater) Error() string { return fmt.Sprintf("%v (asked to wait %s)", e.Err, e.After) }
func (e *RetryLater) Unwrap() error { return e.Err }

// Floor returns the wait that err asks for, 0 if it asks for none.
func Floor(err error) time.Duration {
	var later *RetryLater
	if errors.As(err, &later) {
		return later.After
	}
	return 0
}

// Unchanged reports whether an answer is the release that the worker ran when it was
// asked for: a gateway may have dropped the If-None-Match, so that there is no 304.
func (a Answer) Unchanged(q Query) bool {
	return q.Applied != nil && a.Release != nil && a.Release.Config == *q.Applied
}

// Older returns an ErrOlder if the answer to q would take a worker that runs good back to
// an older version without a reason from the controller.
func (a Answer) Older(q Query, good *Release) error {
	if q.Applied == nil || good == nil || a.Release.Config.Version >= good.Config.Version || a.OlderBecause != "" {
		return nil
	}
	return fmt.Errorf("%w: version %d, where the worker runs %d; if the controller's database was replaced, publish, "+
		"or POST /api/v1/agents/resume", ErrOlder, a.Release.Config.Version, good.Config.Version)
}

// Outdated reports whether a worker that runs good runs something else than when q was
// sent.
func (q Query) Outdated(good *Release) bool {
	return good != nil && (good.ETag != q.ETag || q.Applied != nil && good.Config != *q.Applied)
}

// Digest tells one registration from another.
func Digest(self wire.RegisterRequest) string {
	document, err := wire.Encode(self)
	if err != nil {
		return "" // it cannot be sent either
	}
	sum := sha256.Sum256(document)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
