package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Rollouts tells how far a version has spread. The figures of the current one
// are counted from the agents each time: there is no counter to fall out of
// step. Those of the versions before are what they were at the next publish.
type Rollouts struct {
	configs *Configs
	agents  *Agents
	store   database.Store
}

// NewRollouts returns the rollouts of configs among agents.
func NewRollouts(configs *Configs, agents *Agents, store database.Store) *Rollouts {
	return &Rollouts{configs: configs, agents: agents, store: store}
}

// betweenLooks is the least time between two looks at all agents for one who
// waits: a fleet of a million reports in bursts.
const betweenLooks = 50 * time.Millisecond

// Rollout returns how far a version has spread, or models.ErrNotFound.
func (r *Rollouts) Rollout(ctx context.Context, version int64) (*models.Rollout, error) {
	if plan := r.configs.Plan(); plan.Newest != nil && version == plan.Version() {
		return &models.Rollout{Config: plan.Config(), Figures: r.agents.Figures(plan, time.Now())}, nil
	}
	cfg, err := r.configs.Version(ctx, version)
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
		reported, published := r.agents.changes.wait(), r.configs.changes.wait() // from before the look
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
	if plan := r.configs.Plan(); plan.Newest == nil || plan.Version() != version {
		return false
	}
	count := r.agents.count(version, time.Now())
	return count.Share() < share
}
