// Package publish writes the plan: publish, rollback, freeze and resume. No other package
// does. It announces each new version after the commit.
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

// Fleet has the agents that a version is published to.
type Fleet interface {
	// Figures returns the figures of the plan's newest version.
	Figures(plan *models.Plan, now time.Time) models.Figures
	// Targets returns the number of agents that should run the newest version.
	Targets(now time.Time) int
	// Held returns the number of agents that keep a version that this store did not
	// make. newest is the store's newest version.
	Held(newest int64, now time.Time) int
	// Release makes the held agents follow the store.
	Release()
}

// Load reads the plan from store. The returned pointer is the only one to the plan in a
// controller. defaultInterval is the poll interval before the first publish.
func Load(
	ctx context.Context, store database.Store, defaultInterval time.Duration,
) (*atomic.Pointer[models.Plan], error) {
	stored, err := store.Plan(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the current configuration: %w", err)
	}
	stored.DefaultInterval = defaultInterval
	var plan atomic.Pointer[models.Plan]
	plan.Store(stored)
	return &plan, nil
}

// Publisher writes the plan. Its rules are functions of the plan that the store's
// transaction has read. Its methods may be called concurrently.
type Publisher struct {
	store   database.Store
	plan    *atomic.Pointer[models.Plan] // of the last transaction, with the versions observed since
	tags    models.Tags
	pace    int // agents a second
	fleet   Fleet
	metrics *Metrics
	log     logrus.FieldLogger

	writes   database.Lock    // held during a transaction, so that p.plan is never set to an older plan
	observed chan struct{}    // wakes Run after an observation
	changes  broadcast.Signal // sent when agents may be offered another version
}

// Options are the settings of a Publisher.
type Options struct {
	Tags    models.Tags // makes the ETags
	Pace    int         // the rate at which agents fetch a new version, in agents a second; 0 for no window
	Metrics *Metrics    // nil: not exported
}

// New returns the publisher of plan, which Load read from store.
func New(
	store database.Store, plan *atomic.Pointer[models.Plan], fleet Fleet, o Options, log logrus.FieldLogger,
) *Publisher {
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return &Publisher{
		store: store, plan: plan, tags: o.Tags, pace: o.Pace, fleet: fleet, metrics: o.Metrics, log: log,
		writes: database.NewLock(), observed: make(chan struct{}, 1),
	}
}

// Plan returns the current plan.
func (p *Publisher) Plan() *models.Plan { return p.plan.Load() }

// Publish makes the draft the newest version. If the newest version has its content
// already, nothing is stored and Outcome.Changed is false. After a nil error, the
// version is durable. The transaction is completed even if ctx ends after it has begun.
// Errors are *models.FrozenError, *models.InvalidError, models.ErrPrecondition, and
// database.ErrBusy if earlier writes take too long.
func (p *Publisher) Publish(ctx context.Context, d models.Draft) (models.Outcome, error) {
	return p.publish(ctx, d.Proposal())
}

// PreviewPublish returns the outcome that Publish would have. It stores nothing.
func (p *Publisher) PreviewPublish(ctx context.Context, d models.Draft) (models.Outcome, error) {
	return p.preview(ctx, d.Proposal())
}

// Rollback publishes the content of an earlier version again, as a new version. The
// error is models.ErrNotFound if there is no such version; all else is as with Publish.
func (p *Publisher) Rollback(ctx context.Context, version int64, terms models.Terms) (models.Outcome, error) {
	old, err := p.Version(ctx, version)
	if err != nil {
		return models.Outcome{}, err
	}
	return p.publish(ctx, models.Rollback(old, terms))
}

// PreviewRollback returns the outcome that Rollback would have. It stores nothing.
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
	return proposal.Decide(plan, models.Fleet{
		Targets: func() int { return p.fleet.Targets(now) },
		Held:    func() int { return p.fleet.Held(plan.Version(), now) },
		Figures: func() models.Figures { return p.fleet.Figures(plan, now) },
	}, p.tags, now)
}

// Freeze blocks publishes until f ends or is lifted. It replaces the freeze in force.
// allowed evaluates the request's preconditions against that freeze, nil for none.
// Errors are models.ErrPrecondition if allowed returns false, and database.ErrBusy if
// earlier writes take too long.
func (p *Publisher) Freeze(
	ctx context.Context, f models.Freeze, origin models.Origin, allowed func(*models.Freeze) bool,
) error {
	f.By, f.At = origin.Actor, models.Now()
	return p.write(ctx, func(plan *models.Plan) (*models.Change, error) {
		return models.SetFreeze(plan, &f, origin, f.At, allowed)
	})
}

// Unfreeze lifts the freeze, and reports whether there was one. Its errors are those of
// Freeze.
func (p *Publisher) Unfreeze(
	ctx context.Context, origin models.Origin, allowed func(*models.Freeze) bool,
) (lifted bool, err error) {
	err = p.write(ctx, func(plan *models.Plan) (*models.Change, error) {
		change, err := models.SetFreeze(plan, nil, origin, models.Now(), allowed)
		lifted = change != nil
		return change, err
	})
	return lifted && err == nil, err
}

// Resume ends a conflict and releases the held agents: all are offered the newest version
// again, even if it is older than theirs. resumed is false if there was neither. allowed
// evaluates the request's preconditions against the ETag of the newest version. Errors
// are models.ErrPrecondition if allowed returns false, and database.ErrBusy if earlier
// writes take too long.
func (p *Publisher) Resume(
	ctx context.Context, origin models.Origin, allowed func(etag string) bool,
) (resumed bool, err error) {
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

// write stores the change that rule returns, and replaces the plan. An error of rule is
// returned unchanged.
func (p *Publisher) write(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) error {
	if err := p.writes.Acquire(ctx); err != nil {
		return err
	}
	defer p.writes.Release()
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
		// A failed commit may have reached the disk. The store is authoritative.
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

// complete returns a stored plan with what only memory has: the settings, the rollout
// window, and the observed versions that are not stored yet.
func (p *Publisher) complete(stored *models.Plan) *models.Plan {
	plan := *stored
	current := p.plan.Load()
	plan.DefaultInterval, plan.Window = current.DefaultInterval, current.Window
	return plan.Observe(current.Observed.Highest)
}

// windowFactor is the length of the rollout window, relative to the time in which the
// fleet fetches a version at the configured pace. The rest is for delayed responses.
const windowFactor = 4

// setPlan replaces the plan by the stored one, and wakes waiters if the newest version
// changed.
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

// Changed returns a channel that is closed when agents may be offered another version.
func (p *Publisher) Changed() <-chan struct{} { return p.changes.Next() }

// PublishFirst publishes url, the INITIAL_URL of the settings, if nothing was published
// yet. It returns the newest version and whether it published that. Its errors are those
// of Publish.
func (p *Publisher) PublishFirst(ctx context.Context, url string) (*models.Config, bool, error) {
	if current := p.Plan().Config(); current != nil {
		return current, false, nil
	}
	outcome, err := p.Publish(ctx, models.Draft{URL: &url, Terms: models.Terms{
		Origin: models.Origin{Actor: "INITIAL_URL"}, Message: "first configuration, from the settings", Override: true,
	}})
	return outcome.Config, outcome.Changed, err
}

// Version returns a version, or models.ErrNotFound.
func (p *Publisher) Version(ctx context.Context, version int64) (*models.Config, error) {
	if plan := p.Plan(); version != 0 && plan.Version() == version {
		return plan.Config(), nil
	}
	return p.store.Config(ctx, version)
}

// History returns up to limit versions below the version before, newest first.
func (p *Publisher) History(ctx context.Context, before int64, limit int) ([]*models.Config, error) {
	return p.store.Configs(ctx, before, limit)
}
