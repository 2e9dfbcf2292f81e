package poll

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Cohorts returns the number of cohorts.
func Cohorts(w *Waiters) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.cohorts)
}

// Wait waits as a Ticket does, until newer returns true.
func (w *Waiters) Wait(ctx context.Context, d time.Duration, self *registry.Agent, newer func() bool) {
	woken := make(chan struct{}, 1)
	x := &waiter{wake: func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	}}
	if self != nil {
		defer self.OnOffer(x.wake)()
	}
	over := time.NewTimer(d + rand.N(wire.WaitSlack(d)+1))
	defer over.Stop()
	defer w.leave(x)
	for {
		w.leave(x)
		if joined := w.join(x); newer() || !joined {
			return
		}
		select {
		case <-woken:
		case <-over.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
