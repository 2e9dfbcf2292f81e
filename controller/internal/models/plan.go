package models

import (
	"fmt"
	"strconv"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Plan decides which version each agent should run. It is the state of the store at one
// revision. A Plan is immutable: a publish, freeze, resume or observation replaces it.
// Its methods are pure: they use no clock, lock or I/O.
type Plan struct {
	Revision        int64         // number of changes to the store
	Newest          *Release      // nil before the first publish
	Freeze          *Freeze       // the last freeze, even if it has ended; nil for none
	Observed        Observed      // versions above the store's newest that agents run
	DefaultInterval time.Duration // poll interval before the first publish
	Window          Window        // the rollout window of Newest
}

// Release is a version with the body and header values of its responses, which are
// encoded once.
type Release struct {
	*Config
	Content  string   // hash of the content, as agents send it in X-Applied-Content
	Body     []byte   // the JSON document, and a newline
	Tag      []string // value of ETag
	Length   []string // value of Content-Length
	Interval []string // value of X-Poll-Interval-Seconds
}

// Window is a rollout window: the time over which agents spread their fetches of a new
// version. The zero value is no window.
type Window struct {
	Length time.Duration
	Ends   time.Time
}

// Observed describes versions above the store's newest that agents run. They exist when
// the store was restored from an older backup. The zero value is none.
type Observed struct {
	Highest      int64 // the highest version above the store's newest that an agent ran
	ResumedBelow int64 // an admin resumed: agents up to this version follow the store again
}

// NewRelease encodes the responses of a version.
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

// Version returns the newest version, 0 before the first publish.
func (p *Plan) Version() int64 {
	if p.Newest == nil {
		return 0
	}
	return p.Newest.Version
}

// ETag returns the ETag of the newest version, "" before the first publish.
func (p *Plan) ETag() string {
	if p.Newest == nil {
		return ""
	}
	return p.Newest.ETag
}

// Config returns the newest version, nil before the first publish.
func (p *Plan) Config() *Config {
	if p.Newest == nil {
		return nil
	}
	return p.Newest.Config
}

// PollInterval returns the time between two polls of an agent.
func (p *Plan) PollInterval() time.Duration {
	if p.Newest == nil {
		return p.DefaultInterval
	}
	return p.Newest.PollInterval
}

// FrozenAt returns the freeze in force, nil for none.
func (p *Plan) FrozenAt(now time.Time) *Freeze {
	if p.Freeze.InForceAt(now) {
		return p.Freeze
	}
	return nil
}

// SpreadAt returns the length of the rollout window, 0 once it has ended.
func (p *Plan) SpreadAt(now time.Time) time.Duration {
	if now.Before(p.Window.Ends) {
		return p.Window.Length
	}
	return 0
}

// Conflict reports whether agents may run versions above the store's newest and no admin
// has decided about them. A publish decides, because its version is above
// Observed.Highest, and so does a resume.
func (p *Plan) Conflict() bool {
	return p.Observed.Highest > p.Version() && p.Observed.Highest > p.Observed.ResumedBelow
}

// Observe returns the plan after an agent was seen running a version that this store
// made. It returns p itself if Observed.Highest is not lower.
func (p *Plan) Observe(version int64) *Plan {
	if version <= p.Observed.Highest {
		return p
	}
	next := *p
	next.Observed.Highest = version
	return &next
}

// Traits are the properties of an agent that For depends on. The zero value describes an
// agent that runs nothing, or a caller that is not an agent.
type Traits struct {
	Runs    int64   // the version that it runs; 0 for none or unknown
	Unknown bool    // it runs a version that it did not name
	Held    int64   // as Agent.Held
	Refused Refusal // as Presence.Refused
}

// For returns the release that an agent should run, and the reason. A nil release means
// that the agent keeps what it runs.
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

// ReasonKind is the kind of a Reason.
type ReasonKind int

// The kinds of reason.
const (
	ReasonCurrent     ReasonKind = iota // the agent should run the newest version
	ReasonUnpublished                   // nothing was published
	ReasonRefused                       // its worker refused the newest version
	ReasonNewer                         // it runs a version that this store made and lost in a restore
	ReasonForeign                       // it runs a version that this store did not make
	ReasonUnknown                       // it runs an unknown version during a conflict
)

// Reason explains the decision of Plan.For. Fields that do not apply to Kind are zero.
type Reason struct {
	Kind    ReasonKind
	Version int64  // the version that the agent runs, or that its worker refused
	Newest  int64  // the store's newest version
	Error   string // the error message of its worker
}

// String returns the sentence that the API shows as desired_because.
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
		return fmt.Sprintf(
			"runs an unknown version, and other agents run versions above the store's newest, %d", r.Newest,
		)
	}
	return ""
}
