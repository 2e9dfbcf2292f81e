package models

import (
	"strconv"
	"strings"
	"time"
)

// This file holds the rules of publish, rollback, freeze and resume. Each is a pure
// function of the plan that the store's transaction has read, and returns the change
// that the transaction stores.

// Change is the result of a decision. A transaction stores all of it or nothing.
type Change struct {
	Config   *Config   // the new version; nil for none
	Figures  *Figures  // the final figures of the version before Config; nil for none
	Freeze   *Freeze   // the new freeze; nil keeps the stored one
	Unfreeze bool      // removes the stored freeze
	Observed *Observed // the new observed versions; nil keeps the stored ones
	Audit    []Entry   // entries for the audit log
}

// Apply returns the plan after a change, at the next revision. It fails if the new
// version cannot be encoded.
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

// Terms are the parameters that publish and rollback share.
type Terms struct {
	Origin
	Message  string // the reason that the admin gave
	Override bool   // publish despite a freeze

	// Allowed evaluates the request's preconditions against the ETag of the newest
	// version, which is "" before the first publish. nil allows every request.
	Allowed func(etag string) bool
}

// Draft is the content of a publish request. A nil field keeps the value of the newest
// version.
type Draft struct {
	URL          *string
	PollInterval *time.Duration
	Probe        *bool
	Terms
}

// Proposal is a proposed version: the result of a publish or a rollback.
type Proposal struct {
	Terms
	Action       Action
	RestoredFrom int64 // the version that a rollback copies; 0 for a publish

	// content returns the proposed content. before is the content of the newest version.
	// Before the first publish, it has only the default poll interval.
	content func(before Content) Content
}

// Proposal returns the proposal to publish the draft.
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

// Rollback returns the proposal to publish the content of the version old again.
func Rollback(old *Config, terms Terms) Proposal {
	return Proposal{
		Terms: terms, Action: ActionRollback, RestoredFrom: old.Version,
		content: func(Content) Content { return old.Content },
	}
}

// Fleet is the state of the agents that the rules depend on. A rule calls what it needs.
type Fleet struct {
	Targets func() int     // the number of agents that should run the newest version
	Held    func() int     // the number of agents that keep a version that this store did not make
	Figures func() Figures // the figures of the newest version
}

// Outcome is the outcome of a publish or a rollback.
type Outcome struct {
	Config  *Config // the newest version now
	Before  *Config // the newest version before; nil for none
	Changed bool    // Config is a new version
	Targets int     // agents that should run Config
}

// Decide returns the change that publishes the proposal, or nil if the plan already has
// its content. Errors are ErrPrecondition, *FrozenError and *InvalidError.
func (p Proposal) Decide(plan *Plan, fleet Fleet, tags Tags, now time.Time) (*Change, Outcome, error) {
	outcome := Outcome{Config: plan.Config(), Before: plan.Config()}
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
		return nil, outcome, &InvalidError{Field: "url", Detail: "is required in the first publish"}
	}
	outcome.Targets = fleet.Targets()
	// While agents keep a version, publishing the same content makes them follow this store.
	if plan.Newest != nil && content == before && !plan.Conflict() && fleet.Held() == 0 {
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
	change := &Change{Config: outcome.Config, Observed: &plan.Observed}
	if plan.Newest != nil {
		figures := fleet.Figures()
		change.Figures = &figures
	}
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

// SetFreeze returns the change that puts f in force, or lifts the current freeze if f
// is nil. The change is nil if there is no freeze to lift. allowed evaluates the
// request's preconditions against the freeze in force, nil for none; the error is
// ErrPrecondition if it returns false.
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

// Resume returns the change that ends a conflict and releases the held agents: all are
// offered the newest version again, even if it is older than theirs. The change is nil
// if there is neither a conflict nor a held agent. allowed evaluates the request's
// preconditions against the ETag of the newest version; the error is ErrPrecondition if
// it returns false.
func Resume(plan *Plan, held int, origin Origin, now time.Time, allowed func(etag string) bool) (*Change, error) {
	if !allowed(plan.ETag()) {
		return nil, ErrPrecondition
	}
	var detail []string
	if highest := plan.Observed.Highest; plan.Conflict() {
		detail = append(detail, "agents that run later versions, up to "+format(highest)+", follow it")
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
