// Package publish is the one writer of the plan: publish, rollback, freeze and resume.
// It announces each new version once that is committed.
package publish

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/broadcast"
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Fleet is the agents that a configuration is published to.
type Fleet interface {
	// Figures tell how far the newest version of a plan has spread.
	Figures(plan *models.Plan, now time.Time) models.Figures
	// Targets is how many agents should run the newest version.
	Targets(now time.Time) int
	// Held is how many agents keep, each for itself, what this store did not make,
	// while its newest version is newest.
	Held(newest int64, now time.Time) int
	// Release lets these follow the store.
	Release()
}

// Load reads the plan from store, into the one place that all read it from.
func Load(ctx context.Context, store database.Store, defaultInterval time.Duration) (*atomic.Pointer[models.Plan], error) {
	stored, err := store.Plan(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the current configuration: %w", err)
	}
	stored.DefaultInterval = defaultInterval
	var plan atomic.Pointer[models.Plan]
	plan.Store(stored)
	return &plan, nil
}

// Publisher is the one writer of the plan: it publishes, freezes and resumes. The rules are
// functions of the plan that the store's transaction has read.
type Publisher struct {
	store   database.Store
	plan    *atomic.Pointer[models.Plan] // as of the last transaction, and what was observed since
	tags    models.Tags
	pace    int // agents a second
	fleet   Fleet
	metrics *Metrics
	log     logrus.FieldLogger

	publishing database.Lock    // one transaction at a time, so that the plan never steps back
	observed   chan struct{}    // to Run: a version above the store's was observed
	changes    broadcast.Signal // what agents are offered has changed
}

// Options are the settings of a Publisher.
type Options struct {
	Tags    models.Tags // makes the ETags
	Pace    int         // agents a second that fetch a newer version; 0 for unknown
	Metrics *Metrics    // nil: not measured
}

// New returns the writer of plan, which Load read from store.
func New(
	store database.Store, plan *atomic.Pointer[models.Plan], fleet Fleet, o Options, log logrus.FieldLogger,
) *Publisher {
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return &Publisher{
		store: store, plan: plan, tags: o.Tags, pace: o.Pace, fleet: fleet, metrics: o.Metrics, log: log,
		publishing: database.NewLock(), observed: make(chan struct{}, 1),
	}
}

// Plan is what decides, at this moment, who runs what.
func (p *Publisher) Plan() *models.Plan { return p.plan.Load() }

// Publish makes a draft the newest version. The outcome is unchanged if the draft's
// content is current already; then nothing was stored. A publish that returned is
// durable. Once it has begun it is finished, also if ctx ends: its outcome would be in
// doubt. It returns a *models.FrozenError, a *models.InvalidError,
// models.ErrPrecondition, or database.ErrBusy if the writes before it take too long.
func (p *Publisher) Publish(ctx context.Context, d models.Draft) (models.Outcome, error) {
	return p.publish(ctx, d.Proposal())
}

// PreviewPublish returns the outcome that Publish would have, and stores nothing.
func (p *Publisher) PreviewPublish(ctx context.Context, d models.Draft) (models.Outcome, error) {
	return p.preview(ctx, d.Proposal())
}

// Rollback publishes the content of a version again. It returns models.ErrNotFound if
// there is no such version; else it is as Publish.
func (p *Publisher) Rollback(ctx context.Context, version int64, terms models.Terms) (models.Outcome, error) {
	old, err := p.Version(ctx, version)
	if err != nil {
		return models.Outcome{}, err
	}
	return p.publish(ctx, models.Rollback(old, terms))
}

// PreviewRollback returns the outcome that Rollback would have, and stores nothing.
func (p *Publisher) PreviewRollback(ctx context.Context, version int64, terms models.Terms) (models.Outcome, error) {
	old, err := p.Version(ctx, version)
	if err != nil {
		return models.Outcome{}, err
	}
	return p.preview(ctx, models.Rollback(old, terms))
}

func (p *Publisher) publish(ctx context.Context, proposal models.Proposal) (outcome models.Outcome, err error) {
	err = p.write(ctx, func(plan *models.Plan) (change *models.Change, err error) {
		change, outcome, err = p.decide(plan, proposal)
		return change, err
	})
	if err != nil {
		outcome = models.Outcome{}
	}
	p.metrics.published(outcome, err)
	return outcome, err
}

func (p *Publisher) preview(ctx context.Context, proposal models.Proposal) (models.Outcome, error) {
	stored, err := p.store.Plan(ctx)
	if err != nil {
		return models.Outcome{}, err
	}
	_, outcome, err := p.decide(p.complete(stored), proposal)
	return outcome, err
}

func (p *Publisher) decide(plan *models.Plan, proposal models.Proposal) (*models.Change, models.Outcome, error) {
	now := models.Now()
	fleet := models.Fleet{Targets: p.fleet.Targets(now), Held: p.fleet.Held(plan.Version(), now)}
	if plan.Newest != nil {
		figures := p.fleet.Figures(plan, now)
		fleet.Figures = &figures
	}
	return proposal.Decide(plan, fleet, p.tags, now)
}

// Freeze lets nothing be published until the freeze ends or is lifted. allowed checks
// the preconditions of the caller against the freeze that is in force, nil for none. It
// returns models.ErrPrecondition if that fails, and database.ErrBusy if the writes before
// it take too long.
func (p *Publisher) Freeze(ctx context.Context, f models.Freeze, origin models.Origin, allowed func(*models.Freeze) bool) error {
	f.By, f.At = origin.Actor, models.Now()
	return p.write(ctx, func(plan *models.Plan) (*models.Change, error) {
		return models.SetFreeze(plan, &f, origin, f.At, allowed)
	})
}

// Unfreeze lifts the freeze, if there is one. Its errors are those of Freeze.
func (p *Publisher) Unfreeze(ctx context.Context, origin models.Origin, allowed func(*models.Freeze) bool) error {
	return p.write(ctx, func(plan *models.Plan) (*models.Change, error) {
		return models.SetFreeze(plan, nil, origin, models.Now(), allowed)
	})
}

// Resume ends a conflict, and releases the agents that are held each for itself: they
// are offered what this store has, older or not. It reports whether there was anything
// to end. allowed checks the preconditions of the caller against the ETag of the newest
// version. It returns models.ErrPrecondition, or database.ErrBusy if the writes before it
// take too long.
func (p *Publisher) Resume(ctx context.Context, origin models.Origin, allowed func(etag string) bool) (resumed bool, err error) {
	err = p.write(ctx, func(plan *models.Plan) (*models.Change, error) {
		now := models.Now()
		change, err := models.Resume(plan, p.fleet.Held(plan.Version(), now), origin, now, allowed)
		resumed = change != nil
		return change, err
	})
	if err != nil || !resumed {
		return false, err
	}
	p.fleet.Release()
	p.changes.Send()
	return true, nil
}

// write stores the change that rule makes of the plan, and makes the plan after it the
// one that all read.
func (p *Publisher) write(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) error {
	if err := p.publishing.Acquire(ctx); err != nil {
		return err
	}
	defer p.publishing.Release()
	ctx = context.WithoutCancel(ctx)
	var refusal error
	plan, err := p.store.Append(ctx, func(stored *models.Plan) (change *models.Change, _ error) {
		change, refusal = rule(p.complete(stored))
		return change, refusal
	})
	if refusal != nil {
		return refusal
	}
	if err != nil {
		// A commit that failed may have reached the disk all the same. What the store has
		// is what holds.
		stored, reading := p.store.Plan(ctx)
		if reading != nil {
			return errors.Join(err, fmt.Errorf("read the current configuration: %w", reading))
		}
		p.setPlan(stored)
		return err
	}
	p.setPlan(plan)
	return nil
}

// complete adds to a plan that the store has read what the store does not know of: the
// settings of this process, and versions that were observed and are not stored yet.
func (p *Publisher) complete(stored *models.Plan) *models.Plan {
	plan := *stored
	current := p.plan.Load()
	plan.DefaultInterval, plan.Window = current.DefaultInterval, current.Window
	return plan.Observe(current.Observed.Highest)
}

// windowFactor is how much longer than the pace says a fleet may take to fetch: a
// controller that is just fast enough to be asked at that pace answers behind it.
const windowFactor = 4

// setPlan makes what the store has the plan that all read.
func (p *Publisher) setPlan(stored *models.Plan) {
	for {
		current, next := p.plan.Load(), p.complete(stored)
		published := next.ETag() != current.ETag()
		if !published {
			next.Newest = current.Newest
		} else if p.pace > 0 {
			now := time.Now()
			length := windowFactor * time.Duration(p.fleet.Targets(now)) * time.Second / time.Duration(p.pace)
			next.Window = models.Window{Length: length, Ends: now.Add(length)}
		}
		if !p.plan.CompareAndSwap(current, next) {
			continue // a version was observed meanwhile
		}
		if published {
			p.changes.Send()
		}
		return
	}
}

// Changed returns a channel that is closed when what agents are offered changes.
func (p *Publisher) Changed() <-chan struct{} { return p.changes.Next() }

// PublishFirst publishes url if nothing was ever published, as the settings of the
// process may ask. It reports whether it did.
func (p *Publisher) PublishFirst(ctx context.Context, url string) (*models.Config, bool, error) {
	if current := p.Plan().Config(); current != nil {
		return current, false, nil
	}
	outcome, err := p.Publish(ctx, models.Draft{URL: &url, Terms: models.Terms{
		Origin: models.Origin{Actor: "INITIAL_URL"}, Message: "first configuration, from the settings", Override: true,
	}})
	return outcome.Config, outcome.Changed, err
}

// Version returns one version of the history, or models.ErrNotFound.
func (p *Publisher) Version(ctx context.Context, version int64) (*models.Config, error) {
	if plan := p.Plan(); version != 0 && plan.Version() == version {
		return plan.Config(), nil
	}
	return p.store.Config(ctx, version)
}

// History returns up to limit versions below before, newest first.
func (p *Publisher) History(ctx context.Context, before int64, limit int) ([]*models.Config, error) {
	return p.store.Configs(ctx, before, limit)
}
