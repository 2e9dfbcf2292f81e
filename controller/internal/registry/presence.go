package registry

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// FlushInterval is the time between two flushes of presence to the store. The next polls
// replace what a crash loses.
const FlushInterval = 5 * time.Second

// Poll records a poll of an agent, in memory. Run stores it.
func (r *Registry) Poll(live *Agent, poll models.Poll) {
	live.mu.Lock()
	defer live.mu.Unlock()
	r.recordPoll(live, poll)
}

// recordPoll records a poll. The caller holds the agent's lock.
func (r *Registry) recordPoll(live *Agent, poll models.Poll) {
	before, mismatch := live.agent.Applied, live.agent.Mismatch
	if live.agent.Polled(poll) {
		live.reportUnsaved = true
	}
	live.agent.PushError, live.agent.Unknown = poll.PushError, poll.Unknown
	r.setHeld(live, poll)
	if live.agent.Mismatch = poll.Mismatch; poll.Mismatch && !live.sawMismatch {
		live.sawMismatch = true
		r.log.WithFields(logrus.Fields{"agent": live.id(), "hostname": live.agent.Hostname, "version": poll.Runs}).
			WithField("advice", "its cache may have been edited; the agent is offered the version again").
			Warn("Agent content mismatch detected")
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

// setHeld sets Held of an agent that runs a version above the store's newest that the
// store did not make. The agent keeps that version until an admin publishes or resumes.
// The caller holds the agent's lock.
func (r *Registry) setHeld(live *Agent, poll models.Poll) {
	if !poll.Foreign {
		live.agent.Held = 0
		return
	}
	if live.agent.Held != 0 {
		return
	}
	live.agent.Held = poll.Newest + 1
	r.heldWarnings.Do(func() {
		r.log.WithFields(logrus.Fields{
			"agent": live.id(), "hostname": live.agent.Hostname, "version": poll.Runs, "newest": poll.Newest,
		}).
			WithField(
				"advice",
				"the agent keeps it until you publish, or POST /api/v1/agents/resume; logged at most once a minute",
			).
			Warn("Agent runs a version that this store did not make")
	})
}

// measure records how long the newest version took to reach an agent, if the agent now
// runs it for the first time. The caller holds the agent's lock.
func (r *Registry) measure(live *Agent) {
	release, a := r.plan.Load().Newest, &live.agent
	if release == nil || a.Applied != release.Version || live.measured == a.Applied {
		return
	}
	live.measured = a.Applied
	r.Applied(release, a)
	if took, counts := census.LatencyOf(release, a); counts {
		r.metrics.propagated(took)
	}
}

// Traits returns the agent's traits, except Runs and Unknown, which its poll has. foreign
// means that it runs a version above newest, the store's newest, that the store did not
// make.
func (a *Agent) Traits(foreign bool, newest int64) models.Traits {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := models.Traits{Refused: a.agent.Refused}
	if foreign {
		t.Held = cmp.Or(a.agent.Held, newest+1)
	}
	return t
}

// Release makes the held agents follow the store.
func (r *Registry) Release() {
	now := time.Now()
	for _, m := range r.AllHeld(now) {
		r.release(m.Agent().(*Agent), now)
	}
}

// Disconnected records that an agent disconnected from its long poll, and is expected to
// poll within interval. It does nothing if the agent has polled since.
func (r *Registry) Disconnected(live *Agent, poll models.Poll, interval time.Duration) {
	live.mu.Lock()
	defer live.mu.Unlock()
	if live.agent.LastPoll.After(poll.At) {
		return
	}
	poll.At, poll.Interval, poll.Runs, poll.Transport = time.Now().UTC(), interval, 0, wire.Polling
	r.recordPoll(live, poll)
}

// Report records the outcome of an agent's last attempt. news is false for a repeated
// report, unless an admin requested a retry. If err is nil, the outcome is durable.
// Otherwise it is in memory, and the agent must repeat it: err is database.ErrInDoubt,
// with database.ErrBusy if earlier writes take too long.
func (r *Registry) Report(ctx context.Context, live *Agent, attempt wire.Attempt) (news bool, err error) {
	live.mu.Lock()
	last := live.agent.Attempt
	news = last.Version != attempt.Version || last.Status != attempt.Status ||
		attempt.Status == wire.Failed && !live.agent.Refuses(attempt.Version)
	live.agent.Report(attempt)
	live.reportUnsaved = true
	r.measure(live)
	r.show(live, time.Now())
	r.polled.add(live) // in case the write below fails
	r.reported.add(live)
	live.mu.Unlock()
	r.changes.Send()
	if news {
		r.metrics.reported(attempt.Status)
	}
	if err := r.storeReport(ctx, live); err != nil {
		live.mu.Lock()
		r.polled.add(live) // again: a flush may have run before the failed write
		live.mu.Unlock()
		return news, fmt.Errorf("%w: %w", database.ErrInDoubt, err) // the next flush may store it
	}
	return news, nil
}

// storeReport stores the report of an agent, together with all others that are waiting
// (group commit).
func (r *Registry) storeReport(ctx context.Context, live *Agent) error {
	if err := r.reportWrites.Acquire(ctx); err != nil {
		return err
	}
	defer r.reportWrites.Release()
	if !r.reported.contains(live) {
		return nil // stored by another call
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

// Retry offers an agent the version that its worker refused again. Errors are
// models.ErrNotFound if there is no agent with that id, and database.ErrBusy if earlier
// writes take too long.
func (r *Registry) Retry(ctx context.Context, id string, origin models.Origin) error {
	if err := r.reportWrites.Acquire(ctx); err != nil { // no report may be stored meanwhile
		return err
	}
	defer r.reportWrites.Release()
	live, err := r.known(id)
	if err != nil {
		return err
	}
	agent := live.Snapshot()
	entry := models.NewEntry(origin, models.ActionRetry, agent.Refused.Version, "agent "+id+" on "+agent.Hostname)
	refused := agent.Refused
	agent.Refused = models.Refusal{}
	presence := []database.Presence{{Seq: live.place.Seq, Presence: agent.Presence, Reported: true}}
	err = r.store.SavePresence(context.WithoutCancel(ctx), presence, entry)
	live.mu.Lock()
	live.reportUnsaved = true // the store may differ after an error, or lack what a poll said meanwhile
	r.polled.add(live)
	if err != nil {
		live.mu.Unlock()
		return fmt.Errorf("retry agent %s: %w", id, err)
	}
	if live.agent.Refused == refused {
		live.agent.Refused = models.Refusal{}
	}
	r.show(live, time.Now())
	live.mu.Unlock()
	live.offers.Send()
	return nil
}
