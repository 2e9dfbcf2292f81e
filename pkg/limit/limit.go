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

// MaxRetryAfter is the longest that anybody is told to stay away.
const MaxRetryAfter = time.Minute

// Class is a kind of requests with a limit of its own. Its methods may be
// called at once.
type Class struct {
	Rejections
	bucket      *rate.Limiter
	maxInFlight int64 // in flight
	inFlight    atomic.Int64
}

// Rejections counts rejected requests and spreads their return. Its methods may be
// called concurrently.
type Rejections struct {
	rejected atomic.Int64

	interval time.Duration // from one request to the next, at the rate at which they are served

	mu      sync.Mutex // guards cleared
	cleared time.Time  // when all who were turned away would have been served, had they stood in line
}

// New returns a class that lets in perSecond requests, as many of them at once
// after a quiet second, while fewer than inFlight are there.
func New(perSecond, inFlight int) *Class {
	c := &Class{bucket: rate.NewLimiter(rate.Limit(perSecond), perSecond), maxInFlight: int64(inFlight)}
	c.interval = time.Second / time.Duration(perSecond)
	return c
}

// NewRejections returns the Rejections of requests of which perSecond are served.
func NewRejections(perSecond int) *Rejections {
	return &Rejections{interval: time.Second / time.Duration(perSecond)}
}

// Enter reports whether there is room for one more request, and lets it in if
// so: it must Leave.
func (c *Class) Enter() bool {
	if c.inFlight.Add(1) <= c.maxInFlight && c.bucket.Allow() {
		return true
	}
	c.Leave()
	return false
}

// Leave gives back the place of a request.
func (c *Class) Leave() { c.inFlight.Add(-1) }

// Return takes back the place of a request that was let in and left to wait for
// something, be there room or not.
func (c *Class) Return() { c.inFlight.Add(1) }

// Reject counts a request that found no room, and returns how long it is to
// stay away: whole seconds, drawn from 1 s to as long as it takes to serve
// all who were turned away lately, from 2 s to MaxRetryAfter.
func (r *Rejections) Reject() time.Duration {
	r.rejected.Add(1)
	window := r.extend(time.Now())
	return time.Second + rand.N(1+(window+time.Second-1)/time.Second)*time.Second
}

// extend puts one more at the end of the line that nobody stands in, and returns
// how long it is. It never outgrows what anybody is told, or it would be there
// long after the herd.
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

// InFlight is how many requests are there now.
func (c *Class) InFlight() int64 { return c.inFlight.Load() }

// Rejected is how many requests found no room, ever.
func (r *Rejections) Rejected() int64 { return r.rejected.Load() }
