package publish

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// A store that was restored from an older backup lacks the versions that were published
// after the backup, but agents run them. Offering the store's newest version would roll
// the fleet back without an admin's decision. So agents that run later versions keep
// them until an admin publishes or resumes, and the next version is above all observed
// ones.
//
// An agent whose ETag this store did not make also keeps its version, but the fleet is
// not in conflict: the agent may belong to another fleet, or lie.

// maxAhead bounds how far a reported version may be above the store's newest. No backup
// is a million versions old.
const maxAhead = 1_000_000

// retryInterval is the time between two attempts to store the observed versions.
const retryInterval = 5 * time.Second

// ObserveTag takes the ETag of the version that an agent runs into account, and returns
// the resulting plan. ahead is the version in the ETag if that is above the plan's
// newest, else 0. foreign means that this store did not make the ETag: then the plan
// does not change, because any agent can send such an ETag.
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

// ObserveReport takes the version that an agent reports into account, and its ETag,
// which may be empty. It reports whether the fleet can have such a version.
func (p *Publisher) ObserveReport(version int64, tag string) (credible bool) {
	plan := p.Plan()
	if models.VersionOf(tag) == version {
		plan, _, _ = p.ObserveTag(plan, tag)
	}
	return version <= plan.Version()+maxAhead
}

// observe adds a version that an agent runs to the plan in memory. Run stores it, so that
// a poll does not write.
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
		default: // Run has a pending wake-up
		}
		return next
	}
}

// Run stores and logs the observed versions above the store's newest until ctx ends, and
// returns nil. A write that fails is retried.
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
		err := p.write(ctx, storeObserved)
		if err == nil {
			p.logConflict()
		} else if !errors.Is(err, context.Canceled) {
			p.log.WithError(err).WithField("advice", "they stay in memory, and the write is retried").
				Warn("Observed versions not stored")
			again = time.After(retryInterval)
		}
	}
}

// storeObserved is the rule that stores the observed versions.
func storeObserved(plan *models.Plan) (*models.Change, error) {
	return &models.Change{Observed: &plan.Observed}, nil
}

// logConflict logs that agents run later versions than the store has, while that is
// undecided.
func (p *Publisher) logConflict() {
	plan := p.Plan()
	if !plan.Conflict() {
		return
	}
	p.log.WithFields(logrus.Fields{"version": plan.Version(), "highest_reported": plan.Observed.Highest}).
		WithField("advice", "the store was restored from an older backup: "+
			"agents keep their version until you publish, or POST /api/v1/agents/resume").
		Error("Later versions observed")
}
