// Package rollout tells how far a version has spread, and lets an admin wait until it
// has.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Plans is where versions come from.
type Plans interface {
	Plan() *models.Plan
	// Changed returns a channel that is closed when the plan changes.
	Changed() <-chan struct{}
	// Version returns a version, or models.ErrNotFound.
	Version(ctx context.Context, version int64) (*models.Config, error)
}

// Fleet is the agents that a version spreads among.
type Fleet interface {
	// Figures tell how far the newest version of a plan has spread.
	Figures(plan *models.Plan, now time.Time) models.Figures
	// Count is Figures of any version, but for its counts alone.
	Count(version int64, now time.Time) models.Figures
	// Changed returns a channel that is closed when an agent runs or refuses another
	// version, or is removed.
	Changed() <-chan struct{}
}

// Rollouts tells how far a version has spread. The figures of the newest one are those
// of the agents at that moment; those of the versions before are what they were at the
// next publish.
type Rollouts struct {
	plans Plans
	fleet Fleet
	store database.Store
}

// New returns the rollouts of plans among a fleet.
func New(plans Plans, fleet Fleet, store database.Store) *Rollouts {
	return &Rollouts{plans: plans, fleet: fleet, store: store}
}

// betweenLooks is the least time between two looks at all agents for one who
// waits: a fleet of a million reports in bursts.
const betweenLooks = 50 * time.Millisecond

// Rollout returns how far a version has spread, or models.ErrNotFound.
func (r *Rollouts) Rollout(ctx context.Context, version int64) (*models.Rollout, error) {
	if plan := r.plans.Plan(); plan.Newest != nil && version == plan.Version() {
		return &models.Rollout{Config: plan.Config(), Figures: r.fleet.Figures(plan, time.Now())}, nil
	}
	cfg, err := r.plans.Version(ctx, version)
	if err != nil {
		return nil, err
	}
	figures, supersededBy, err := r.store.Figures(ctx, version)
	if errors.Is(err, models.ErrNotFound) {
		err = fmt.Errorf("%w: they were not kept when it was superseded, by a controller older than this build", err)
	}
	if err != nil {
		return nil, err
	}
	return &models.Rollout{Config: cfg, SupersededBy: supersededBy, Figures: figures}, nil
}

// Wait returns the rollout of a version as soon as that share of its targets
// has applied it: then reached is true. Else it returns what there is after
// wait, or when the version is superseded. It returns models.ErrDraining when
// draining is closed before that, and the error of ctx when the caller leaves.
func (r *Rollouts) Wait(ctx context.Context, version int64, share float64, wait time.Duration, draining <-chan struct{}) (rollout *models.Rollout, reached bool, err error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		reported, published := r.fleet.Changed(), r.plans.Changed() // from before the look
		if !r.spreading(version, share) {
			rollout, err := r.Rollout(ctx, version)
			if err != nil {
				return nil, false, err
			}
			if reached := rollout.Share() >= share; reached || rollout.SupersededBy != 0 {
				return rollout, reached, nil
			} // else somebody has left the fleet, or joined it, in between
		}
		select {
		case <-reported:
		case <-published:
		case <-over.C:
			rollout, err := r.Rollout(ctx, version)
			return rollout, err == nil && rollout.Share() >= share, err
		case <-draining:
			return nil, false, models.ErrDraining
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
		select {
		case <-time.After(betweenLooks):
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// spreading reports whether version is the newest, and has not reached share.
func (r *Rollouts) spreading(version int64, share float64) bool {
	if plan := r.plans.Plan(); plan.Newest == nil || plan.Version() != version {
		return false
	}
	count := r.fleet.Count(version, time.Now())
	return count.Share() < share
}
