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

// hearing is how this agent hears of newer versions between two polls. Poller.mu
// guards it.
type hearing struct {
	healthy    bool
	subscribed bool   // to a broker
	trouble    string // why it is not, "" before the first attempt
	// due is when to fetch because of what was heard, the zero time for not at all.
	// It is only ever brought forward. hint is what was heard last.
	due  time.Time
	hint notify.Hint
	// A hint that comes to nothing is somebody's lie, or late. Before deafUntil
	// the next is not followed, and each that comes to nothing makes it longer.
	deafUntil time.Time
	deafness  *backoff.Backoff
	unfounded notify.Hint // the last that came to nothing
}

// by brings the next fetch forward to at.
func (h *hearing) by(at time.Time) {
	if h.due.IsZero() || at.Before(h.due) {
		h.due = at
	}
}

// hears notes how push is: nil for healthy. Each change is logged once, to log. It
// reports whether it is one. The caller holds mu.
func (p *Poller) hears(log logrus.FieldLogger, err error) (changed bool) {
	log = log.WithField("transport", p.Transport)
	was := p.hearing
	p.hearing.healthy, p.hearing.trouble = err == nil, ""
	if err != nil {
		p.hearing.trouble = err.Error()
	}
	switch first := was.trouble == "" && !was.healthy; {
	case err == nil && !was.healthy:
		log.Info("Push healthy")
	case err != nil && (was.healthy || first):
		log.WithFields(logrus.Fields{"error": p.hearing.trouble, "interval": p.interval.String()}).Warn("Push lost; polling")
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
		g, hearing := errgroup.WithContext(ctx)
		g.Go(func() error {
			select {
			case <-p.moved:
				return errMoved // ends hearing
			case <-hearing.Done():
				return nil
			}
		})
		g.Go(func() error { return p.Hints.Run(hearing, notify.SubjectOf(fleet), listener{p}) })
		if err := g.Wait(); err != nil && !errors.Is(err, errMoved) {
			return err
		}
	}
	return nil
}

var errMoved = errors.New("the controller names another fleet")

// listener hears what a broker announces. It is a notify.Receiver.
type listener struct{ *Poller }

// Subscribed has the agent fetch what it missed: not at once, for a broker that was
// restarted is heard again by the whole fleet.
func (l listener) Subscribed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hearing.subscribed = true
	l.hears(l.Log, nil)
	l.hearing.by(time.Now().Add(part(min(l.interval, comeBack))))
	wake(l.nudged)
}

// Lost has the agent poll again: for the first time after a part of the
// interval, for the whole fleet may have lost the same broker.
func (l listener) Lost(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hearing.subscribed = false
	if l.hears(l.Log, err) {
		l.hearing.by(time.Now().Add(part(l.interval)))
		wake(l.nudged)
	}
}

// Received takes a hint for what it is: somebody says that a version exists.
func (l listener) Received(message []byte) {
	hint, err := notify.Decode(message)
	if err != nil {
		l.Metrics.heard(l.Transport, hintInvalid)
		l.Log.WithField("error", err.Error()).Debug("Hint not usable")
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now().Add(part(hint.Spread()))
	outcome := l.judge(hint, at)
	l.Metrics.heard(l.Transport, outcome)
	switch outcome {
	case hintIgnored, hintOld:
		return
	case hintDelayed:
		at = l.hearing.deafUntil
	}
	l.hearing.by(at)
	l.hearing.hint = hint
	l.Log.WithFields(logrus.Fields{"version": hint.Version, "spread": hint.Spread().String()}).Debug("Hint heard")
	wake(l.nudged)
}

// judge says what becomes of a hint that would be followed at a time: it must be
// of another version than the agent has, and no older one. The caller holds mu.
func (p *Poller) judge(hint notify.Hint, at time.Time) (outcome string) {
	if last := p.hearing.unfounded; hint.Version == last.Version && hint.ETag == last.ETag {
		return hintIgnored
	}
	for _, known := range []*models.Release{p.state.Candidate, p.state.LastGood} {
		if known != nil && (hint.Version < known.Config.Version || hint.Version == known.Config.Version && hint.ETag == known.ETag) {
			return hintOld
		}
	}
	if at.Before(p.hearing.deafUntil) {
		return hintDelayed
	}
	return hintFollowed
}

// heed takes what was heard: the fetch that follows is for it. The zero Hint is
// none.
func (p *Poller) heed() (hint notify.Hint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hint, p.hearing.hint, p.hearing.due = p.hearing.hint, notify.Hint{}, time.Time{}
	return hint
}

// judged notes whether there was anything to what was heard.
func (p *Poller) judged(hint notify.Hint, founded bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case hint == notify.Hint{}:
		return
	case founded:
		p.hearing.deafness.Reset()
		p.hearing.deafUntil = time.Time{} // it may lie beyond this fetch
		return
	}
	p.hearing.unfounded = hint
	p.hearing.deafUntil = time.Now().Add(min(p.hearing.deafness.Next(0), p.interval))
	// A hint that came during the fetch is delayed too; the fetch has brought what else was due.
	if due := p.hearing.due; !due.IsZero() && due.Before(p.hearing.deafUntil) {
		p.hearing.due = p.hearing.deafUntil
	}
}
