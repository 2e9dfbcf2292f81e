package poller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/models"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// follower is the state of follow, which alone touches it.
type follower struct {
	*Poller
	attempts
	retry             *backoff.Backoff // after an outage
	denied            *backoff.Backoff // after a refused token, when it is not the first
	deniedAt          time.Time        // the last refused token
	needs             credentials      // to register with before the next poll
	renewal           *backoff.Backoff // of a registration that is out of date
	renewAt           time.Time        // not before this is it tried again
	renewing          fault            // why it was not renewed
	waits             waits            // of long-poll
	lastFetchFailed   bool             // the last fetch failed: the next one is answered at once
	waitsBeforeCut    *waits           // those before the last cut, while it may yet turn out that the controller was away
	lastFetched       *models.Release  // that was fetched
	immediateReleases int              // releases in a row that were there at once
	earlyAnswers      int              // waits in a row that were answered before their time, with nothing new
}

// rest is the time until the next turn, and what may cut it short.
type rest struct {
	wait   time.Duration
	early  <-chan struct{} // nil: nothing
	onHint bool            // what push has to say
}

// follow polls until ctx ends. It registers first only if it has no token.
func (p *Poller) follow(ctx context.Context) {
	first := time.NewTimer(firstPushTimeout)
	defer first.Stop()
	select { // the worker is fed from the cache before anybody is asked
	case <-p.firstPushDone:
	case <-first.C:
	case <-ctx.Done():
		return
	}
	f := newFollower(p)
	for f.rest(ctx, f.turn(ctx)) {
	}
}

func newFollower(p *Poller) *follower {
	f := &follower{
		Poller:          p,
		attempts:        newAttempts(p.Log),
		retry:           backoff.New(retryFirst, retryLimit),
		denied:          backoff.New(retryFirst, retryLimit),
		renewal:         backoff.New(retryFirst, retryLimit),
		waits:           newWaits(),
		lastFetchFailed: true,
	}
	if f.identity().AgentToken == "" {
		f.needs = shared
	}
	return f
}

// rest waits for the next turn, and reports whether ctx goes on.
func (f *follower) rest(ctx context.Context, r rest) bool {
	due := time.Now().Add(r.wait)
	for {
		if r.onHint {
			due = f.dueBy(due)
		}
		wait := time.Until(due)
		if wait <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.early:
			due = time.Now()
		case <-f.pollSooner:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return false
		}
	}
}

// dueBy is when the next turn is, if push has nothing to say before due.
func (f *follower) dueBy(due time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at := f.push.due; !at.IsZero() && at.Before(due) {
		return at
	}
	return due
}

// turn registers if it must, fetches, and says how long to rest before the next.
func (f *follower) turn(ctx context.Context) rest {
	var refused error
	if f.needs != none {
		switch err := f.register(ctx); {
		case err == nil:
			f.needs = none // whatever becomes of the poll
		case errors.Is(err, models.ErrUnauthorized) && f.identity().AgentToken != "":
			refused = err // the token may be accepted again, say because the controller's database was restored
		default:
			return f.outage(ctx, err)
		}
	}
	hint, began := f.takeHint(), time.Now()
	id, query := f.query()
	f.persist(ctx)
	answer, interrupted, err := f.fetch(ctx, id, query)
	if err == nil {
		err = f.older(query, answer)
	}
	f.Metrics.fetched(query, answer, err, time.Since(began))
	f.applyIntervals(query, answer, err)
	switch {
	case err == nil:
		drain(f.verdictReceived)
		f.offer(answer.Release, answer.Spread)
	case errors.Is(err, models.ErrNotModified):
		f.confirm()
	case errors.Is(err, models.ErrNothingPublished):
		f.log.Debug("Nothing published yet")
	case errors.Is(err, models.ErrInvalidConfig), errors.Is(err, models.ErrOlder):
		// The controller is there and says something wrong: asking more often
		// than usual would not make it right. It has accepted the token.
		f.needs = none
		f.pollAnswered()
		f.setControllerErr(err, "Configuration not usable")
		f.retry.Reset()
		return rest{wait: jittered(f.pollInterval())}
	case interrupted && errors.Is(err, context.Canceled):
		return rest{} // there is something to tell
	case errors.Is(err, models.ErrUnauthorized):
		return rest{wait: f.tokenRefused(err, refused)}
	case query.Wait > 0 && (models.Floor(err) == 0 || errors.Is(err, models.ErrProxy) && time.Since(began) >= immediately):
		return f.cut(ctx, err, time.Since(began))
	default:
		return f.outage(ctx, err)
	}
	took := time.Since(began)
	f.lastFetchFailed, f.waitsBeforeCut, f.needs = false, nil, none
	f.pollAnswered()
	f.setControllerErr(refused, "Registration refused")
	f.noteHintResult(hint, err == nil && !unchanged(query, answer))
	f.renew(ctx)
	if query.MayWait {
		return f.afterWait(query, answer, err, took)
	}
	f.retry.Reset()
	return rest{wait: f.untilNext(), onHint: true}
}

// fetch asks the controller, and reports whether the wait was interrupted because
// there is something to tell it.
func (f *follower) fetch(ctx context.Context, id models.Identity, q models.Query) (
	answer models.Answer, interrupted bool, err error,
) {
	if q.Wait == 0 {
		answer, err = f.Source.Fetch(f.begin(ctx), id, q)
		return answer, false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.onInterrupt(q, func() { interrupted = true; cancel() })
	answer, err = f.Source.Fetch(f.begin(ctx), id, q)
	f.onInterrupt(q, nil)
	return answer, interrupted, err
}

// onInterrupt sets what ends the wait of q, and calls it if it should have been
// called since q was made.
func (f *follower) onInterrupt(q models.Query, interrupt func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health.interrupt = interrupt
	if interrupt != nil && (q.WorkerError == "") != (f.health.degraded == "") {
		interrupt()
	}
}

// query is who asks, and for what: If-None-Match carries what the worker accepted
// last, not what was fetched last, or a push that failed would be answered 304
// for ever.
func (f *follower) query() (id models.Identity, q models.Query) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q.Transport = wire.Polling
	if f.push.healthy || f.push.subscribed {
		q.Transport = f.Transport
	} else if f.Transport != wire.Polling {
		q.PushError = f.push.err
	}
	if f.Transport == wire.LongPoll {
		q.MayWait = true
		if !f.lastFetchFailed {
			q.Wait = f.waits.wait()
		}
	}
	q.WorkerError = f.health.degraded
	if f.state.LastGood != nil {
		q.ETag = f.state.LastGood.ETag
		if !f.state.LastGood.Same(f.refusedLastGood) {
			q.Applied = &f.state.LastGood.Config
		}
	}
	return f.state.Identity, q
}

// older is the error of an answer that would take the worker back, for no reason that
// the controller gives.
func (f *follower) older(q models.Query, answer models.Answer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	offered, good := answer.Release.Config.Version, f.state.LastGood
	if q.Applied == nil || good == nil || offered >= good.Config.Version || answer.OlderBecause != "" {
		return nil
	}
	return fmt.Errorf("%w: version %d, where the worker runs %d; if the controller's database was replaced, publish, "+
		"or POST /api/v1/agents/resume", models.ErrOlder, offered, good.Config.Version)
}

// unchanged reports whether a release is what the worker ran when it was asked for: a
// gateway may have dropped the If-None-Match, and then there is no 304.
func unchanged(q models.Query, answer models.Answer) bool {
	return q.Applied != nil && answer.Release != nil && answer.Release.Config == *q.Applied
}

// untilNext is the time until the next poll: a sweep while a broker is heard.
func (f *follower) untilNext() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.push.healthy && f.resync > f.interval {
		return f.resync + jitter(f.resync*resyncJitter/100)
	}
	return jittered(f.interval)
}

// errUnannounced is why a broker that is heard is of no use.
var errUnannounced = errors.New("the controller does not announce over this broker; is its PUSH another?")

// errOtherFleet is why hints for FLEET_ID do not come.
var errOtherFleet = errors.New(
	"the controller announces for another fleet than FLEET_ID; is its FLEET_ID another, or is it older than this agent?")

// Why long-poll is no more than polling.
var (
	errNotHeld   = errors.New("the controller holds no answers; is its PUSH none, or is it older than this agent?")
	errNeverHeld = errors.New("polls are answered immediately although the controller says that it holds them: " +
		"something in between drops ETags, or the controller is older than this agent")
	errWaitsCut = errors.New("something between here and the controller cuts whatever is held for a few seconds")
)

// afterWait says how long to rest after an answer that may have been held. None
// at all if it was, for all of its wait; nothing else may make the agent ask
// again at once, whatever the controller says.
func (f *follower) afterWait(q models.Query, answer models.Answer, err error, took time.Duration) rest {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !answer.Holds:
		f.setPushHealth(f.log, errNotHeld)
	case err == nil && !unchanged(q, answer):
		f.setPushHealth(f.log, f.neverHeldErr())
		return f.untilSettled(q, answer.Release, took)
	case q.Wait == 0 && f.waits.wait() > 0: // all is well again: from now on, wait
		f.setPushHealth(f.log, f.neverHeldErr())
		f.retry.Reset()
		return rest{}
	case q.Wait == 0:
		f.setPushHealth(f.log, errWaitsCut)
	case answer.Held < minWait:
		f.setPushHealth(f.log, errNotHeld)
	case took < answer.Held: // let go early: it stops, say
		f.earlyAnswers++
		if err := f.neverHeldErr(); err != nil {
			f.setPushHealth(f.log, err)
			break
		}
		f.setPushHealth(f.log, nil)
		return rest{wait: f.backOff(f.interval)}
	default:
		f.earlyAnswers = 0
		f.setPushHealth(f.log, nil)
		f.waits.through(q.Wait)
		f.retry.Reset()
		f.immediateReleases = 0
		return rest{}
	}
	f.retry.Reset()
	return rest{wait: jittered(f.interval)}
}

// neverHeldErr is errNeverHeld once several waits in a row were answered before their time;
// nil before.
func (f *follower) neverHeldErr() error {
	if f.earlyAnswers > maxImmediate {
		return errNeverHeld
	}
	return nil
}

// untilSettled says how long to rest after a release was fetched: until the worker
// has judged it and the controller was told, for before that the answer would be
// the same again. What was refused and comes again rests for the whole interval,
// and so do too many that come at once: there may be no end to it. The caller
// holds mu.
func (f *follower) untilSettled(q models.Query, release *models.Release, took time.Duration) rest {
	refusedAgain := release.Same(f.lastFetched) && f.refusal.version == release.Config.Version
	f.lastFetched = release
	if f.immediateReleases++; took >= immediately {
		f.immediateReleases = 0
		f.retry.Reset()
	}
	switch {
	case refusedAgain:
		return rest{wait: jittered(f.interval)}
	case f.immediateReleases > maxImmediate:
		return rest{wait: f.backOff(f.interval)} // two controllers that do not agree, say
	case f.next == nil && differs(f.state.LastGood, q):
		return rest{} // it has judged already
	}
	return rest{wait: jittered(f.interval), early: f.verdictReceived}
}

// differs reports whether the worker runs something else than when q was asked.
func differs(good *models.Release, q models.Query) bool {
	return good != nil && (good.ETag != q.ETag || q.Applied != nil && good.Config != *q.Applied)
}

// cut says how long to rest after a wait that ended before its time. A proxy that
// limits how long a request takes is asked for less next time, and that is all. A
// connection that broke, or an error of a proxy, may have met the whole fleet,
// which comes back little by little. If the poll that follows is an outage too, no
// proxy has cut anything: see outage.
func (f *follower) cut(ctx context.Context, err error, after time.Duration) rest {
	if ctx.Err() != nil {
		return rest{}
	}
	f.waitsBeforeCut = new(f.waits)
	f.waits.cut(after, errors.Is(err, models.ErrCut))
	f.log.WithFields(logrus.Fields{"after": after.Round(time.Second).String(), "wait": f.waits.next.String(), "error": err.Error()}).Debug("Wait cut")
	f.lastFetchFailed = true
	wait := jitter(min(f.pollInterval(), rejoinSpread))
	switch {
	case errors.Is(err, models.ErrProxy):
		drain(f.reportTaken)
		return rest{wait: models.Floor(err) + wait, early: early(f.reportTaken, err)}
	case errors.Is(err, models.ErrCut):
		return rest{wait: f.backOff(f.pollInterval())}
	}
	f.setControllerErr(err, "Controller lost")
	f.setLongPollErr(err)
	drain(f.reportTaken)
	return rest{wait: wait, early: f.reportTaken}
}

// setLongPollErr notes that nothing is heard between two polls.
func (f *follower) setLongPollErr(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Transport == wire.LongPoll {
		f.setPushHealth(f.log, err)
	}
}

// outage says how long to rest after one.
func (f *follower) outage(ctx context.Context, err error) rest {
	if ctx.Err() != nil {
		return rest{} // the agent stops: that is nobody's fault
	}
	f.lastFetchFailed = true
	if f.waitsBeforeCut != nil {
		f.waits, f.waitsBeforeCut = *f.waitsBeforeCut, nil // it was away, and nothing has cut
	}
	f.setControllerErr(err, "Controller lost")
	f.setLongPollErr(err)
	drain(f.reportTaken) // from before
	if floor := models.Floor(err); floor > 0 || errors.Is(err, models.ErrUnauthorized) {
		return rest{wait: f.retry.Next(floor), early: early(f.reportTaken, err)} // who is not wanted takes its time
	}
	return rest{wait: f.backOff(f.pollInterval()), early: f.reportTaken}
}

// backOff is the time until the next attempt. It grows up to two intervals, on
// average one: more seldom than it polls an agent need not ask.
func (f *follower) backOff(interval time.Duration) time.Duration {
	wait, most := f.retry.Next(0), 2*interval
	if wait > most {
		return jitter(most)
	}
	return wait
}

// setControllerErr notes what is wrong with the controller; nil: nothing is.
func (f *follower) setControllerErr(err error, lost string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.controllerErr.note(f.log, err, lost, "Controller back")
}

func (f *follower) identity() models.Identity {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.Identity
}

// applyIntervals takes over the intervals that an answer named. A controller that announces
// over the broker that is heard names a sweep.
func (f *follower) applyIntervals(q models.Query, answer models.Answer, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	said := err == nil || errors.Is(err, models.ErrNotModified) || errors.Is(err, models.ErrNothingPublished)
	if said && f.push.subscribed && q.Transport == f.Transport {
		switch f.resync = answer.ResyncInterval; {
		case f.resync == 0:
			f.setPushHealth(f.log, errUnannounced)
		case f.Fleet != "" && f.Fleet != answer.Fleet:
			f.setPushHealth(f.log, errOtherFleet)
		default:
			f.setPushHealth(f.log, nil)
		}
	}
	if said && answer.Fleet != f.state.Fleet {
		f.state.Fleet = answer.Fleet
		f.save()
		if f.Fleet == "" {
			wake(f.fleetChanged)
		}
	}
	if named := answer.PollInterval; named > 0 && named != f.interval {
		f.log.WithField("interval", named.String()).Info("Poll interval changed")
		f.interval = named
	}
}

func (f *follower) pollInterval() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.interval
}

// pollAnswered notes that the controller answered a poll, and so would a report.
func (f *follower) pollAnswered() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.registered = true
	f.lastFetch = time.Now().UTC()
	f.log.Debug("Polled")
	wake(f.reportPending)
}

// offer takes what the controller wants this agent to run. It may be older than
// what runs, if the controller said why. For the time of spread others want it too.
func (f *follower) offer(release *models.Release, spread time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reportAt = time.Now().Add(spread)
	f.fetched = release.Config.Version
	f.refusedLastGood = nil
	for _, known := range []*models.Release{f.state.LastGood, f.state.Candidate} {
		if known != nil && release.ETag == "" && release.Config == known.Config {
			release = known // a gateway has dropped the ETag
		}
	}
	switch {
	case release.Same(f.state.LastGood):
		f.withdraw()
		f.refusal = refusal{}
	case release.Same(f.state.Candidate):
	default:
		// Not the URL: its query may be somebody's key.
		log := f.log.WithField("version", release.Config.Version)
		log.Info("Configuration fetched")
		if release.ETag == "" {
			log.Warn("Configuration came without a usable ETag")
		}
		f.state.Candidate = release
		f.save()
		f.due = true
		if f.acked.Status == wire.Failed {
			f.acked = wire.Report{} // asked to try again, the agent tells the outcome again
		}
		wake(f.offered)
	}
}

// confirm takes the controller's word that what the query named is what should run,
// and no candidate that was offered before.
func (f *follower) confirm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusedLastGood = nil
	f.withdraw()
}

// withdraw drops a candidate that the controller wants no longer. The caller
// holds mu.
func (f *follower) withdraw() {
	if f.state.Candidate == nil {
		return
	}
	f.log.WithField("version", f.state.Candidate.Config.Version).Info("Configuration withdrawn")
	f.state.Candidate = nil
	f.save()
}
