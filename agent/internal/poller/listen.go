package poller

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fleetconf/fleetconf/agent/internal/pace"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

var errFleetChanged = errors.New("the controller names another fleet")

// listen receives the hints for the agent's fleet until ctx ends.
func (p *Poller) listen(ctx context.Context) error {
	for ctx.Err() == nil {
		select {
		case <-p.wakeListen: // the fleet that is read below
		default:
		}
		var fleet string
		p.ask(func(m *state.Machine, _ time.Time) { fleet = m.Fleet() })
		g, listening := errgroup.WithContext(ctx)
		g.Go(func() error {
			select {
			case <-p.wakeListen:
				return errFleetChanged // ends listening
			case <-listening.Done():
				return nil
			}
		})
		g.Go(func() error { return p.Hints.Run(listening, notify.SubjectOf(fleet), listener{p}) })
		if err := g.Wait(); err != nil && !errors.Is(err, errFleetChanged) {
			return err
		}
	}
	return nil
}

// listener is the notify.Receiver of an agent.
type listener struct{ *Poller }

// Subscribed implements notify.Receiver.
func (l listener) Subscribed() {
	l.handle(l.Log, func(m *state.Machine, now time.Time) { m.Subscribed(now) })
}

// Lost implements notify.Receiver.
func (l listener) Lost(err error) {
	l.handle(l.Log, func(m *state.Machine, now time.Time) { m.Unsubscribed(now, err) })
}

// Received implements notify.Receiver.
func (l listener) Received(message []byte) {
	hint, err := notify.Decode(message)
	if err != nil {
		l.Metrics.countHint(l.Config.Transport, pace.HintInvalid)
		l.Log.WithField("error", err.Error()).Debug("Hint unusable")
		return
	}
	var outcome pace.Outcome
	l.handle(l.Log, func(m *state.Machine, now time.Time) { outcome = m.Hinted(now, hint) })
	l.Metrics.countHint(l.Config.Transport, outcome)
}
