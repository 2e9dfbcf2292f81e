package poller

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	"github.com/fleetconf/fleetconf/pkg/auth"
)

// follow registers and polls until ctx ends. It starts after the worker was first pushed
// to, so that a restarted worker serves from the cache before anything else.
func (p *Poller) follow(ctx context.Context) {
	pause(ctx, firstPushTimeout, p.firstPushDone)
	a := newAttempts(p.Log)
	for ctx.Err() == nil {
		p.step(ctx, &a)
	}
}

// step does what the machine says is next.
func (p *Poller) step(ctx context.Context, a *attempts) {
	var next state.Step
	var until time.Time
	p.ask(func(m *state.Machine, now time.Time) { next, until = m.Next(now) })
	switch next {
	case state.Identify:
		id, secret := strings.ToLower(rand.Text()), auth.NewToken()
		p.handle(a.log, func(m *state.Machine, _ time.Time) { m.Identified(id, secret) })
	case state.Register:
		p.register(ctx, a)
	case state.Fetch:
		p.fetch(ctx, a)
	default:
		pause(ctx, time.Until(until), p.wakeFollow)
	}
}

func (p *Poller) register(ctx context.Context, a *attempts) {
	p.persist(ctx)
	as, self := protocol.Identity{}, p.Config.Self
	p.ask(func(m *state.Machine, _ time.Time) { as, self = m.Registering() })
	registration, err := p.Source.Register(a.begin(ctx), as, self)
	p.Metrics.registered(err)
	if err != nil && ctx.Err() != nil {
		return
	}
	p.handle(a.log, func(m *state.Machine, now time.Time) { m.Registered(now, self, registration, err) })
}

func (p *Poller) fetch(ctx context.Context, a *attempts) {
	var id protocol.Identity
	var q protocol.Query
	began := time.Now()
	p.ask(func(m *state.Machine, now time.Time) { id, q = m.Querying(now) })
	p.persist(ctx)
	answer, interrupted, err := p.send(a.begin(ctx), id, q)
	if err == nil || ctx.Err() == nil {
		p.handle(a.log, func(m *state.Machine, now time.Time) {
			if interrupted {
				m.Interrupted()
				return
			}
			err = m.Fetched(now, q, answer, err)
		})
	}
	p.Metrics.fetched(q, answer, err, time.Since(began))
}

// longPoll is a long poll that can be interrupted.
type longPoll struct {
	query       protocol.Query
	cancel      context.CancelFunc
	interrupted bool
}

// send sends a query, and reports whether it was interrupted.
func (p *Poller) send(ctx context.Context, id protocol.Identity, q protocol.Query) (
	answer protocol.Answer, interrupted bool, err error,
) {
	if q.Wait == 0 {
		answer, err = p.Source.Fetch(ctx, id, q)
		return answer, false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	poll := &longPoll{query: q, cancel: cancel}
	p.setLongPoll(poll)
	p.interruptStale() // something may have changed since the query was made
	answer, err = p.Source.Fetch(ctx, id, q)
	p.setLongPoll(nil)
	return answer, poll.interrupted && errors.Is(err, context.Canceled), err
}

func (p *Poller) setLongPoll(poll *longPoll) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longPoll = poll
}

// interruptStale ends the long poll that is under way, if it is stale.
func (p *Poller) interruptStale() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if poll := p.longPoll; poll != nil && p.machine.Stale(poll.query) {
		poll.interrupted = true
		poll.cancel()
	}
}
