package models

import (
	"strconv"
	"strings"
	"time"
)

// The rules of every write that decides what the fleet runs. Each is a function of the
// plan that the store's transaction has read, and returns the change that the
// transaction stores.

// Change is what one transaction stores of a decision, all of it or nothing.
type Change struct {
	Config   *Config   // nil: no version is added
	Figures  *Figures  // the last ones of the version before Config; nil where there is none
	Freeze   *Freeze   // replaces the freeze; nil: it stays
	Unfreeze bool      // removes the freeze
	Observed *Observed // nil: they stay
	Audit    []Entry
}

// Apply returns the plan after a change, at the next revision.
func (p *Plan) Apply(c *Change) (*Plan, error) {
	next := *p
	next.Revision++
	if c.Config != nil {
		release, err := NewRelease(c.Config)
		if err != nil {
			return nil, err
		}
		next.Newest = release
	}
	if c.Freeze != nil || c.Unfreeze {
		next.Freeze = c.Freeze
	}
	if c.Observed != nil {
		next.Observed = *c.Observed
	}
	return &next, nil
}

// Terms are what a publish and a rollback have in common beside the content.
type Terms struct {
	Origin
	Message  string // why
	Override bool   // publish in spite of a freeze

	// Allowed checks the preconditions of the caller against the ETag of the newest
	// version, "" for none. nil allows all.
	Allowed func(etag string) bool
}

// Draft is what a publish asks for. A nil field keeps the value of the newest version.
type Draft struct {
	URL          *string
	PollInterval *time.Duration
	Probe        *bool
	Terms
}

// Proposal is what a publish or a rollback wants the newest version to be.
type Proposal struct {
	Terms
	Action       Action
	RestoredFrom int64 // the version that a rollback copies; 0 for a publish

	// content makes it of the content before, which is the zero value but for the poll
	// interval where nothing was published.
	content func(before Content) Content
}

// Proposal returns what the draft proposes.
func (d Draft) Proposal() Proposal {
	return Proposal{Terms: d.Terms, Action: ActionPublish, content: func(content Content) Content {
		if d.URL != nil {
			content.URL = *d.URL
		}
		if d.PollInterval != nil {
			content.PollInterval = *d.PollInterval
		}
		if d.Probe != nil {
			content.Probe = *d.Probe
		}
		return content
	}}
}

// Rollback returns the proposal to publish the content of an old version again.
func Rollback(old *Config, terms Terms) Proposal {
	return Proposal{
		Terms: terms, Action: ActionRollback, RestoredFrom: old.Version,
		content: func(Content) Content { return old.Content },
	}
}

// Fleet is what the rules have to know of the agents.
type Fleet struct {
	Targets int      // how many should run the newest version
	Held    int      // how many keep, each for itself, what this store did not make
	Figures *Figures // of the newest version; nil where there is none
}

// Outcome is what a publish or a rollback leads to.
type Outcome struct {
	Config  *Config // the newest version now
	Before  *Config // the newest version before; nil where there was none
	Changed bool
	Targets int // how many agents should run it
}

// Decide returns the change that a proposal makes of a plan, nil for none. It returns
// ErrPrecondition, a *FrozenError, or an *InvalidError.
func (p Proposal) Decide(plan *Plan, fleet Fleet, tags Tags, now time.Time) (*Change, Outcome, error) {
	outcome := Outcome{Config: plan.Config(), Before: plan.Config(), Targets: fleet.Targets}
	if p.Allowed != nil && !p.Allowed(plan.ETag()) {
		return nil, outcome, ErrPrecondition
	}
	frozen := plan.FrozenAt(now)
	if frozen != nil && !p.Override {
		return nil, outcome, &FrozenError{Freeze: *frozen}
	}
	before := Content{PollInterval: plan.DefaultInterval}
	if plan.Newest != nil {
		before = plan.Newest.Config.Content
	}
	content := p.content(before)
	if content.URL == "" {
		return nil, outcome, &InvalidError{Field: "url", Detail: "is missing, and nothing was published before whose URL could be kept"}
	}
	// While agents keep what they run, to publish the same content decides for them.
	if plan.Newest != nil && content == before && !plan.Conflict() && fleet.Held == 0 {
		return nil, outcome, nil
	}
	version := max(plan.Version(), plan.Observed.Highest) + 1
	outcome.Config, outcome.Changed = &Config{
		Content:      content,
		Version:      version,
		ETag:         tags.Of(version, content),
		Message:      p.Message,
		PublishedBy:  p.Actor,
		PublishedAt:  now,
		SourceIP:     p.SourceIP,
		RestoredFrom: p.RestoredFrom,
	}, true
	change := &Change{Config: outcome.Config, Figures: fleet.Figures, Observed: &plan.Observed}
	if frozen != nil {
		change.Audit = append(change.Audit, p.entry(now, ActionOverride, version, "frozen: "+frozen.Reason))
	}
	change.Audit = append(change.Audit, p.entry(now, p.Action, version, p.detail()))
	return change, outcome, nil
}

func (p Proposal) detail() string {
	if p.RestoredFrom == 0 {
		return p.Message
	}
	return strings.TrimSuffix("from version "+format(p.RestoredFrom)+": "+p.Message, ": ")
}

// SetFreeze decides about a freeze that replaces the one that is in force, or about
// lifting that, where f is nil. allowed checks the preconditions of the caller against
// the freeze that is in force, nil for none. It returns ErrPrecondition.
func SetFreeze(plan *Plan, f *Freeze, origin Origin, now time.Time, allowed func(*Freeze) bool) (*Change, error) {
	frozen := plan.FrozenAt(now)
	switch {
	case !allowed(frozen):
		return nil, ErrPrecondition
	case f != nil:
		detail := f.Reason
		if !f.Until.IsZero() {
			detail += " (until " + f.Until.Format(time.RFC3339) + ")"
		}
		return &Change{Freeze: f, Audit: []Entry{origin.entry(now, ActionFreeze, 0, detail)}}, nil
	case frozen == nil:
		return nil, nil
	}
	return &Change{Unfreeze: true, Audit: []Entry{origin.entry(now, ActionUnfreeze, 0, frozen.Reason)}}, nil
}

// Resume decides about the end of a conflict, and of what held agents keep each for
// itself: they are offered what this store has, older or not. The change is nil if
// there is neither. allowed checks the preconditions of the caller against the ETag of
// the newest version. It returns ErrPrecondition.
func Resume(plan *Plan, held int, origin Origin, now time.Time, allowed func(etag string) bool) (*Change, error) {
	if !allowed(plan.ETag()) {
		return nil, ErrPrecondition
	}
	var detail []string
	if highest := plan.Observed.Highest; plan.Conflict() {
		detail = append(detail, "agents that run versions above it, up to "+format(highest)+", follow it")
	}
	if held > 0 {
		detail = append(detail, strconv.Itoa(held)+" agents that run a version that this store did not make follow it")
	}
	if detail == nil {
		return nil, nil
	}
	return &Change{
		Observed: &Observed{Highest: plan.Observed.Highest, ResumedBelow: plan.Observed.Highest},
		Audit:    []Entry{origin.entry(now, ActionResume, plan.Version(), strings.Join(detail, "; "))},
	}, nil
}

func format(version int64) string { return strconv.FormatInt(version, 10) }
