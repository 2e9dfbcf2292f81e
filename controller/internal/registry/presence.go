package registry

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// FlushInterval is how often presence goes to the store, in one batch. What a
// crash loses of it, the next polls bring back.
const FlushInterval = 5 * time.Second

// Poll remembers a poll of an agent.
func (r *Registry) Poll(live *Agent, poll models.Poll) {
	live.mu.Lock()
	defer live.mu.Unlock()
	r.remember(live, poll)
}

// remember takes a poll into account. The caller holds the agent's lock.
func (r *Registry) remember(live *Agent, poll models.Poll) {
	before, mismatch := live.agent.Applied, live.agent.Mismatch
	if live.agent.Polled(poll) {
		live.reportUnsaved = true
	}
	live.agent.PushError, live.agent.Unknown = poll.PushError, poll.Unknown
	r.hold(live, poll)
	if live.agent.Mismatch = poll.Mismatch; poll.Mismatch && !live.sawMismatch {
		live.sawMismatch = true
		r.log.WithFields(logrus.Fields{"agent": live.id, "hostname": live.agent.Hostname, "version": poll.Runs}).
			Warn("Agent holds another content than that of its version, as after an edit of its cache")
	}
	r.show(live, poll.At)
	r.polled.add(live)
	if live.agent.Applied != before {
		r.measure(live)
		r.changes.Send()
	} else if live.agent.Mismatch != mismatch {
		r.changes.Send()
	}
}

// hold notes whether an agent runs a version above the store's newest that the store
// did not make. It keeps that version until an admin publishes, or releases it, after
// it first said so. The caller holds the agent's lock.
func (r *Registry) hold(live *Agent, poll models.Poll) {
	if !poll.Foreign {
		live.agent.Held = 0
		return
	}
	if live.agent.Held != 0 {
		return
	}
	live.agent.Held = poll.Newest + 1
	r.holding.Do(func() {
		r.log.WithFields(logrus.Fields{"agent": live.id, "hostname": live.agent.Hostname, "version": poll.Runs, "newest": poll.Newest}).
			WithField("advice", "it keeps that until you publish, or POST /api/v1/agents/resume; more within a minute are not logged").
			Warn("Agent runs a version that this store did not make")
	})
}

// measure counts how long the newest version took to an agent that now runs it. The
// caller holds the agent's lock.
func (r *Registry) measure(live *Agent) {
	release, a := r.plan.Load().Newest, &live.agent
	if release == nil || a.Applied != release.Version || live.measured == a.Applied {
		return
	}
	live.measured = a.Applied
	r.spread.add(release, a)
	if !a.RegisteredAt.After(release.PublishedAt) {
		r.metrics.propagated(latencyOf(release, a))
	}
}

// Traits returns what decides what an agent is offered, beside what its poll says.
// Foreign says that it runs a version which the store, whose newest version is newest,
// did not make.
func (a *Agent) Traits(foreign bool, newest int64) models.Traits {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := models.Traits{Refused: a.agent.Refused}
	if foreign {
		t.Held = cmp.Or(a.agent.Held, newest+1)
	}
	return t
}

// Held is how many agents keep, each for itself, what this store did not make, while
// its newest version is newest.
func (r *Registry) Held(newest int64, now time.Time) (n int) {
	r.index.each(now, func(g *group) {
		if g.Held > newest {
			n += g.count
		}
	})
	return n
}

// Release lets these agents follow the store.
func (r *Registry) Release() {
	now := time.Now()
	var held []*Agent
	r.index.each(now, func(g *group) {
		if g.Held > 0 {
			held = append(held, g.some(g.count)...)
		}
	})
	for _, live := range held {
		r.release(live, now)
	}
}

// Disconnected remembers that an agent broke off its poll, unless a newer one has come
// since: it is to come again within interval.
func (r *Registry) Disconnected(live *Agent, poll models.Poll, interval time.Duration) {
	live.mu.Lock()
	defer live.mu.Unlock()
	if live.agent.LastPoll.After(poll.At) {
		return
	}
	poll.At, poll.Interval, poll.Runs, poll.Transport = time.Now().UTC(), interval, 0, wire.Polling
	r.remember(live, poll)
}

// Report takes the outcome of an agent's last attempt, and tells whether it is
// news: the same said again is none, unless an admin had the agent try again. When
// err is nil the outcome is durable; with an error it is in memory only, and the
// agent is to say it again. err is database.ErrBusy if its turn does not come.
func (r *Registry) Report(ctx context.Context, live *Agent, attempt wire.Attempt) (news bool, err error) {
	live.mu.Lock()
	last := live.agent.Attempt
	news = last.Version != attempt.Version || last.Status != attempt.Status ||
		attempt.Status == wire.Failed && !live.agent.Refuses(attempt.Version)
	live.agent.Report(attempt)
	live.reportUnsaved = true
	r.measure(live)
	r.show(live, time.Now())
	r.polled.add(live) // should it not be stored below
	r.reported.add(live)
	live.mu.Unlock()
	r.changes.Send()
	if news {
		r.metrics.reported(attempt.Status)
	}
	if err := r.settle(ctx, live); err != nil {
		live.mu.Lock()
		r.polled.add(live) // a flush may have come before the write that failed
		live.mu.Unlock()
		return news, fmt.Errorf("%w: %w", database.ErrInDoubt, err) // the next flush may store it
	}
	return news, nil
}

// settle stores what was reported, by this agent and by all that have reported
// meanwhile: whoever's turn it is writes for those who wait.
func (r *Registry) settle(ctx context.Context, live *Agent) error {
	if err := r.settling.Acquire(ctx); err != nil {
		return err
	}
	defer r.settling.Release()
	if !r.reported.holds(live) {
		return nil // somebody has
	}
	return r.reported.store(context.WithoutCancel(ctx))
}

func (r *Registry) release(live *Agent, now time.Time) {
	live.mu.Lock()
	defer live.mu.Unlock()
	if live.agent.Held > 0 {
		live.agent.Held = models.Released
		r.show(live, now)
	}
}

// Retry lets an agent be offered the version that its worker refused once
// more. It returns models.ErrNotFound if there is no agent of that id,
// database.ErrBusy if its turn does not come.
func (r *Registry) Retry(ctx context.Context, id string, origin models.Origin) error {
	if err := r.settling.Acquire(ctx); err != nil { // no report may come in between
		return err
	}
	defer r.settling.Release()
	live, err := r.known(id)
	if err != nil {
		return err
	}
	agent := live.snapshot()
	entry := models.NewEntry(origin, models.ActionRetry, agent.Refused.Version, "agent "+id+" on "+agent.Hostname)
	refused := agent.Refused
	agent.Refused = models.Refusal{}
	presence := []database.Presence{{Seq: live.seq, Presence: agent.Presence, Reported: true}}
	if err := r.store.SavePresence(context.WithoutCancel(ctx), presence, entry); err != nil {
		return fmt.Errorf("retry agent %s: %w", id, err)
	}
	live.mu.Lock()
	if live.agent.Refused == refused {
		live.agent.Refused = models.Refusal{}
	}
	r.show(live, time.Now())
	r.polled.add(live)
	live.mu.Unlock()
	live.offers.Send()
	return nil
}
