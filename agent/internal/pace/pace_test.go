package pace

import (
	"errors"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

var (
	errOutage = errors.New("connection refused")
	start     = time.Unix(1_700_000_000, 0)
)

// Each tenth of the time over which a fleet spreads gets about a tenth of it: a
// constant has the same mean and bounds.
func TestJitter_EachWait_IsUniform(t *testing.T) {
	const interval, rounds = 30 * time.Second, 4000
	cut := func(err error) func(*Pace) time.Duration {
		return func(p *Pace) time.Duration { return p.Cut(start, err, time.Minute).Until.Sub(start) }
	}
	for name, row := range map[string]struct {
		wait     func(p *Pace) time.Duration
		from, to time.Duration
	}{
		"jitter":   {func(*Pace) time.Duration { return jitter(interval) }, 0, interval},
		"jittered": {func(*Pace) time.Duration { return jittered(interval) }, 27 * time.Second, 33 * time.Second},
		"the poll that reports a worker": {func(p *Pace) time.Duration {
			p.hints.due = time.Time{}
			p.Soon(start)
			return p.hints.due.Sub(start)
		}, 0, interval / 2},
		"the poll after a broker is lost": {func(p *Pace) time.Duration {
			p.push.Healthy, p.hints.due = true, time.Time{}
			p.Unsubscribed(start, errOutage)
			return p.hints.due.Sub(start)
		}, 0, interval},
		"the poll after a broker is back": {func(p *Pace) time.Duration {
			p.hints.due = time.Time{}
			p.Subscribed(start)
			return p.hints.due.Sub(start)
		}, 0, interval},
		"the resync while a broker is received": {func(p *Pace) time.Duration {
			p.push.Healthy = true
			return p.Answered(start, Answer{}).Until.Sub(start)
		}, firstResync, firstResync * 3 / 2},
		"a broken connection": {cut(errOutage), 0, interval},
		"the Retry-After of a proxy": {
			cut(&protocol.RetryLater{After: interval, Err: protocol.ErrProxy}), interval, 2 * interval,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(wire.NATS)
			var tenths [10]int
			for range rounds {
				wait := row.wait(&p)
				if wait < row.from || wait > row.to {
					t.Fatalf("got %s, want %s to %s", wait, row.from, row.to)
				}
				tenths[min(int(10*(wait-row.from)/(row.to-row.from)), 9)]++
			}
			for i, n := range tenths {
				if n < 280 || n > 520 { // 400 each, with a standard deviation of 19
					t.Errorf("%d of %d waits are in tenth %d, want about %d: %v", n, rounds, i, rounds/10, tenths)
				}
			}
		})
	}
}

// A report that is taken shows that the controller is back, minutes before the back-off
// would. After a Retry-After it changes nothing.
func TestRest_Failure_EndsWithTheNextReport(t *testing.T) {
	later := func(err error) error { return &protocol.RetryLater{After: time.Second, Err: err} }
	for _, row := range []struct {
		err         error
		cut, failed bool
	}{
		{errOutage, true, true},
		{protocol.ErrProxy, true, true},
		{protocol.ErrCut, false, true},
		{later(protocol.ErrProxy), false, false},
		{later(errOutage), true, false},
		{protocol.ErrUnauthorized, true, true},
	} {
		p := New(wire.LongPoll)
		if got := p.Cut(start, row.err, time.Minute).OnReport; got != row.cut {
			t.Errorf("%v cuts a long poll: got %v, want %v", row.err, got, row.cut)
		}
		if got := p.Failed(start, row.err).OnReport; got != row.failed {
			t.Errorf("%v: got %v, want %v", row.err, got, row.failed)
		}
	}
}

// A poll that is rejected immediately was not cut.
func TestIsCut_RejectedImmediately_IsNotCut(t *testing.T) {
	later := func(err error) error { return &protocol.RetryLater{After: time.Minute, Err: err} }
	for _, row := range []struct {
		wait time.Duration
		err  error
		took time.Duration
		want bool
	}{
		{time.Minute, errOutage, 0, true},
		{time.Minute, protocol.ErrCut, time.Second, true},
		{time.Minute, later(errOutage), time.Minute, false},
		{time.Minute, later(protocol.ErrProxy), 0, false},
		{time.Minute, later(protocol.ErrProxy), prompt, true},
		{0, errOutage, time.Minute, false},
	} {
		if got := IsCut(row.wait, row.err, row.took); got != row.want {
			t.Errorf("a wait of %s ended by %v after %s: got %v, want %v", row.wait, row.err, row.took, got, row.want)
		}
	}
}

// The answer to a long poll decides when the next one is sent.
func TestAnswered_LongPoll_Rests(t *testing.T) {
	full := Answer{Wait: firstWait, Waited: firstWait, Took: firstWait, CanWait: true}
	for name, row := range map[string]struct {
		answer  Answer
		healthy bool
		want    Rest // Until is only compared to zero
	}{
		"the whole wait":            {full, true, Rest{}},
		"no support":                {Answer{}, false, Rest{Until: start}},
		"a release":                 {Answer{CanWait: true, New: true}, true, Rest{Until: start, OnVerdict: true}},
		"a release that is judged":  {Answer{CanWait: true, New: true, Decided: true}, true, Rest{}},
		"a refused release again":   {Answer{CanWait: true, New: true, RefusedAgain: true}, true, Rest{Until: start}},
		"the first after a failure": {Answer{CanWait: true}, true, Rest{}},
		"held for less than a moment": {
			Answer{Wait: firstWait, CanWait: true, Waited: time.Second}, false, Rest{Until: start},
		},
	} {
		p := New(wire.LongPoll)
		got := p.Answered(start, row.answer)
		if got.Until.IsZero() != row.want.Until.IsZero() || got.OnVerdict != row.want.OnVerdict || got.OnHint ||
			got.OnReport {
			t.Errorf("%s: got %+v, want %+v", name, got, row.want)
		}
		if p.Push().Healthy != row.healthy {
			t.Errorf("%s: got %+v, want healthy %v", name, p.Push(), row.healthy)
		}
	}
}

// What an answer says of hints decides whether a broker counts as push, and how often the
// agent resyncs.
func TestAnnounced_Subscribed_DecidesPush(t *testing.T) {
	for name, row := range map[string]struct {
		subscribed bool
		polledAs   wire.Transport
		resync     time.Duration
		ownFleet   bool
		want       Push
		rest       time.Duration // at least
	}{
		"announced":     {true, wire.NATS, time.Hour, true, Push{Healthy: true}, time.Hour},
		"not announced": {true, wire.NATS, 0, true, Push{Err: errNotAnnounced.Error()}, 27 * time.Second},
		"for another fleet": {
			true, wire.NATS, time.Hour, false, Push{Err: errOtherFleet.Error()}, 27 * time.Second,
		},
		"polled before subscribed": {true, wire.Polling, 0, false, Push{Healthy: true}, firstResync},
		"not subscribed":           {false, wire.NATS, time.Hour, true, Push{}, 27 * time.Second},
	} {
		p := New(wire.NATS)
		if row.subscribed {
			p.Subscribed(start)
		}
		p.Announced(row.polledAs, row.resync, row.ownFleet)
		if got := p.Push(); got != row.want {
			t.Errorf("%s: got %+v, want %+v", name, got, row.want)
		}
		rest := p.Answered(start, Answer{})
		if got := rest.Until.Sub(start); got < row.rest || got > max(33*time.Second, row.rest*3/2) || !rest.OnHint {
			t.Errorf("%s: got a rest of %s, on hints %v, want about %s, on hints", name, got, rest.OnHint, row.rest)
		}
	}
}

// Polls name the transport that works, and why another does not.
func TestTransport_Failures_PollsWithReason(t *testing.T) {
	p := New(wire.Redis)
	check := func(when string, transport wire.Transport, pushErr string) {
		t.Helper()
		if got, err := p.Transport(); got != transport || err != pushErr {
			t.Errorf("%s: got %s %q, want %s %q", when, got, err, transport, pushErr)
		}
	}
	check("at the start", wire.Polling, "")
	p.Unsubscribed(start, errOutage)
	check("without a broker", wire.Polling, errOutage.Error())
	p.Subscribed(start)
	check("with a broker", wire.Redis, "")
	p.Announced(wire.Redis, 0, true)
	check("without announcements", wire.Redis, "") // so that the controller may announce
	p = New(wire.Polling)
	p.Failed(start, errOutage)
	check("with PUSH=none", wire.Polling, "")
}

func TestSetInterval_Changes_Reported(t *testing.T) {
	p := New(wire.Polling)
	for _, row := range []struct {
		interval time.Duration
		changed  bool
		want     time.Duration
	}{
		{0, false, firstInterval}, {firstInterval, false, firstInterval}, {time.Minute, true, time.Minute},
	} {
		if got := p.SetInterval(row.interval); got != row.changed || p.Interval() != row.want {
			t.Errorf(
				"%s: got changed %v and %s, want %v and %s", row.interval, got, p.Interval(), row.changed, row.want,
			)
		}
	}
}

// Long polls that end early back off, and do not count as push after several in a row. A
// complete one ends that.
func TestAnswered_EarlyAnswers_Poll(t *testing.T) {
	p := New(wire.LongPoll)
	p.Answered(start, Answer{CanWait: true})
	early := Answer{Wait: firstWait, Waited: firstWait, Took: time.Second, CanWait: true}
	for i := range maxPrompt {
		if rest := p.Answered(start, early); rest.Until.Before(start) || !p.Push().Healthy {
			t.Errorf("early answer %d: got a rest until %s, push %+v", i+1, rest.Until, p.Push())
		}
	}
	rest := p.Answered(start, early)
	if got := rest.Until.Sub(start); got < 27*time.Second || p.Push().Err != errNeverHeld.Error() {
		t.Errorf("one more: got a rest of %s, push %+v, want an interval and the reason", got, p.Push())
	}
	if p.Answered(start, Answer{CanWait: true, New: true}); p.Push().Healthy {
		t.Error("a release counts as push, although long polls end early")
	}
	early.Took = early.Waited
	if rest := p.Answered(start, early); !rest.Until.IsZero() || !p.Push().Healthy || p.NextWait() != 2*firstWait {
		t.Errorf("complete: got a rest until %s, push %+v, a wait of %s", rest.Until, p.Push(), p.NextWait())
	}
}

// Releases that arrive immediately, one after the other, back off. One that was waited for
// ends that.
func TestAnswered_PromptReleases_BackOff(t *testing.T) {
	p := New(wire.LongPoll)
	prompt := Answer{CanWait: true, New: true, Decided: true}
	for i := range maxPrompt {
		if rest := p.Answered(start, prompt); !rest.Until.IsZero() {
			t.Errorf("release %d: got a rest until %s, want none", i+1, rest.Until)
		}
	}
	if rest := p.Answered(start, prompt); rest.Until.IsZero() {
		t.Error("one more: got no rest")
	}
	prompt.Took = time.Second
	if rest := p.Answered(start, prompt); !rest.Until.IsZero() {
		t.Errorf("after a wait: got a rest until %s, want none", rest.Until)
	}
}

// The back-off grows to twice the interval, and no further.
func TestFailed_LongOutage_BacksOffToTwoIntervals(t *testing.T) {
	p := New(wire.Polling)
	for range 20 {
		p.Failed(start, errOutage)
	}
	var longest time.Duration
	for range 200 {
		longest = max(longest, p.Failed(start, errOutage).Until.Sub(start))
	}
	if longest < 50*time.Second || longest > time.Minute {
		t.Errorf("rests of up to %s, want up to a minute", longest)
	}
	p.AfterInterval(start)
	if wait := p.Failed(start, errOutage).Until.Sub(start); wait > RetryFirst {
		t.Errorf("after an answer: got a rest of %s, want %s at most", wait, RetryFirst)
	}
}

// A long poll that is under way is interrupted, other polls are brought forward.
func TestSoon_LongPoll_Interrupts(t *testing.T) {
	for _, transport := range []wire.Transport{wire.LongPoll, wire.Polling, wire.NATS} {
		p := New(transport)
		at := p.Soon(start)
		until := p.RestUntil(Rest{Until: start.Add(time.Hour), OnHint: true})
		if transport == wire.LongPoll {
			at, until = until.Add(-time.Hour), at
			if !at.Equal(start) {
				t.Errorf("%s: the next poll is brought forward", transport)
			}
		} else if !at.IsZero() {
			t.Errorf("%s: interrupts at %s", transport, at)
		}
		if wait := until.Sub(start); wait < 0 || wait > firstInterval/2 {
			t.Errorf("%s: after %s, want half an interval at most", transport, wait)
		}
	}
}

// A failure makes the next poll ask for no wait, and an outage right after a cut shows
// that nothing was cut.
func TestFailed_AfterCut_RestoresTheWait(t *testing.T) {
	p := New(wire.LongPoll)
	p.Answered(start, Answer{CanWait: true})
	if got := p.Wait(start); got != firstWait {
		t.Fatalf("after an answer: got a wait of %s, want %s", got, firstWait)
	}
	p.Cut(start, protocol.ErrCut, 40*time.Second)
	if got := p.Wait(start); got != 0 || p.NextWait() != 30*time.Second {
		t.Errorf("after a cut: got waits of %s and then %s, want none and then 30s", got, p.NextWait())
	}
	p.Failed(start, errOutage)
	if p.NextWait() != firstWait {
		t.Errorf("after an outage: got a wait of %s, want %s", p.NextWait(), firstWait)
	}
	p.Cut(start, protocol.ErrCut, 40*time.Second)
	p.Answered(start, Answer{CanWait: true})
	p.Failed(start, errOutage)
	if p.NextWait() != 30*time.Second {
		t.Errorf("after a cut, an answer and an outage: got a wait of %s, want 30s", p.NextWait())
	}
}

// A token that is refused again soon is backed off, one that is refused rarely is not.
func TestDenied_AgainSoon_BacksOff(t *testing.T) {
	p := New(wire.Polling)
	now, sum := start, time.Duration(0)
	for i := range 100 {
		rest := p.Denied(now, protocol.ErrUnauthorized)
		if i == 0 && !rest.Until.IsZero() {
			t.Errorf("the first: got a rest until %s, want none", rest.Until)
		}
		if i > 0 {
			sum += rest.Until.Sub(now)
		}
	}
	if mean := sum / 99; mean < time.Minute || mean > RetryLimit {
		t.Errorf("got %s on average, want about %s", mean, RetryLimit/2)
	}
	if rest := p.Denied(now.Add(deniedWindow), protocol.ErrUnauthorized); !rest.Until.IsZero() {
		t.Errorf("after %s: got a rest until %s, want none", deniedWindow, rest.Until)
	}
}
