package poller

import (
	"context"
	"errors"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/reconcile"
	"github.com/fleetconf/fleetconf/agent/internal/state"
)

const (
	reconcileInterval = time.Second // between two observations of the worker

	// maxSteps bounds the pushes of one round: the last good release to an empty
	// worker, the candidate, and the last good one again if that is refused.
	maxSteps = 3
)

// reconcile makes the worker run what it should until ctx ends: immediately, every
// second, and whenever something else is desired.
func (p *Poller) reconcile(ctx context.Context) {
	a := newAttempts(p.Log)
	ticker := time.NewTicker(reconcileInterval)
	defer ticker.Stop()
	for first := true; ; first = false {
		for range maxSteps {
			if !p.observe(ctx, &a) {
				break
			}
		}
		p.handle(a.log, func(m *state.Machine, now time.Time) { m.Assess(now) })
		if first {
			close(p.firstPushDone)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wakeReconcile:
		case <-ticker.C:
		}
	}
}

// observe asks the worker what it runs, and pushes what it should run. It reports whether
// to observe again immediately.
func (p *Poller) observe(ctx context.Context, a *attempts) (again bool) {
	running, err := p.Sink.Running(a.begin(ctx))
	if ctx.Err() != nil {
		return false
	}
	var push *reconcile.Push
	p.handle(a.log, func(m *state.Machine, now time.Time) { push, again = m.Observed(now, running, err) })
	if push == nil {
		return again
	}
	if push.New {
		p.persist(ctx)
	}
	began := time.Now()
	err = p.Sink.Push(a.begin(ctx), push.Config)
	p.Metrics.pushed(err, time.Since(began))
	var refused *protocol.Refused
	if err != nil && !errors.As(err, &refused) && ctx.Err() != nil {
		return false
	}
	p.handle(a.log, func(m *state.Machine, now time.Time) { again = m.Pushed(now, push, err) })
	return again
}
