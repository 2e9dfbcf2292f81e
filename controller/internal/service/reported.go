package service

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// A store that was restored from an older backup does not know the versions
// that were published after it, but agents do. To offer them what it has would
// take the fleet back, and nobody would have asked for it. So those that are
// ahead keep what they run until an admin has published, or has told them to
// follow the store again; and the next version is above all that were seen.

// ReportedStore keeps what agents said of versions above the store's own.
type ReportedStore interface {
	Reported(ctx context.Context) (models.Reported, error)
	// SaveReported stores it, and the entries with it.
	SaveReported(ctx context.Context, r models.Reported, entries ...models.Entry) error
}

// maxAhead is how far above the store's newest version one that an agent names
// may be. A backup is not that old; what is beyond is no version.
const maxAhead = 1_000_000

// Witness takes the word of an agent that it runs, or has tried, a version. It
// reports whether the version can be one of this fleet's.
func (c *Configs) Witness(version int64) (credible bool) {
	newest := c.newest()
	if version <= newest {
		return true
	}
	if version > newest+maxAhead {
		return false
	}
	for {
		old := c.reported.Load()
		if version <= old.Highest {
			return true
		}
		if c.reported.CompareAndSwap(old, &models.Reported{Highest: version, ResumedBelow: old.ResumedBelow}) {
			select {
			case c.raised <- struct{}{}:
			default: // Run is to look already
			}
			return true
		}
	}
}

// Conflict reports whether agents run versions above the store's newest, up to
// highest, and no admin has decided yet. Then they keep what they run.
func (c *Configs) Conflict() (highest int64, conflict bool) {
	r := c.reported.Load()
	return r.Highest, r.Conflict(c.newest())
}

// Resume ends a conflict: agents are offered what this store has, older or not.
// It reports whether there was one. allowed judges the preconditions of the
// caller against the ETag of the current configuration. It returns
// models.ErrPrecondition, or models.ErrBusy if its turn does not come.
func (c *Configs) Resume(ctx context.Context, origin models.Origin, allowed func(etag string) bool) (resumed bool, err error) {
	if err := c.publishing.take(ctx); err != nil {
		return false, err
	}
	defer c.publishing.give()
	if !allowed(c.etag()) {
		return false, models.ErrPrecondition
	}
	old := c.reported.Load()
	if !old.Conflict(c.newest()) {
		return false, nil
	}
	settled := models.Reported{Highest: old.Highest, ResumedBelow: old.Highest}
	entry := models.NewEntry(origin, models.ActionResume, c.newest(), "agents that run versions above it, up to "+format(old.Highest)+", follow it")
	if err := c.store.SaveReported(context.WithoutCancel(ctx), settled, entry); err != nil {
		return false, err
	}
	for !c.reported.CompareAndSwap(old, &settled) { // an agent has named a higher one meanwhile: that is a new conflict
		old = c.reported.Load()
		settled.Highest = max(settled.Highest, old.Highest)
	}
	c.changes.flash()
	return true, nil
}

// Run stores what agents say of versions above the store's own, and says so in
// the log, until ctx ends. It is not done where an agent says it: that may be a
// poll, which writes nothing.
func (c *Configs) Run(ctx context.Context) error {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.raised:
		case <-again:
		}
		again = nil
		if err := c.saveReported(ctx); err != nil {
			c.log.WithError(err).Warn("Versions above the store's, reported by agents, could not be stored; they stay in memory")
			again = time.After(FlushInterval)
		}
	}
}

func (c *Configs) saveReported(ctx context.Context) error {
	if err := c.publishing.take(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	} else if err != nil {
		return nil
	}
	defer c.publishing.give()
	r := c.reported.Load()
	if r.Conflict(c.newest()) {
		c.log.WithFields(logrus.Fields{"version": c.newest(), "highest_reported": r.Highest}).
			Error("Agents run versions above the store's: it was restored from an older backup; they keep what they run until you publish, or POST /api/v1/agents/resume")
	}
	return c.store.SaveReported(context.WithoutCancel(ctx), *r)
}
