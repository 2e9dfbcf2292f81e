// Package poll answers the polls of agents, immediately or once there is something
// newer.
package poll

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// cohortSize is how many waiters share one wake-up at most, and cohortShare
	// the part of a second that letting them go takes at least: fewer share one
	// where the pace is slow.
	cohortSize  = 64
	cohortShare = 100
	// drainTime is how long letting all of them go takes at the end. It is less
	// than the server gives its requests to end.
	drainTime = 8 * time.Second
	// drainRate is the slowest pace at the end, in waiters a second: a small fleet
	// holds up nobody.
	drainRate = 100
)

// Waiters are the polls that are held until there may be something newer. Those that
// began after one another form a cohort, which is woken together. Cohorts are released
// at a pace that the controller can serve, in random order, so that no poll is always
// the last.
type Waiters struct {
	changed func() <-chan struct{}
	pace    rate.Limit // waiters a second
	limit   int        // at once

	mu      sync.Mutex // guards the rest
	cohorts map[*cohort]struct{}
	open    *cohort // the one that the next waiter joins; nil for none
	waiting int
	ending  bool // no poll is held any more
}

// cohort is waiters that are woken together. Waiters.mu guards it.
type cohort struct {
	waiters []*waiter // nil where one has left
	size    int       // those that have not
}

// waiter is one poll that is held, or was.
type waiter struct {
	wake func() // must not block

	cohort *cohort // nil while it waits for nothing; Waiters.mu guards it and place
	place  int     // in cohort.waiters
}

// NewWaiters returns up to limit waiters. They are released at pace, in waiters a
// second, whenever the channel that changed returns is closed.
func NewWaiters(changed func() <-chan struct{}, pace, limit int) *Waiters {
	return &Waiters{changed: changed, pace: rate.Limit(pace), limit: limit, cohorts: map[*cohort]struct{}{}}
}

// Full reports whether no more polls may be held now.
func (w *Waiters) Full() bool { return w.Waiting() >= w.limit }

// Waiting is how many polls are held now.
func (w *Waiters) Waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting
}

// Run releases the waiters whenever there may be something newer, until ctx ends; then
// all of them for good, spread over drainTime.
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

// release wakes all that wait now, at a pace, unless ctx ends.
func (w *Waiters) release(ctx context.Context, pace rate.Limit) {
	limiter := rate.NewLimiter(pace, cohortSize)
	for _, c := range w.shuffled() {
		if limiter.WaitN(ctx, min(w.size(c), cohortSize)) != nil {
			return
		}
		w.wake(c)
	}
}

// shuffled returns the current cohorts in random order, and closes the open one.
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
	return c.size
}

func (w *Waiters) wake(c *cohort) {
	w.mu.Lock()
	w.waiting -= c.size
	delete(w.cohorts, c)
	for _, x := range c.waiters {
		if x != nil {
			x.cohort = nil
		}
	}
	w.mu.Unlock()
	for _, x := range c.waiters { // which nothing changes any more
		if x != nil {
			x.wake()
		}
	}
}

// join has a waiter woken by the next release. It reports whether one will come.
func (w *Waiters) join(x *waiter) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ending {
		return false
	}
	if w.open == nil {
		w.open = &cohort{}
		w.cohorts[w.open] = struct{}{}
	}
	c := w.open
	x.cohort, x.place = c, len(c.waiters)
	c.waiters = append(c.waiters, x)
	c.size++
	w.waiting++
	if len(c.waiters) >= min(cohortSize, max(1, int(w.pace)/cohortShare)) {
		w.open = nil
	}
	return true
}

// leave takes a waiter out, if no release has woken it since it joined.
func (w *Waiters) leave(x *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := x.cohort
	if c == nil {
		return
	}
	x.cohort, c.waiters[x.place] = nil, nil
	w.waiting--
	if c.size--; c.size == 0 && c != w.open {
		delete(w.cohorts, c)
	}
}
