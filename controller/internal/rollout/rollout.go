// Package rollout returns the figures of a version. It is the gate of pipelines, too: it
// waits until a share of a version's targets has applied it.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Plans has the plan and the versions.
type Plans interface {
	// Plan returns the current plan.
	Plan() *models.Plan
	// Changed returns a channel that is closed when the plan changes.
	Changed() <-chan struct{}
	// Version returns a version, or models.ErrNotFound.
	Version(ctx context.Context, version int64) (*models.Config, error)
}

// Fleet has the agents that should run a version.
type Fleet interface {
	// Figures returns the figures of the plan's newest version.
	Figures(plan *models.Plan, now time.Time) models.Figures
	// Count returns the figures of a version, but only its counts.
	Count(version int64, now time.Time) models.Figures
	// Changed returns a channel that is closed when an agent runs or refuses another
	// version, or is removed.
	Changed() <-chan struct{}
}

// Rollouts returns the figures of versions. Those of the newest version are current.
// Those of an earlier version are final: the store has them since the next publish.
type Rollouts struct {
	plans Plans
	fleet Fleet
	store database.Store
}

// New returns the rollouts of plans among a fleet.
func New(plans Plans, fleet Fleet, store database.Store) *Rollouts {
	return &Rollouts{plans: plans, fleet: fleet, store: store}
}

// countInterval is the least time between two counts of a Wait, because a large fleet
// reports in bursts.
const countInterval = 50 * time.Millisecond

// Rollout returns a version with its figures. The error is models.ErrNotFound if there is
// no such version, or none of its figures.
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
		err = fmt.Errorf("%w: an older build superseded the version, and did not keep its figures", err)
	}
	if err != nil {
		return nil, err
	}
	return &models.Rollout{Config: cfg, SupersededBy: supersededBy, Figures: figures}, nil
}

// Wait returns the rollout of a version as soon as share of its targets, from 0 to 1, has
// applied it; then reached is true. Otherwise it returns the rollout after wait, or when
// the version is superseded. Errors are those of Rollout, models.ErrDraining if draining
// is closed before, and the error of ctx.
func (r *Rollouts) Wait(
	ctx context.Context, version int64, share float64, wait time.Duration, draining <-chan struct{},
) (rollout *models.Rollout, reached bool, err error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		reported, published := r.fleet.Changed(), r.plans.Changed() // before the count, so that no change is missed
		if !r.spreading(version, share) {
			rollout, err := r.Rollout(ctx, version)
			if err != nil {
				return nil, false, err
			}
			if reached := rollout.Share() >= share; reached || rollout.SupersededBy != 0 {
				return rollout, reached, nil
			} // else the targets changed since spreading counted them
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
		case <-time.After(countInterval):
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// spreading reports whether version is the newest and has not reached share.
func (r *Rollouts) spreading(version int64, share float64) bool {
	if plan := r.plans.Plan(); plan.Newest == nil || plan.Version() != version {
		return false
	}
	count := r.fleet.Count(version, time.Now())
	return count.Share() < share
}
