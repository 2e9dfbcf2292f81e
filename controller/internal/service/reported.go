package service

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// A store that was restored from an older backup does not know the versions
// that were published after it, but agents do. To offer them what it has would
// acquire the fleet back, and nobody would have asked for it. So those that are
// ahead keep what they run until an admin has published, or has told them to
// follow the store again; and the next version is above all that were seen.
//
// An agent whose ETag this store did not make is held too, but for itself: it may come
// from another fleet, or lie.

// ReportedStore keeps what agents said of versions above the store's own.
type ReportedStore interface {
	Reported(ctx context.Context) (models.Reported, error)
	// SaveReported stores it, and the entries with it.
	SaveReported(ctx context.Context, r models.Reported, entries ...models.Entry) error
}

// maxAhead is how far above the store's newest version one that an agent reports
// may be. A backup is not that old; what is beyond is no version.
const maxAhead = 1_000_000

// ObserveTag notes the ETag of what an agent runs. It returns the version that the
// ETag names if that is above the store's newest, else 0; and whether this store made
// it. Only then the fleet is in conflict, and the next version above it: any agent can
// send an ETag that nobody made.
func (c *Configs) ObserveTag(tag string) (ahead int64, verified bool) {
	version := models.VersionOf(tag)
	if version <= c.newest() {
		return 0, false
	}
	if !c.tags.Verify(tag) {
		return version, false
	}
	c.raise(version)
	return version, true
}

// ObserveReport notes the version that an agent reports, and its ETag, which may be
// empty. It reports whether the version can be one of this fleet's.
func (c *Configs) ObserveReport(version int64, tag string) (credible bool) {
	if models.VersionOf(tag) == version {
		c.ObserveTag(tag)
	}
	return version <= c.newest()+maxAhead
}

// raise notes that agents run a version above the store's newest.
func (c *Configs) raise(version int64) {
	for {
		old := c.reported.Load()
		if version <= old.Highest {
			return
		}
		if c.reported.CompareAndSwap(old, &models.Reported{Highest: version, ResumedBelow: old.ResumedBelow}) {
			select {
			case c.raised <- struct{}{}:
			default: // Run is to look already
			}
			return
		}
	}
}

// Conflict reports whether agents run versions above the store's newest, up to
// highest, and no admin has decided yet. Then they keep what they run.
func (c *Configs) Conflict() (highest int64, conflict bool) {
	r := c.reported.Load()
	return r.Highest, r.Conflict(c.newest())
}

// Resume ends a conflict, and releases the agents that are held each for itself:
// they are offered what this store has, older or not. It reports whether there was
// anything to end. allowed validates the preconditions of the caller against the ETag
// of the current configuration. It returns models.ErrPrecondition, or models.ErrBusy
// if the publishes before it take too long.
func (c *Configs) Resume(ctx context.Context, origin models.Origin, allowed func(etag string) bool) (resumed bool, err error) {
	if err := c.publishing.acquire(ctx); err != nil {
		return false, err
	}
	defer c.publishing.release()
	if !allowed(c.etag()) {
		return false, models.ErrPrecondition
	}
	old, held := c.reported.Load(), c.fleet.Held(c.newest())
	var detail []string
	if old.Conflict(c.newest()) {
		detail = append(detail, "agents that run versions above it, up to "+format(old.Highest)+", follow it")
	}
	if held > 0 {
		detail = append(detail, strconv.Itoa(held)+" agents that run a version that this store did not make follow it")
	}
	if detail == nil {
		return false, nil
	}
	settled := models.Reported{Highest: old.Highest, ResumedBelow: old.Highest}
	entry := models.NewEntry(origin, models.ActionResume, c.newest(), strings.Join(detail, "; "))
	if err := c.store.SaveReported(context.WithoutCancel(ctx), settled, entry); err != nil {
		return false, err
	}
	for !c.reported.CompareAndSwap(old, &settled) { // an agent has named a higher one meanwhile: that is a new conflict
		old = c.reported.Load()
		settled.Highest = max(settled.Highest, old.Highest)
	}
	c.fleet.Release()
	c.changes.broadcast()
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
	if err := c.publishing.acquire(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	} else if err != nil {
		return nil
	}
	defer c.publishing.release()
	r := c.reported.Load()
	if r.Conflict(c.newest()) {
		c.log.WithFields(logrus.Fields{"version": c.newest(), "highest_reported": r.Highest}).
			Error("Agents run versions above the store's: it was restored from an older backup; they keep what they run until you publish, or POST /api/v1/agents/resume")
	}
	return c.store.SaveReported(context.WithoutCancel(ctx), *r)
}
