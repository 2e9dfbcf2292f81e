// Package backoff spaces the attempts of a loop that never gives up: waits
// grow exponentially up to a cap, and each is drawn from zero to what the
// growth has reached ("full jitter"), so that a fleet which lost its
// controller in one instant does not come back in one.
package backoff

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Backoff belongs to one loop; it must not be shared between goroutines.
type Backoff struct {
	waits backoff.ExponentialBackOff
}

// New returns a Backoff whose first wait is at most first and whose waits
// double up to limit. There is no last attempt.
func New(first, limit time.Duration) *Backoff {
	// The library draws from interval·(1 ± factor): a factor of 1 around the
	// half is 0 to the whole.
	return &Backoff{backoff.ExponentialBackOff{
		InitialInterval:     first / 2,
		MaxInterval:         limit / 2,
		Multiplier:          2,
		RandomizationFactor: 1,
	}}
}

// Next is how long to wait after one more failure. It is never less than
// floor, the Retry-After of a neighbour; on top of which comes jitter of up to
// a tenth, for the same floor may have been given to the whole fleet.
func (b *Backoff) Next(floor time.Duration) time.Duration {
	wait := b.waits.NextBackOff()
	if floor <= 0 {
		return wait
	}
	return floor + wait + rand.N(floor/10+1)
}

// Reset makes the next wait a first one again. It is called on success.
func (b *Backoff) Reset() { b.waits.Reset() }
