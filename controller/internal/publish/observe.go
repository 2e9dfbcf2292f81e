package publish

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// A store that was restored from an older backup does not know the versions that were
// published after it, but agents do. To offer them what the store has would take the
// fleet back, and no admin has asked for it. So agents that run later versions keep
// them until an admin publishes, or resumes; and the next version is above all that
// were observed.
//
// An agent whose ETag this store did not make is held too, but for itself: it may
// belong to another fleet, or lie.

// maxAhead is how far above the store's newest version one that an agent reports
// may be. A backup is not that old; what is beyond is no version.
const maxAhead = 1_000_000

// retryInterval is the time to the next try to store what was observed.
const retryInterval = 5 * time.Second

// ObserveTag notes the ETag of what an agent runs, and returns the plan that follows.
// ahead is the version that the ETag names if that is above the store's newest, else 0.
// The fleet is in conflict only if this store made the ETag, for any agent can send one
// that it did not: foreign says that it did not make it.
func (p *Publisher) ObserveTag(plan *models.Plan, tag string) (_ *models.Plan, ahead int64, foreign bool) {
	version := models.VersionOf(tag)
	switch {
	case version <= plan.Version():
		return plan, 0, false
	case !p.tags.Verify(tag):
		return plan, version, true
	case version > plan.Observed.Highest:
		plan = p.observe(version)
	}
	return plan, version, false
}

// ObserveReport notes the version that an agent reports, and its ETag, which may be
// empty. It reports whether the version can be one of this fleet's.
func (p *Publisher) ObserveReport(version int64, tag string) (credible bool) {
	plan := p.Plan()
	if models.VersionOf(tag) == version {
		plan, _, _ = p.ObserveTag(plan, tag)
	}
	return version <= plan.Version()+maxAhead
}

// observe makes a version that agents run a part of the plan. Run stores it: a poll
// writes nothing.
func (p *Publisher) observe(version int64) *models.Plan {
	for {
		current := p.plan.Load()
		next := current.Observe(version)
		if next == current {
			return current
		}
		if !p.plan.CompareAndSwap(current, next) {
			continue
		}
		select {
		case p.observed <- struct{}{}:
		default: // Run is to look already
		}
		return next
	}
}

// Run stores the observed versions above the store's own, and logs them, until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.observed:
		case <-again:
		}
		again = nil
		err := p.write(ctx, p.storeObserved)
		if err != nil && !errors.Is(err, context.Canceled) {
			p.log.WithError(err).Warn("Observed versions not stored; they stay in memory")
			again = time.After(retryInterval)
		}
	}
}

// storeObserved is the rule that stores what was observed.
func (p *Publisher) storeObserved(plan *models.Plan) (*models.Change, error) {
	if plan.Conflict() {
		p.log.WithFields(logrus.Fields{"version": plan.Version(), "highest_reported": plan.Observed.Highest}).
			Error("Agents run versions above the store's: it was restored from an older backup; " +
				"they keep what they run until you publish, or POST /api/v1/agents/resume")
	}
	return &models.Change{Observed: &plan.Observed}, nil
}
