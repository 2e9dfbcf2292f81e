// Package limit sheds load. Each route class has a rate and a concurrency limit;
// rejected callers get a randomized Retry-After. Table holds a token bucket for each of
// any number of keys, and Guesses limits wrong credentials per account and source.
package limit

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// MaxRetryAfter is the longest Retry-After of a rejected caller.
const MaxRetryAfter = time.Minute

// Class is a route class with a limit of its own. Its methods are safe for concurrent use.
type Class struct {
	Rejections
	bucket      *rate.Limiter
	maxInFlight int64
	inFlight    atomic.Int64
}

// Rejections counts rejected requests and spreads their retries. Its methods are safe for
// concurrent use.
type Rejections struct {
	rejected atomic.Int64

	interval time.Duration // between two requests at the served rate

	mu      sync.Mutex // guards cleared
	cleared time.Time  // when all rejected requests would have been served, had they been queued
}

// New returns a class that admits perSecond requests a second, with a burst of as many, while
// fewer than inFlight are in flight.
func New(perSecond, inFlight int) *Class {
	c := &Class{bucket: rate.NewLimiter(rate.Limit(perSecond), perSecond), maxInFlight: int64(inFlight)}
	c.interval = time.Second / time.Duration(perSecond)
	return c
}

// NewRejections returns the Rejections of requests that are served at perSecond.
func NewRejections(perSecond int) *Rejections {
	return &Rejections{interval: time.Second / time.Duration(perSecond)}
}

// Enter reports whether a request is admitted. If so, the caller must call Leave.
func (c *Class) Enter() bool {
	if c.inFlight.Add(1) <= c.maxInFlight && c.bucket.Allow() {
		return true
	}
	c.Leave()
	return false
}

// Leave releases the slot of a request.
func (c *Class) Leave() { c.inFlight.Add(-1) }

// Return takes a slot again for an admitted request that called Leave to wait, even if the
// class is full.
func (c *Class) Return() { c.inFlight.Add(1) }

// Reject counts a rejected request and returns its Retry-After: random whole seconds, from 1 s
// to the time that it takes to serve all recently rejected requests, which counts as 2 s to
// MaxRetryAfter.
func (r *Rejections) Reject() time.Duration {
	r.rejected.Add(1)
	window := r.extend(time.Now())
	return time.Second + rand.N(1+(window+time.Second-1)/time.Second)*time.Second
}

// extend adds a request to the virtual queue of rejected ones and returns the queue's length
// in time. The length never exceeds MaxRetryAfter, so that it shrinks soon after a reconnect
// storm.
func (r *Rejections) extend(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cleared.Before(now) {
		r.cleared = now
	}
	r.cleared = r.cleared.Add(r.interval)
	if last := now.Add(MaxRetryAfter - time.Second); r.cleared.After(last) {
		r.cleared = last
	}
	return r.cleared.Sub(now)
}

// InFlight returns the number of requests in flight.
func (c *Class) InFlight() int64 { return c.inFlight.Load() }

// Rejected returns the number of rejected requests since the start.
func (r *Rejections) Rejected() int64 { return r.rejected.Load() }
