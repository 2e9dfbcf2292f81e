package models

import (
	"fmt"
	"strconv"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Plan is what decides who runs what, as the store had it at one revision. It is
// immutable: a publish, a freeze, a resume or an observation replaces it as a whole.
// It is pure: it knows no clock, no lock and no I/O.
type Plan struct {
	Revision        int64         // counts the changes of the store
	Newest          *Release      // nil before the first publish
	Freeze          *Freeze       // the last one, in force or over; nil for none
	Observed        Observed      // versions above the store's that agents reported
	DefaultInterval time.Duration // between two polls of an agent, before the first publish
	Window          Window        // in which the whole fleet fetches Newest
}

// Release is a version as it is offered: what every response that carries it has in
// common is made once.
type Release struct {
	*Config
	Content  string   // hash of the content, as agents send it in X-Applied-Content
	Body     []byte   // the JSON document, and a newline
	Tag      []string // value of ETag
	Length   []string // value of Content-Length
	Interval []string // value of X-Poll-Interval-Seconds
}

// Window is the time in which a whole fleet fetches a new version. Its zero value is none.
type Window struct {
	Length time.Duration
	Ends   time.Time
}

// Observed is what agents said of versions above the store's own, as they do when it
// was restored from an older backup. Its zero value is nothing.
type Observed struct {
	Highest      int64 // the highest version that an agent runs, where the store had none as high
	ResumedBelow int64 // up to here an admin has let agents follow the store again
}

// NewRelease encodes a configuration.
func NewRelease(cfg *Config) (*Release, error) {
	seconds := int(cfg.PollInterval / time.Second)
	body, err := wire.Encode(wire.Config{
		Version: cfg.Version, Data: wire.Data{URL: cfg.URL, Probe: cfg.Probe}, PollIntervalSeconds: seconds,
	})
	if err != nil {
		return nil, fmt.Errorf("version %d: %w", cfg.Version, err)
	}
	body = append(body, '\n')
	return &Release{
		Config: cfg, Content: cfg.ContentHash(), Body: body,
		Tag: []string{cfg.ETag}, Length: []string{strconv.Itoa(len(body))}, Interval: []string{strconv.Itoa(seconds)},
	}, nil
}

// Version is the newest version, 0 before the first publish.
func (p *Plan) Version() int64 {
	if p.Newest == nil {
		return 0
	}
	return p.Newest.Version
}

// ETag is that of the newest version, "" before the first publish.
func (p *Plan) ETag() string {
	if p.Newest == nil {
		return ""
	}
	return p.Newest.ETag
}

// Config is the newest version, nil before the first publish.
func (p *Plan) Config() *Config {
	if p.Newest == nil {
		return nil
	}
	return p.Newest.Config
}

// PollInterval is the time between two polls of an agent.
func (p *Plan) PollInterval() time.Duration {
	if p.Newest == nil {
		return p.DefaultInterval
	}
	return p.Newest.PollInterval
}

// FrozenAt returns the freeze that is in force, nil for none.
func (p *Plan) FrozenAt(now time.Time) *Freeze {
	if p.Freeze.HoldsAt(now) {
		return p.Freeze
	}
	return nil
}

// SpreadAt is how long the fleet takes to fetch the newest version, 0 once that is over.
func (p *Plan) SpreadAt(now time.Time) time.Duration {
	if now.Before(p.Window.Ends) {
		return p.Window.Length
	}
	return 0
}

// Conflict reports whether agents run, or may run, versions above the store's newest
// one, and no admin has decided yet: neither by a publish, whose version is above
// Observed.Highest, nor by a resume.
func (p *Plan) Conflict() bool {
	return p.Observed.Highest > p.Version() && p.Observed.Highest > p.Observed.ResumedBelow
}

// Observe returns the plan in which agents run a version, which this store made. It is
// the same plan if that is known.
func (p *Plan) Observe(version int64) *Plan {
	if version <= p.Observed.Highest {
		return p
	}
	next := *p
	next.Observed.Highest = version
	return &next
}

// Traits are what decides what an agent is offered. The zero value is a caller that is
// no agent, or an agent that runs nothing.
type Traits struct {
	Runs    int64   // the version that it runs; 0 for none, or where it did not say
	Unknown bool    // it runs something, and did not say which version
	Held    int64   // as Agent.Held
	Refused Refusal // what its worker refused last
}

// For returns the release that an agent should run, and the reason. A nil release
// means: keep what you run.
func (p *Plan) For(t Traits) (*Release, Reason) {
	newest := p.Version()
	switch {
	case t.Runs > newest && t.Held > newest:
		return nil, Reason{Kind: ReasonForeign, Version: t.Runs, Newest: newest}
	case t.Runs > newest && p.Conflict():
		return nil, Reason{Kind: ReasonNewer, Version: t.Runs, Newest: newest}
	case newest == 0:
		return nil, Reason{Kind: ReasonUnpublished}
	case t.Unknown && p.Conflict():
		return nil, Reason{Kind: ReasonUnknown, Newest: newest}
	case t.Refused.Version == newest:
		return nil, Reason{Kind: ReasonRefused, Version: newest, Error: t.Refused.Error}
	}
	return p.Newest, Reason{Kind: ReasonCurrent}
}

// ReasonKind is why an agent is offered what it is.
type ReasonKind int

// The reasons.
const (
	ReasonCurrent     ReasonKind = iota // it should run the newest version
	ReasonUnpublished                   // there is no version
	ReasonRefused                       // its worker refused the newest version
	ReasonNewer                         // it runs a version that this store made, and lost when it was restored
	ReasonForeign                       // it runs a version that this store did not make
	ReasonUnknown                       // it runs an unknown version, while others run newer ones than the store has
)

// Reason is why an agent is offered what it is.
type Reason struct {
	Kind    ReasonKind
	Version int64  // that it runs, or that its worker refused
	Newest  int64  // the store's newest version
	Error   string // its worker's error message
}

// String is one sentence, which the API shows as desired_because.
func (r Reason) String() string {
	switch r.Kind {
	case ReasonCurrent:
		return "current"
	case ReasonUnpublished:
		return "nothing was published yet"
	case ReasonRefused:
		return fmt.Sprintf("its worker refused version %d: %s", r.Version, r.Error)
	case ReasonNewer:
		return fmt.Sprintf("runs version %d, and the store's newest is %d", r.Version, r.Newest)
	case ReasonForeign:
		return fmt.Sprintf("runs version %d, which this store did not make: its newest is %d", r.Version, r.Newest)
	case ReasonUnknown:
		return fmt.Sprintf("runs an unknown version, and other agents run versions above the store's newest, %d", r.Newest)
	}
	return ""
}
