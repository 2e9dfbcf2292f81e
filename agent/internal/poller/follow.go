package poller

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/models"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// follower is the state of follow, which alone touches it.
type follower struct {
	*Poller
	retry    *backoff.Backoff // after an outage
	denied   *backoff.Backoff // after a refused token, when it is not the first
	deniedAt time.Time        // the last refused token
	early    <-chan struct{}  // what may cut the next wait short; nil: nothing
}

// follow registers, then polls until ctx ends.
func (p *Poller) follow(ctx context.Context) {
	first := time.NewTimer(feedFirst)
	defer first.Stop()
	select { // the worker is fed from the cache before anybody is asked
	case <-p.fed:
	case <-first.C:
	case <-ctx.Done():
		return
	}
	f := &follower{
		Poller: p,
		retry:  backoff.New(retryFirst, retryLimit),
		denied: backoff.New(retryFirst, retryLimit),
	}
	for {
		f.early = nil
		if wait := f.turn(ctx); !pause(ctx, wait, f.early) {
			return
		}
	}
}

// turn registers if it must, fetches, and says how long to wait for the next.
func (f *follower) turn(ctx context.Context) time.Duration {
	var refused error
	if !f.isRegistered() {
		switch err := f.register(ctx); {
		case err == nil:
		case errors.Is(err, models.ErrUnauthorized) && f.identity().AgentToken != "":
			refused = err // the shared password has changed; this agent's own token may hold
		default:
			return f.outage(ctx, err)
		}
	}
	id, etag := f.applied()
	answer, err := f.Source.Fetch(ctx, id, etag)
	interval := f.paced(answer.PollInterval)
	switch {
	case err == nil:
		f.offer(answer.Release)
	case errors.Is(err, models.ErrNotModified):
		f.confirm(etag)
	case errors.Is(err, models.ErrNothingPublished):
		f.Log.Debug("Nothing published yet")
	case errors.Is(err, models.ErrInvalidConfig):
		// The controller is there and says something wrong: asking more often
		// than usual would not make it right.
		f.answered()
		f.unwell(err, "Configuration not usable")
		f.retry.Reset()
		return spread(interval)
	case errors.Is(err, models.ErrUnauthorized):
		return f.tokenRefused(err)
	default:
		return f.outage(ctx, err)
	}
	f.answered()
	f.unwell(refused, "Registration refused")
	f.retry.Reset()
	return spread(interval)
}

// register makes this agent known, as the one it was if it ever was one, and
// keeps what the controller says it is.
func (f *follower) register(ctx context.Context) error {
	self := f.Self
	known := f.identity().AgentToken != ""
	self.AgentID = f.name()
	registration, err := f.Source.Register(ctx, self)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state.Identity != registration.Identity {
		f.state.Identity = registration.Identity
		f.save()
	}
	f.registered = true
	if registration.PollInterval > 0 {
		f.interval = registration.PollInterval
	}
	// A controller that did not know the token may not know the outcome.
	if f.next == nil && f.acked.Version > 0 {
		f.next = new(f.acked)
	}
	wake(f.owed)
	f.Log.WithFields(logrus.Fields{"agent": registration.Identity.AgentID, "known": known}).Info("Registered")
	return nil
}

// name is this agent's id, which it chooses and keeps before it first says it:
// an answer that is lost, or a crash before it was kept, leaves no second agent.
func (f *follower) name() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state.Identity.AgentID == "" {
		f.state.Identity.AgentID = strings.ToLower(rand.Text())
		f.save()
	}
	return f.state.Identity.AgentID
}

// tokenRefused makes the next turn register again: at once, but not when that
// did not help, as when two agents share one id and each registration ends the
// other's token.
func (f *follower) tokenRefused(err error) time.Duration {
	f.mu.Lock()
	f.registered = false
	f.mu.Unlock()
	f.unwell(err, "Token refused")
	again := !f.deniedAt.IsZero() && time.Since(f.deniedAt) < deniedCalm
	f.deniedAt = time.Now()
	if again {
		return f.denied.Next(models.Floor(err))
	}
	f.denied.Reset()
	return 0
}

// outage says how long to wait after one.
func (f *follower) outage(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil {
		return 0 // the agent stops: that is nobody's fault
	}
	f.unwell(err, "Controller lost")
	select {
	case <-f.back: // from before
	default:
	}
	f.early = early(f.back, err)
	return f.retry.Next(models.Floor(err))
}

// unwell notes what is wrong with the controller; nil: nothing is.
func (f *follower) unwell(err error, lost string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.controllerTrouble.note(f.Log, err, lost, "Controller back")
}

func (f *follower) isRegistered() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.registered
}

func (f *follower) identity() models.Identity {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.Identity
}

// applied is who asks, and what the worker accepted last: not what was fetched
// last, or a push that failed would be answered 304 for ever.
func (f *follower) applied() (id models.Identity, etag string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state.LastGood != nil {
		etag = f.state.LastGood.ETag
	}
	return f.state.Identity, etag
}

// paced takes over the interval that an answer named, and returns the one that
// holds.
func (f *follower) paced(named time.Duration) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if named > 0 && named != f.interval {
		f.Log.WithField("interval", named.String()).Info("Poll interval changed")
		f.interval = named
	}
	return f.interval
}

// answered notes that the controller answered a poll, and so would a report.
func (f *follower) answered() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastFetch = time.Now().UTC()
	f.Log.Debug("Polled")
	wake(f.owed)
}

// offer takes what the controller wants this agent to run. It may be older than
// what runs: the controller knows why.
func (p *Poller) offer(release *models.Release) {
	p.mu.Lock()
	defer p.mu.Unlock()
	balked := p.balked != nil
	p.balked = nil
	switch {
	case release.Same(p.state.LastGood):
		p.withdraw()
		p.refusal = refusal{}
	case release.Same(p.state.Candidate):
	default:
		// Not the URL: its query may be somebody's key.
		log := p.Log.WithField("version", release.Config.Version)
		log.Info("Configuration fetched")
		if release.ETag == "" {
			log.Warn("Configuration came without a usable ETag")
		}
		p.state.Candidate = release
		p.save()
		p.due = true
		if p.acked.Status == wire.Failed {
			p.acked = wire.Report{} // asked to try again, the agent tells the outcome again
		}
		wake(p.offered)
	}
	if balked {
		wake(p.offered)
	}
}

// confirm takes the controller's word that what etag names is what should run.
func (p *Poller) confirm(etag string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.balked != nil {
		p.balked = nil
		wake(p.offered)
	}
	// Unless the worker accepted another one while the answer was on its way.
	if p.state.LastGood != nil && p.state.LastGood.ETag == etag {
		p.withdraw()
	}
}

// withdraw drops a candidate that the controller wants no longer. The caller
// holds mu.
func (p *Poller) withdraw() {
	if p.state.Candidate == nil {
		return
	}
	p.Log.WithField("version", p.state.Candidate.Config.Version).Info("Configuration withdrawn")
	p.state.Candidate = nil
	p.save()
	p.due = true
	wake(p.offered)
}
