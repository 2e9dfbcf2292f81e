// Package limit holds off a herd: so many requests a second and so many at
// once, each kind apart, and whoever is turned away is told a time to come back
// that the others are not told.
package limit

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Longest is the longest that anybody is told to stay away.
const Longest = time.Minute

// Class is a kind of requests with a limit of its own. Its methods may be
// called at once.
type Class struct {
	bucket     *rate.Limiter
	most       int64 // in flight
	inFlight   atomic.Int64
	turnedAway atomic.Int64

	each time.Duration // at the class's rate

	mu      sync.Mutex // guards cleared
	cleared time.Time  // when all who were turned away would have been served, had they stood in line
}

// New returns a class that lets in perSecond requests, as many of them at once
// after a quiet second, while fewer than inFlight are there.
func New(perSecond, inFlight int) *Class {
	return &Class{
		bucket: rate.NewLimiter(rate.Limit(perSecond), perSecond),
		most:   int64(inFlight),
		each:   time.Second / time.Duration(perSecond),
	}
}

// Enter reports whether there is room for one more request, and lets it in if
// so: it must Leave.
func (c *Class) Enter() bool {
	if c.inFlight.Add(1) <= c.most && c.bucket.Allow() {
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

// TurnAway counts a request that found no room, and returns how long it is to
// stay away: whole seconds, drawn from 1 s to as long as it takes the class to
// serve all who were turned away lately, from 2 s to Longest.
func (c *Class) TurnAway() time.Duration {
	c.turnedAway.Add(1)
	window := c.stand(time.Now())
	return time.Second + rand.N(1+(window+time.Second-1)/time.Second)*time.Second
}

// stand puts one more at the end of the line that nobody stands in, and returns
// how long it is. It never outgrows what anybody is told, or it would be there
// long after the herd.
func (c *Class) stand(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cleared.Before(now) {
		c.cleared = now
	}
	c.cleared = c.cleared.Add(c.each)
	if last := now.Add(Longest - time.Second); c.cleared.After(last) {
		c.cleared = last
	}
	return c.cleared.Sub(now)
}

// InFlight is how many requests are there now.
func (c *Class) InFlight() int64 { return c.inFlight.Load() }

// TurnedAway is how many requests found no room, ever.
func (c *Class) TurnedAway() int64 { return c.turnedAway.Load() }
