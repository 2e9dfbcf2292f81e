package poller

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/fleetconf/fleetconf/agent/internal/models"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

// pushState is how this agent hears of newer versions between two polls. Poller.mu
// guards it.
type pushState struct {
	healthy    bool
	subscribed bool   // to a broker
	err        string // why it is not, "" before the first attempt
	// due is when to fetch because of what was heard, the zero time for not at all.
	// It is only ever brought forward. hint is what was heard last.
	due  time.Time
	hint notify.Hint
	// A hint that comes to nothing is somebody's lie, or late. Before ignoreUntil
	// the next is not followed, and each that comes to nothing makes it longer.
	ignoreUntil   time.Time
	ignoreBackoff *backoff.Backoff
	unfounded     notify.Hint // the last that came to nothing
}

// pollBy brings the next fetch forward to at.
func (h *pushState) pollBy(at time.Time) {
	if h.due.IsZero() || at.Before(h.due) {
		h.due = at
	}
}

// setPushHealth notes how push is: nil for healthy. Each change is logged once, to log. It
// reports whether it is one. The caller holds mu.
func (p *Poller) setPushHealth(log logrus.FieldLogger, err error) (changed bool) {
	log = log.WithField("transport", p.Transport)
	was := p.push
	p.push.healthy, p.push.err = err == nil, ""
	if err != nil {
		p.push.err = err.Error()
	}
	switch first := was.err == "" && !was.healthy; {
	case err == nil && !was.healthy:
		log.Info("Push healthy")
	case err != nil && (was.healthy || first):
		log.WithFields(logrus.Fields{"error": p.push.err, "interval": p.interval.String()}).Warn("Push lost; polling")
	default:
		return false
	}
	return true
}

// listen receives the hints for the fleet that the controller named last, until ctx
// ends.
func (p *Poller) listen(ctx context.Context) error {
	for ctx.Err() == nil {
		p.mu.Lock()
		fleet := cmp.Or(p.Fleet, p.state.Fleet)
		p.mu.Unlock()
		g, listening := errgroup.WithContext(ctx)
		g.Go(func() error {
			select {
			case <-p.fleetChanged:
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

var errFleetChanged = errors.New("the controller names another fleet")

// listener hears what a broker announces. It is a notify.Receiver.
type listener struct{ *Poller }

// Subscribed has the agent fetch what it missed: not at once, for a broker that was
// restarted is heard again by the whole fleet.
func (l listener) Subscribed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.push.subscribed = true
	l.setPushHealth(l.Log, nil)
	l.push.pollBy(time.Now().Add(jitter(min(l.interval, rejoinSpread))))
	wake(l.pollSooner)
}

// Lost has the agent poll again: for the first time after a part of the
// interval, for the whole fleet may have lost the same broker.
func (l listener) Lost(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.push.subscribed = false
	if l.setPushHealth(l.Log, err) {
		l.push.pollBy(time.Now().Add(jitter(l.interval)))
		wake(l.pollSooner)
	}
}

// Received takes a hint for what it is: somebody says that a version exists.
func (l listener) Received(message []byte) {
	hint, err := notify.Decode(message)
	if err != nil {
		l.Metrics.countHint(l.Transport, hintInvalid)
		l.Log.WithField("error", err.Error()).Debug("Hint not usable")
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now().Add(jitter(hint.Spread()))
	outcome := l.hintOutcome(hint, at)
	l.Metrics.countHint(l.Transport, outcome)
	switch outcome {
	case hintIgnored, hintOld:
		return
	case hintDelayed:
		at = l.push.ignoreUntil
	}
	l.push.pollBy(at)
	l.push.hint = hint
	l.Log.WithFields(logrus.Fields{"version": hint.Version, "spread": hint.Spread().String()}).Debug("Hint heard")
	wake(l.pollSooner)
}

// hintOutcome says what becomes of a hint that would be followed at a time: it must be
// of another version than the agent has, and no older one. The caller holds mu.
func (p *Poller) hintOutcome(hint notify.Hint, at time.Time) (outcome string) {
	if last := p.push.unfounded; hint.Version == last.Version && hint.ETag == last.ETag {
		return hintIgnored
	}
	for _, known := range []*models.Release{p.state.Candidate, p.state.LastGood} {
		if known != nil && (hint.Version < known.Config.Version || hint.Version == known.Config.Version && hint.ETag == known.ETag) {
			return hintOld
		}
	}
	if at.Before(p.push.ignoreUntil) {
		return hintDelayed
	}
	return hintFollowed
}

// takeHint takes what was heard: the fetch that follows is for it. The zero Hint is
// none.
func (p *Poller) takeHint() (hint notify.Hint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hint, p.push.hint, p.push.due = p.push.hint, notify.Hint{}, time.Time{}
	return hint
}

// noteHintResult notes whether there was anything to what was heard.
func (p *Poller) noteHintResult(hint notify.Hint, founded bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case hint == notify.Hint{}:
		return
	case founded:
		p.push.ignoreBackoff.Reset()
		p.push.ignoreUntil = time.Time{} // it may lie beyond this fetch
		return
	}
	p.push.unfounded = hint
	p.push.ignoreUntil = time.Now().Add(min(p.push.ignoreBackoff.Next(0), p.interval))
	// A hint that came during the fetch is delayed too; the fetch has brought what else was due.
	if due := p.push.due; !due.IsZero() && due.Before(p.push.ignoreUntil) {
		p.push.due = p.push.ignoreUntil
	}
}
