// Package backoff spaces the attempts of a loop that never gives up. The bound of a
// wait doubles with each failure up to a limit, and each wait is uniform between zero
// and its bound ("full jitter"), so that a fleet that fails at one moment does not
// retry at one moment.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Backoff belongs to one loop; it must not be shared between goroutines.
type Backoff struct {
	first, limit time.Duration
	bound        time.Duration // of the last wait; 0 before the first
}

// New returns a Backoff whose first wait is at most first. The bound of its waits
// doubles up to limit.
func New(first, limit time.Duration) *Backoff { return &Backoff{first: first, limit: limit} }

// Next returns the wait after one more failure. With a floor, such as a Retry-After, it
// is at least that, plus jitter of up to a tenth of it: a whole fleet may have been
// given the same floor.
func (b *Backoff) Next(floor time.Duration) time.Duration {
	b.bound = min(max(b.first, 2*b.bound), b.limit)
	wait := rand.N(b.bound + 1)
	if floor <= 0 {
		return wait
	}
	return floor + wait + rand.N(floor/10+1)
}

// Reset makes the next wait a first one again. Call it after a success.
func (b *Backoff) Reset() { b.bound = 0 }
