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

// Idle and Answer keep a subscription alive: after Idle without a byte a driver pings the
// broker, which must answer within Answer. Idle is long because an idle subscription must cost
// less than polling.
const (
	Idle   = 5 * time.Minute
	Answer = 10 * time.Second
)

// Reconnect is the Run of a driver. listen connects, calls subscribed when the broker has
// confirmed the subscription, passes messages to r, and returns when the connection is lost or
// ctx ends. Reconnect calls it until ctx ends, with a backoff that grows while connections do
// not last.
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

// Nop is an Announcer without a broker.
type Nop struct{}

// Announce does nothing.
func (Nop) Announce(context.Context, string, []byte) error { return nil }
