// Package poll answers the polls of agents, immediately or once there is something
// newer.
package poll

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/fleetconf/fleetconf/controller/internal/registry"
)

const (
	// cohortSize is how many waiters share one wake-up at most, and cohortShare
	// the part of a second that letting them go takes at least: fewer share one
	// where the pace is slow.
	cohortSize  = 64
	cohortShare = 100
	// waitJitter is the part of a wait by which it may last longer, so that polls
	// that began together do not end together.
	waitJitter = 16
	// drainTime is how long letting all of them go takes at the end. It is less
	// than the server gives its requests to end.
	drainTime = 8 * time.Second
	// drainRate is the slowest pace at the end, in waiters a second: a small fleet
	// holds up nobody.
	drainRate = 100
)

// Waiters are the polls that are held until there may be something newer. Those
// who came after one another form a cohort, which shares one wake-up. Cohorts are
// let go at a pace that the controller can serve, in an order that is drawn anew
// each time: nobody is always the last.
//
// To whoever polls this type is all that there is to waiting.
type Waiters struct {
	changed func() <-chan struct{}
	pace    rate.Limit // waiters a second
	limit   int        // at once

	mu      sync.Mutex // guards the rest
	cohorts map[*cohort]struct{}
	open    *cohort // the one that who comes next joins; nil for none
	waiting int
	ending  bool // nobody waits any more
}

// cohort is waiters that are let go together.
type cohort struct {
	wake    chan struct{} // closed by Waiters, when they are let go
	members int           // Waiters.mu guards it
}

// NewWaiters returns up to limit waiters. They are released at pace, in waiters a
// second, whenever the channel that changed returns is closed.
func NewWaiters(changed func() <-chan struct{}, pace, limit int) *Waiters {
	return &Waiters{changed: changed, pace: rate.Limit(pace), limit: limit, cohorts: map[*cohort]struct{}{}}
}

// Wait returns when newer reports true, else when d and up to a sixteenth of it
// are over, ctx ends, or nobody may wait any more. It asks newer immediately, and
// whenever the answer may have changed: for all by a publish, for self alone, which
// is nil where no agent waits, by its retry or removal.
func (w *Waiters) Wait(ctx context.Context, d time.Duration, self *registry.Agent, newer func() bool) {
	var offered <-chan struct{}
	over := time.NewTimer(d + rand.N(d/waitJitter+1))
	defer over.Stop()
	for {
		joined := w.join() // before the look: what changes after it wakes
		if self != nil {
			offered = self.Offered()
		}
		if newer() || joined == nil {
			w.leave(joined)
			return
		}
		select {
		case <-joined.wake:
			continue
		case <-offered:
			w.leave(joined)
			continue
		case <-over.C:
		case <-ctx.Done():
		}
		w.leave(joined)
		return
	}
}

// Full reports whether nobody more may wait now.
func (w *Waiters) Full() bool { return w.Waiting() >= w.limit }

// Waiting is how many wait now.
func (w *Waiters) Waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting
}

// Run lets the waiters go whenever there may be something newer, until ctx ends;
// then for good, spread over what the end may take.
func (w *Waiters) Run(ctx context.Context) error {
	for {
		published := w.changed()
		w.release(ctx, w.pace)
		select {
		case <-published:
			continue
		case <-ctx.Done():
		}
		w.mu.Lock()
		w.ending = true
		pace := max(rate.Limit(float64(w.waiting)/drainTime.Seconds()), drainRate)
		w.mu.Unlock()
		w.release(context.WithoutCancel(ctx), pace)
		return nil
	}
}

// release lets all go who wait now, unless ctx ends.
func (w *Waiters) release(ctx context.Context, pace rate.Limit) {
	limiter := rate.NewLimiter(pace, cohortSize)
	for _, c := range w.shuffled() {
		if limiter.WaitN(ctx, min(w.size(c), cohortSize)) != nil {
			return
		}
		w.wake(c)
	}
}

// shuffled is the cohorts of now, in an order of no meaning. Who comes next joins
// none of them.
func (w *Waiters) shuffled() []*cohort {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = nil
	all := make([]*cohort, 0, len(w.cohorts))
	for c := range w.cohorts {
		all = append(all, c)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (w *Waiters) size(c *cohort) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return c.members
}

func (w *Waiters) wake(c *cohort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting -= c.members
	delete(w.cohorts, c)
	close(c.wake)
}

// join makes the caller a waiter; nil where nobody may wait any more.
func (w *Waiters) join() *cohort {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ending {
		return nil
	}
	if w.open == nil {
		w.open = &cohort{wake: make(chan struct{})}
		w.cohorts[w.open] = struct{}{}
	}
	joined := w.open
	joined.members++
	w.waiting++
	if joined.members >= min(cohortSize, max(1, int(w.pace)/cohortShare)) {
		w.open = nil
	}
	return joined
}

// leave takes a waiter out that was not let go.
func (w *Waiters) leave(c *cohort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, waits := w.cohorts[c]; !waits {
		return
	}
	w.waiting--
	if c.members--; c.members == 0 && c != w.open {
		delete(w.cohorts, c)
	}
}
