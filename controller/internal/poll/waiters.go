package poll

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// cohortSize is the most waiters that are woken together. At a slow pace a cohort has
	// fewer: as many as are released in 1/cohortsPerSecond seconds.
	cohortSize       = 64
	cohortsPerSecond = 100
	// drainTime is how long the release of all waiters takes when the controller stops. It
	// is shorter than the server's shutdown timeout.
	drainTime = 8 * time.Second
	// drainRate is the slowest pace of that release, in waiters a second, so that a small
	// fleet does not delay the stop.
	drainRate = 100
)

// Waiters are the long polls in progress. Consecutive ones form a cohort, which is woken
// together. When the offer may have changed, the cohorts are released at a pace that the
// controller can serve, in random order, so that no waiter is always the last.
type Waiters struct {
	changed func() <-chan struct{}
	pace    rate.Limit // waiters a second
	limit   int

	mu      sync.Mutex // guards the rest
	cohorts map[*cohort]struct{}
	open    *cohort // the cohort that the next waiter joins; nil for none
	waiting int     // the number of waiters
	ending  bool    // the controller is stopping: no waiter may join
}

// cohort is a set of waiters that are woken together. Waiters.mu guards it.
type cohort struct {
	waiters []*waiter // nil in the places of waiters that left
	size    int       // the number of the others
}

// waiter is a long poll.
type waiter struct {
	wake func() // must not block

	cohort *cohort // nil while it is not waiting; Waiters.mu guards it and place
	place  int     // the index in cohort.waiters
}

// NewWaiters returns a set of at most limit waiters. Run releases them when the channel
// that changed returns is closed, at pace, in waiters a second.
func NewWaiters(changed func() <-chan struct{}, pace, limit int) *Waiters {
	return &Waiters{changed: changed, pace: rate.Limit(pace), limit: limit, cohorts: map[*cohort]struct{}{}}
}

// Full reports whether the limit of waiters is reached.
func (w *Waiters) Full() bool { return w.Waiting() >= w.limit }

// Waiting returns the number of waiters.
func (w *Waiters) Waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting
}

// Run releases the waiters after each change until ctx ends. Then it rejects new waiters,
// releases all others within eight seconds, and returns nil.
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

// release wakes the current waiters at a pace, until ctx ends.
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
	for _, x := range c.waiters { // without mu: no waiter joins or leaves a woken cohort
		if x != nil {
			x.wake()
		}
	}
}

// join adds a waiter, which the next release wakes. It returns false if the controller is
// stopping.
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
	if len(c.waiters) >= min(cohortSize, max(1, int(w.pace)/cohortsPerSecond)) {
		w.open = nil
	}
	return true
}

// leave removes a waiter, unless a release has woken it since it joined.
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
