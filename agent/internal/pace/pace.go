// Package pace decides when an agent asks the controller next. It keeps the poll
// interval, the wait of long polls, the hints of a broker and the back-off after
// failures, and promises that no answer, hint or failure makes an agent poll much more
// often than its interval, and that a fleet that fails at one moment returns spread
// over time.
//
// It is pure but for randomness: it has no clock, no goroutine, no lock and no I/O, and
// each call gets the time that it happens at.
package pace

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// The first and the longest back-off of requests to the controller.
const (
	RetryFirst = time.Second
	RetryLimit = 5 * time.Minute
)

const (
	firstInterval = 30 * time.Second // between polls, until the controller names another
	firstResync   = 5 * time.Minute  // between resyncs, until the controller names another
	pollJitter    = 10               // percent of the interval, either way
	resyncJitter  = 50               // percent of the resync interval, which only grows by it

	deniedWindow = 10 * time.Minute // a token refused again within it backs off
	rejoinSpread = time.Minute      // over it, or over an interval, a fleet returns after an outage
	prompt       = time.Second      // an answer that arrives sooner did not have to be waited for
	maxPrompt    = 4                // of them in a row before the agent backs off
)

// Why push is not healthy, so that the agent polls.
var (
	errNotAnnounced = errors.New("the controller does not announce over this broker; is its PUSH another?")
	errOtherFleet   = errors.New("the controller announces for another fleet than FLEET_ID; " +
		"is its FLEET_ID another, or is it older than this agent?")
	errNotHeld = errors.New("the controller does not support long polls; " +
		"is its PUSH none, or is it older than this agent?")
	errNeverHeld = errors.New("long polls are answered immediately although the controller supports them: " +
		"something in between drops ETags, or the controller is older than this agent")
	errWaitsCut = errors.New("something between here and the controller " +
		"cuts connections that are idle for a few seconds")
)

// Push is how the agent learns of newer versions between two polls.
type Push struct {
	Healthy bool
	Err     string // why it is not healthy; "" before the first attempt
}

// Rest is the time until the next poll, and what ends it sooner.
type Rest struct {
	Until     time.Time // zero: poll immediately
	OnHint    bool      // a hint, or a change of push
	OnVerdict bool      // the worker's verdict on the release that was fetched
	OnReport  bool      // a report that the controller took, which shows that it is back
}

// Pace is the timing of one agent.
type Pace struct {
	transport  wire.Transport
	interval   time.Duration // between polls
	resync     time.Duration // between polls while a broker is received
	push       Push
	subscribed bool // to a broker
	hints      hints

	waits          waits
	beforeCut      *waits // until it is known whether the last cut was an outage
	failed         bool   // the last fetch: the next one asks for no wait
	promptReleases int    // in a row
	earlyAnswers   int    // long polls in a row that ended early with nothing new
	retry          *backoff.Backoff
	denied         *backoff.Backoff // after a refused token, unless it is the first
	deniedAt       time.Time        // of the last refused token
}

// New returns the pace of an agent that has not polled yet.
func New(transport wire.Transport) Pace {
	return Pace{
		transport: transport, interval: firstInterval, resync: firstResync,
		hints: newHints(), waits: newWaits(), failed: true,
		retry: backoff.New(RetryFirst, RetryLimit), denied: backoff.New(RetryFirst, RetryLimit),
	}
}

// Interval returns the time between two polls.
func (p *Pace) Interval() time.Duration { return p.interval }

// SetInterval sets the time between two polls, unless it is 0, and reports whether
// that is a change.
func (p *Pace) SetInterval(interval time.Duration) bool {
	if interval <= 0 || interval == p.interval {
		return false
	}
	p.interval = interval
	return true
}

// Push returns how the agent learns of newer versions now.
func (p *Pace) Push() Push { return p.push }

// setPush records err, nil for healthy, and reports whether push was lost by it.
func (p *Pace) setPush(err error) (lost bool) {
	was := p.push
	p.push = Push{Healthy: err == nil}
	if err != nil {
		p.push.Err = err.Error()
	}
	return err != nil && (was.Healthy || was.Err == "")
}

// Transport returns what polls name: how the agent learns of newer versions, and, if
// it polls although another way is configured, why.
func (p *Pace) Transport() (transport wire.Transport, pushErr string) {
	switch {
	case p.push.Healthy || p.subscribed:
		return p.transport, ""
	case p.transport != wire.Polling:
		return wire.Polling, p.push.Err
	}
	return wire.Polling, ""
}

// Wait returns how long the next poll may be delayed by the controller. A poll after a
// failure waits for nothing, to learn soon whether the controller is back.
func (p *Pace) Wait(now time.Time) time.Duration {
	if p.transport != wire.LongPoll || p.failed {
		return 0
	}
	return p.waits.wait(now)
}

// NextWait returns the wait that the last cut has left; 0 for none.
func (p *Pace) NextWait() time.Duration { return p.waits.next }

// RestUntil returns when a rest ends, if nothing but a hint ends it.
func (p *Pace) RestUntil(r Rest) time.Time {
	if due := p.hints.due; r.OnHint && !due.IsZero() && due.Before(r.Until) {
		return due
	}
	return r.Until
}

// Soon brings the next poll forward to a random time within half an interval, in which a
// whole fleet may have something to say. For long polls it returns that time instead:
// the one under way is to be interrupted then.
func (p *Pace) Soon(now time.Time) (interrupt time.Time) {
	at := now.Add(jitter(min(p.interval, rejoinSpread) / 2))
	if p.transport == wire.LongPoll {
		return at
	}
	p.hints.fetchBy(at)
	return time.Time{}
}

// Subscribed records that hints are received from now on. The agent fetches what it
// missed, at a random time, because a broker that restarts is subscribed to by the whole
// fleet.
func (p *Pace) Subscribed(now time.Time) {
	p.subscribed = true
	p.setPush(nil)
	p.hints.fetchBy(now.Add(jitter(min(p.interval, rejoinSpread))))
}

// Unsubscribed records that no hints are received. The first poll is at a random time
// within the interval, because the whole fleet may have lost the broker.
func (p *Pace) Unsubscribed(now time.Time, err error) {
	p.subscribed = false
	if p.setPush(err) {
		p.hints.fetchBy(now.Add(jitter(p.interval)))
	}
}

// Announced records what an answer says of hints: the interval between resyncs, 0 if
// the controller announces nothing over this broker, and whether it announces for the
// fleet that the agent listens to. polledAs is the transport that the poll named: a
// poll that was sent before the agent subscribed says nothing.
func (p *Pace) Announced(polledAs wire.Transport, resync time.Duration, ownFleet bool) {
	if !p.subscribed || polledAs != p.transport {
		return
	}
	switch p.resync = resync; {
	case resync == 0:
		p.setPush(errNotAnnounced)
	case !ownFleet:
		p.setPush(errOtherFleet)
	default:
		p.setPush(nil)
	}
}

// Answer is what matters of the answer to a poll.
type Answer struct {
	Took         time.Duration
	Wait         time.Duration // that the poll asked for
	CanWait      bool          // the controller supports long polls
	Waited       time.Duration // how long it says that it delayed this answer at most
	New          bool          // a release that the worker does not run
	RefusedAgain bool          // a release that the worker has refused already
	Decided      bool          // the worker has decided on the release already
}

// Answered returns the rest after an answer to a poll. A long poll that lasted for its
// whole wait is followed by the next one immediately. Nothing else is, whatever the
// controller says.
func (p *Pace) Answered(now time.Time, a Answer) Rest {
	p.failed, p.beforeCut = false, nil
	if p.transport != wire.LongPoll {
		p.retry.Reset()
		return Rest{Until: now.Add(p.untilNext()), OnHint: true}
	}
	switch wait := p.waits.wait(now); {
	case !a.CanWait:
		p.setPush(errNotHeld)
	case a.New:
		p.setPush(p.neverHeld())
		return p.untilVerdict(now, a)
	case a.Wait == 0 && wait > 0: // the first answer after a failure
		p.setPush(p.neverHeld())
		p.retry.Reset()
		return Rest{}
	case a.Wait == 0:
		p.setPush(errWaitsCut)
	case a.Waited < minWait:
		p.setPush(errNotHeld)
	case a.Took < a.Waited: // released early, say because the controller stops
		p.earlyAnswers++
		err := p.neverHeld()
		p.setPush(err)
		if err == nil {
			return Rest{Until: now.Add(p.backOff())}
		}
	default:
		p.earlyAnswers, p.promptReleases = 0, 0
		p.setPush(nil)
		p.waits.complete(now, a.Wait)
		p.retry.Reset()
		return Rest{}
	}
	return p.AfterInterval(now)
}

// neverHeld returns errNeverHeld once several long polls in a row ended early.
func (p *Pace) neverHeld() error {
	if p.earlyAnswers > maxPrompt {
		return errNeverHeld
	}
	return nil
}

// untilVerdict returns the rest after a release: until the worker has decided on it and
// the controller knows, because until then the answer would be the same. A refused
// release that is offered again, and too many releases that arrive immediately, wait
// for an interval, because that may go on forever.
func (p *Pace) untilVerdict(now time.Time, a Answer) Rest {
	if p.promptReleases++; a.Took >= prompt {
		p.promptReleases = 0
		p.retry.Reset()
	}
	interval := now.Add(jittered(p.interval))
	switch {
	case a.RefusedAgain:
		return Rest{Until: interval}
	case p.promptReleases > maxPrompt: // say two controllers that disagree
		return Rest{Until: now.Add(p.backOff())}
	case a.Decided:
		return Rest{}
	}
	return Rest{Until: interval, OnVerdict: true}
}

// AfterInterval returns the rest of an agent that polls, such as after an answer that it
// cannot use.
func (p *Pace) AfterInterval(now time.Time) Rest {
	p.retry.Reset()
	return Rest{Until: now.Add(jittered(p.interval))}
}

// IsCut reports whether a poll that failed with err was a long poll that was cut. A poll
// that is rejected immediately was not.
func IsCut(wait time.Duration, err error, took time.Duration) bool {
	return wait > 0 && (protocol.Floor(err) == 0 || errors.Is(err, protocol.ErrProxy) && took >= prompt)
}

// Cut returns the rest after a long poll that ended before its time. A proxy that limits
// the time of a request is asked for less next time, and that is all. A connection that
// broke, or an error of a proxy, may have met the whole fleet, which returns at random
// times. If the next poll fails too, no proxy has cut anything: see Failed.
func (p *Pace) Cut(now time.Time, err error, after time.Duration) Rest {
	floor, certain := protocol.Floor(err), errors.Is(err, protocol.ErrCut)
	p.beforeCut = new(p.waits)
	p.waits.cut(now, after, certain)
	p.failed = true
	wait := jitter(min(p.interval, rejoinSpread))
	switch {
	case errors.Is(err, protocol.ErrProxy):
		return Rest{Until: now.Add(floor + wait), OnReport: floor == 0}
	case certain:
		return Rest{Until: now.Add(p.backOff())}
	}
	p.longPollLost(err)
	return Rest{Until: now.Add(wait), OnReport: true}
}

// Failed returns the rest after a request without an answer, or whose credentials were
// refused.
func (p *Pace) Failed(now time.Time, err error) Rest {
	p.failed = true
	if p.beforeCut != nil {
		p.waits, p.beforeCut = *p.beforeCut, nil
	}
	p.longPollLost(err)
	if floor := protocol.Floor(err); floor > 0 || errors.Is(err, protocol.ErrUnauthorized) {
		return Rest{Until: now.Add(p.retry.Next(floor)), OnReport: floor == 0}
	}
	return Rest{Until: now.Add(p.backOff()), OnReport: true}
}

// Denied returns the rest before the agent registers again, after a token was refused:
// none, unless one was refused a short time ago, as when two agents share one id and
// each registration ends the other's token.
func (p *Pace) Denied(now time.Time, err error) Rest {
	again := !p.deniedAt.IsZero() && now.Sub(p.deniedAt) < deniedWindow
	p.deniedAt = now
	if again {
		return Rest{Until: now.Add(p.denied.Next(protocol.Floor(err)))}
	}
	p.denied.Reset()
	return Rest{}
}

func (p *Pace) longPollLost(err error) {
	if p.transport == wire.LongPoll {
		p.setPush(err)
	}
}

// untilNext returns the time until the next poll: a resync while hints are received.
func (p *Pace) untilNext() time.Duration {
	if p.push.Healthy && p.resync > p.interval {
		return p.resync + jitter(p.resync*resyncJitter/100)
	}
	return jittered(p.interval)
}

// backOff returns the time until the next attempt. It grows up to two intervals, so that
// an agent tries about as often as it polls.
func (p *Pace) backOff() time.Duration {
	wait, most := p.retry.Next(0), 2*p.interval
	if wait > most {
		return jitter(most)
	}
	return wait
}

// jitter returns a uniform random duration from 0 to most.
func jitter(most time.Duration) time.Duration { return rand.N(most + 1) }

// jittered returns a random wait around interval, so that agents that started together
// do not poll together.
func jittered(interval time.Duration) time.Duration {
	most := interval * pollJitter / 100
	return interval - most + jitter(2*most)
}
