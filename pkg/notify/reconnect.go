package notify

import (
	"context"
	"time"

	"github.com/fleetconf/fleetconf/pkg/backoff"
)

const (
	firstWait = time.Second
	maxWait   = 30 * time.Second
)

// Idle and Answer are how a subscription is kept: after Idle without a byte the
// broker is asked for a sign of life, and has Answer for it. Bytes count: an
// agent that hears nothing costs less than one that polls.
const (
	Idle   = 5 * time.Minute
	Answer = 10 * time.Second
)

// Reconnect is the Run of a driver. listen connects, calls subscribed when the broker
// has confirmed the subscription, tells the receiver what it hears, and returns
// when the connection is lost or ctx ends. It is called again for ever, after
// waits that grow while no connection holds.
func Reconnect(ctx context.Context, r Receiver, listen func(ctx context.Context, subscribed func()) error) error {
	waits := backoff.New(firstWait, maxWait)
	lost := false
	for {
		var since time.Time
		err := listen(ctx, func() {
			since, lost = time.Now(), false
			r.Subscribed()
		})
		if ctx.Err() != nil {
			return nil
		}
		if !lost {
			lost = true
			r.Lost(err)
		}
		if !since.IsZero() && time.Since(since) > maxWait {
			waits.Reset()
		}
		select {
		case <-time.After(waits.Next(0)):
		case <-ctx.Done():
			return nil
		}
	}
}

// Nop announces nothing: agents hear of a newer version in another way.
type Nop struct{}

// Announce does nothing.
func (Nop) Announce(context.Context, string, []byte) error { return nil }
