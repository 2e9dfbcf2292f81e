package poller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

// The bounds of package pace.
const (
	minWait   = 5 * time.Second
	maxWait   = wire.MaxWait
	maxPrompt = 4
)

// fakeBroker behaves as its fields say at each time.
type fakeBroker struct {
	clock
	down []span
	says []message
}

// message is a message that a broker delivers at a time.
type message struct {
	at   time.Duration
	text string
}

// hint returns the announcement of a release.
func hint(at time.Duration, r protocol.Release, spread time.Duration) message {
	text, err := notify.Hint{Version: r.Config.Version, ETag: r.ETag, SpreadMS: spread.Milliseconds()}.Encode()
	if err != nil {
		panic(err)
	}
	return message{at, string(text)}
}

// Run implements Hints.
func (b *fakeBroker) Run(ctx context.Context, _ string, r notify.Receiver) error {
	if b.began.IsZero() {
		b.began = time.Now()
	}
	var group sync.WaitGroup
	defer group.Wait()
	var one sync.Mutex
	at := func(when time.Duration, do func()) {
		group.Go(func() {
			if sleep(ctx, when-b.now()) {
				one.Lock()
				defer one.Unlock()
				do()
			}
		})
	}
	if !within(b.down, 0) {
		r.Subscribed()
	}
	for _, s := range b.down {
		at(s.from, func() { r.Lost(errors.New("nothing listens there")) })
		at(s.to, r.Subscribed)
	}
	for _, m := range b.says {
		if !within(b.down, m.at) {
			at(m.at, func() { r.Received([]byte(m.text)) })
		}
	}
	<-ctx.Done()
	return nil
}

// fetches returns when the agent fetched, from a time on.
func (w *world) fetches(from time.Duration) (at []time.Duration) {
	for _, t := range w.controller.times("fetch") {
		if t >= from {
			at = append(at, t)
		}
	}
	return at
}

func TestRun_LongPoll_Publish_FollowedImmediately(t *testing.T) {
	play(t, scenario{transport: wire.LongPoll, controller: &fakeController{publications: []publication{
		published(0, 1), published(90*time.Second, 2), published(90*time.Second+1, 3), published(time.Hour, 4),
	}}}, func(t *testing.T, w *world) {
		pass(0)
		w.runs(t, 1)
		if got := w.Status(); got.Transport != wire.LongPoll || !got.Push.Healthy {
			t.Errorf("got the transport %s, healthy %v", got.Transport, got.Push.Healthy)
		}
		pass(90*time.Second + 1)
		w.runs(t, 3)
		pass(time.Hour - 90*time.Second - 1)
		w.runs(t, 4)
		if n := w.logged(logrus.InfoLevel, "Push healthy"); n != 1 ||
			w.logged(logrus.WarnLevel, "Push lost; polling") != 0 {
			t.Errorf("%d lines say that push is healthy, want 1, and none that it was lost", n)
		}
	})
}

// A report that is taken late, while the worker validates the next version, does not end the
// wait for a newer one.
func TestRun_LongPoll_LateReport_KeepsWaiting(t *testing.T) {
	at := func(t time.Duration, v int64) publication { return publication{t, release(v, 3600)} }
	for range 20 {
		play(t, scenario{transport: wire.LongPoll, worker: &fakeWorker{
			slow: 3 * time.Second,
		}, controller: &fakeController{
			publications: []publication{
				at(0, 1), at(10*time.Second, 2), at(10*time.Second+1, 3), at(30*time.Second, 4),
			},
			takesNoReport: []span{{12 * time.Second, 13*time.Second + time.Millisecond}},
		}}, func(t *testing.T, w *world) {
			pass(40 * time.Second)
			w.runs(t, 4)
		})
	}
}

// While nothing cuts long polls, they get longer, and cost few requests.
func TestRun_LongPoll_NothingCut_WaitGrows(t *testing.T) {
	play(t, scenario{
		transport: wire.LongPoll, controller: &fakeController{publications: []publication{published(0, 1)}},
	}, func(t *testing.T, w *world) {
		pass(3 * time.Hour)
		between := gaps(w.fetches(0))
		if between[1] < 55*time.Second || between[1] > 59*time.Second {
			t.Errorf(
				"the first wait took %s, want 55 s, so that it survives a proxy that cuts after a minute", between[1],
			)
		}
		for _, gap := range between[4:] {
			if gap < 300*time.Second || gap > 319*time.Second {
				t.Errorf("a wait took %s, want 300 s", gap)
			}
		}
	})
}

func TestRun_LongPoll_WaitsCut_AsksForLess(t *testing.T) {
	later := &protocol.RetryLater{After: 5 * time.Second, Err: protocol.ErrProxy}
	for name, row := range map[string]struct {
		cutsAfter time.Duration
		cutError  error
		most      int           // requests in an hour
		delay     time.Duration // at most, of a version that is published after the cuts
	}{
		"a proxy that answers 504 after 50 s": {50 * time.Second, nil, 105, time.Second},
		"one that breaks off after 60 s":      {60 * time.Second, errOutage, 90, 30 * time.Second},
		"one that breaks off after 240 s":     {240 * time.Second, errOutage, 30, 30 * time.Second},
		"one that breaks off after 3 s":       {3 * time.Second, errOutage, 140, 33 * time.Second},
		"one that answers 504 after 3 s":      {3 * time.Second, nil, 140, 33 * time.Second},
		"Varnish: 503, come back in 5 s":      {60 * time.Second, later, 90, 30 * time.Second},
		"503, come back in 5 s, after 20 s":   {20 * time.Second, later, 240, 30 * time.Second},
		"one that answers 502 after 60 s":     {60 * time.Second, protocol.ErrProxy, 90, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, scenario{transport: wire.LongPoll, controller: &fakeController{
				publications: []publication{published(0, 1), published(2*time.Hour, 2)}, cutsAfter: row.cutsAfter,
				cutError: row.cutError,
			}}, func(t *testing.T, w *world) {
				pass(time.Hour)
				if n := len(w.fetches(0)); n > row.most {
					t.Errorf("%d requests in an hour, want %d at most", n, row.most)
				}
				if row.cutsAfter > 2*minWait {
					if got := w.Status(); got.Transport != wire.LongPoll || got.LastError != "" {
						t.Errorf(
							"after an hour: the transport is %s, %q, want it to wait for less, and all well",
							got.Transport, got.LastError,
						)
					}
				}
				pass(time.Hour + row.delay)
				w.runs(t, 2)
			})
		})
	}
}

// An error of a proxy during an outage of the controller is not a cut: afterwards long polls
// are as long as before.
func TestRun_LongPoll_ProxyErrorDuringOutage_WaitUnchangedAfterwards(t *testing.T) {
	play(t, scenario{transport: wire.LongPoll, controller: &fakeController{
		publications: []publication{published(0, 1)},
		down:         []span{{3 * time.Hour, 3*time.Hour + 2*time.Minute}}, lost: protocol.ErrProxy,
	}}, func(t *testing.T, w *world) {
		pass(4 * time.Hour)
		for _, gap := range gaps(w.fetches(3*time.Hour + 5*time.Minute)) {
			if gap < maxWait {
				t.Errorf("a wait took %s after the outage, want %s", gap, maxWait)
			}
		}
	})
}

// Whatever a controller answers, an agent does not poll without a rest.
func TestRun_LongPoll_OddControllers_NeverSpins(t *testing.T) {
	twice := release(2, 30)
	twice.ETag = ""
	for name, row := range map[string]struct {
		controller *fakeController
		worker     *fakeWorker
		most       int // requests in an hour
	}{
		"one that holds nothing": {
			&fakeController{publications: []publication{published(0, 1)}, noLongPolls: true}, nil, 135,
		},
		"one that only says so": {&fakeController{publications: []publication{published(0, 1)},
			says: func(wait time.Duration) time.Duration { return wait }}, nil, 180},
		"one that says less": {&fakeController{publications: []publication{published(0, 1)},
			says: func(time.Duration) time.Duration { return 0 }}, nil, 160},
		"one that says nothing is published": {
			&fakeController{says: func(time.Duration) time.Duration { return 0 }}, nil, 160,
		},
		"one that gives no ETag": {&fakeController{publications: []publication{{0, twice}}}, nil, 160},
		"one that is down":       {&fakeController{down: always}, nil, 160},
		"one that denies": {
			&fakeController{publications: []publication{published(0, 1)}, denies: always}, nil, 60,
		},
		"one whose documents are none": {
			&fakeController{publications: []publication{published(0, 1)}, invalid: always}, nil, 135,
		},
		"one that takes no report": {&fakeController{
			publications: []publication{published(0, 1)}, takesNoReport: always,
		},
			&fakeWorker{refuses: func(int64, time.Duration) string { return "no" }}, 160},
		"one that wants no report": {&fakeController{publications: []publication{published(0, 1)}, unwanted: true},
			&fakeWorker{refuses: func(int64, time.Duration) string { return "no" }}, 160},
		"one that offers what was refused": {&fakeController{publications: []publication{published(0, 1)}},
			&fakeWorker{refuses: func(int64, time.Duration) string { return "no" }}, 160},
		"one whose worker is away": {
			&fakeController{publications: []publication{published(0, 1)}}, &fakeWorker{down: always}, 160,
		},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, scenario{
				transport: wire.LongPoll, controller: row.controller, worker: row.worker,
			}, func(t *testing.T, w *world) {
				pass(time.Hour)
				if n := len(w.fetches(0)); n > row.most {
					t.Errorf("%d requests in an hour, want %d at most", n, row.most)
				}
			})
		})
	}
}

func TestRun_LongPoll_ControllerHoldsNothing_Polls(t *testing.T) {
	play(t, scenario{transport: wire.LongPoll, controller: &fakeController{
		publications: []publication{published(0, 1), published(time.Hour, 2)}, noLongPolls: true,
	}}, func(t *testing.T, w *world) {
		pass(time.Hour)
		if got := w.Status(); got.Transport != wire.Polling || got.Push.Healthy ||
			!strings.Contains(got.Push.Error, "PUSH") {
			t.Errorf("got the transport %s, push %+v, want polling and the reason", got.Transport, got.Push)
		}
		if n := w.logged(logrus.WarnLevel, "Push lost; polling"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
		pass(33 * time.Second)
		w.runs(t, 2)
	})
}

// A refused version is reported before the next long poll, so that it is not offered again.
// The next version is followed immediately.
func TestRun_LongPoll_VersionRefused_ReportsBeforeWaiting(t *testing.T) {
	play(t, scenario{
		transport: wire.LongPoll,
		controller: &fakeController{
			publications: []publication{published(0, 1), published(time.Minute, 2), published(2*time.Minute, 3)},
			withholds:    true,
		},
		worker: &fakeWorker{refuses: func(v int64, _ time.Duration) string {
			if v == 2 {
				return "no"
			}
			return ""
		}},
	}, func(t *testing.T, w *world) {
		pass(time.Minute)
		w.runs(t, 1)
		if n := len(w.worker.pushTimes()); n != 2 {
			t.Errorf("%d pushes, want 2: one of each version", n)
		}
		pass(time.Minute)
		w.runs(t, 3)
	})
}

// Versions that are published in a row, at some distance, are all followed.
func TestRun_LongPoll_ManyPublishes_AllFollowed(t *testing.T) {
	var publications []publication
	for v := range int64(3 * maxPrompt) {
		publications = append(publications, published(time.Duration(v)*10*time.Second, v+1))
	}
	play(t, scenario{transport: wire.LongPoll, controller: &fakeController{publications: publications}},
		func(t *testing.T, w *world) {
			for _, p := range publications {
				pass(p.at + time.Millisecond - w.worker.now())
				w.runs(t, p.Config.Version)
			}
		})
}

// A refused version that is offered again, by a controller that does not remember the
// refusal, is not fetched again immediately.
func TestRun_LongPoll_RefusedVersionOfferedAgain_WaitsAnInterval(t *testing.T) {
	play(t, scenario{
		transport:  wire.LongPoll,
		controller: &fakeController{publications: []publication{published(0, 1)}},
		worker:     &fakeWorker{refuses: refuse(1)},
	}, func(t *testing.T, w *world) {
		pass(20 * time.Second)
		if n := len(w.fetches(0)); n != 2 {
			t.Errorf("%d fetches, want 2: after the refusal was reported, and then after an interval", n)
		}
	})
}

// A controller that stops releases its waiters, which poll again soon.
func TestRun_LongPoll_Released_PollsAgainSoon(t *testing.T) {
	drains := []time.Duration{time.Minute}
	for i := range time.Duration(2 * maxPrompt) { // with long polls in between that last for their whole wait
		drains = append(drains, (i+1)*time.Hour)
	}
	play(t, scenario{transport: wire.LongPoll, controller: &fakeController{
		publications: []publication{published(0, 1), published(time.Minute+2*time.Second, 2)}, drains: drains,
	}}, func(t *testing.T, w *world) {
		pass(time.Minute + 2*time.Second)
		w.runs(t, 2)
		if got := w.logged(logrus.WarnLevel, "Controller lost"); got != 0 {
			t.Errorf("%d warnings, want none", got)
		}
		pass(2 * maxPrompt * time.Hour)
		if got := w.Status(); got.Transport != wire.LongPoll {
			t.Errorf("the transport is %s, push %+v, want longpoll, because waits complete", got.Transport, got.Push)
		}
	})
}

func TestRun_LongPoll_Outage_WaitUnchangedAfterwards(t *testing.T) {
	play(t, scenario{transport: wire.LongPoll, controller: &fakeController{
		publications: []publication{
			published(0, 1), published(70*time.Minute, 2), published(80*time.Minute+7*time.Second, 3),
		},
		down: []span{{time.Hour, time.Hour + time.Minute}},
	}}, func(t *testing.T, w *world) {
		pass(time.Hour + 59*time.Second)
		if got := w.Status(); got.Transport != wire.Polling || got.Push.Error == "" {
			t.Errorf("while the controller is away: the transport is %s, push %+v", got.Transport, got.Push)
		}
		pass(10 * time.Minute)
		w.runs(t, 2)
		pass(10*time.Minute + 8*time.Second)
		w.runs(t, 3)
		if lost, back := w.logged(
			logrus.WarnLevel, "Push lost; polling",
		), w.logged(logrus.InfoLevel, "Push healthy"); lost != 1 || back != 2 {
			t.Errorf("%d lines say that push was lost and %d that it is healthy, want 1 and 2", lost, back)
		}
		pass(30 * time.Minute)
		if gap := lastOf(gaps(w.fetches(0)), 1)[0]; gap < 300*time.Second {
			t.Errorf("long after the outage a wait takes %s, want 300 s as before: nothing cuts them", gap)
		}
	})
}

// While the whole fleet fetches a version, agents that have it wait with their reports.
func TestRun_Spread_ReportsAfterwards(t *testing.T) {
	play(t, scenario{transport: wire.LongPoll, controller: &fakeController{
		publications: []publication{published(0, 1), published(time.Minute, 2)}, spread: 400 * time.Millisecond,
	}}, func(t *testing.T, w *world) {
		pass(time.Minute)
		w.runs(t, 2)
		pass(time.Minute)
		if diff := cmp.Diff(
			[]time.Duration{400 * time.Millisecond, time.Minute + 400*time.Millisecond}, w.controller.outcomeAt,
		); diff != "" {
			t.Errorf("reports came at (-want +got):\n%s", diff)
		}
		if got := w.fetches(time.Minute); len(got) == 0 || got[0] != time.Minute+400*time.Millisecond {
			t.Errorf("fetches at %v, want the next long poll after the report", got)
		}
	})
}

func TestRun_Hint_FollowedWithinItsSpread(t *testing.T) {
	two := release(2, 30)
	var at []time.Duration
	for range 30 {
		play(t, scenario{transport: wire.NATS,
			controller: &fakeController{publications: []publication{published(0, 1), {time.Minute, two}}},
			hints:      &fakeBroker{says: []message{hint(time.Minute, two, 10*time.Second)}},
		}, func(t *testing.T, w *world) {
			pass(time.Minute + 10*time.Second)
			w.runs(t, 2)
			if got := w.fetches(time.Minute); len(got) == 1 {
				at = append(at, got[0]-time.Minute)
			} else {
				t.Errorf("fetches at %v, want one", got)
			}
		})
	}
	slices.Sort(at)
	if at[0] > 4*time.Second || at[len(at)-1] < 6*time.Second || at[15] < 2*time.Second || at[15] > 8*time.Second {
		t.Errorf(
			"fetches %s to %s after the hint, half of them by %s, want them spread over 10 s", at[0], at[len(at)-1],
			at[15],
		)
	}
}

// While hints are received, the agent polls rarely, which makes up for lost hints.
func TestRun_BrokerReceived_ResyncsSlowly(t *testing.T) {
	play(t, scenario{transport: wire.Redis, hints: &fakeBroker{down: []span{{0, 10 * time.Second}}},
		controller: &fakeController{publications: []publication{published(0, 1), published(2*time.Hour, 2)}},
	}, func(t *testing.T, w *world) {
		pass(2 * time.Hour)
		if got := w.fetches(10 * time.Second); len(got) == 0 || got[0] > 40*time.Second {
			t.Errorf("fetches at %v, want one within an interval after it subscribed", got)
		}
		for _, gap := range gaps(w.fetches(40 * time.Second)) {
			if gap < 5*time.Minute || gap > 7*time.Minute+30*time.Second {
				t.Errorf("resyncs are %s apart, want 5 to 7.5 minutes", gap)
			}
		}
		pass(7*time.Minute + 30*time.Second)
		w.runs(t, 2)
	})
}

// An agent that polls once a day fetches soon after its broker, or its controller, was away
// for a minute.
func TestRun_LongInterval_RecoversSoonAfterOutage(t *testing.T) {
	const day = 24 * 60 * 60
	for transport, hints := range map[wire.Transport]Hints{
		wire.NATS: &fakeBroker{down: []span{{time.Hour, time.Hour + time.Minute}}}, wire.LongPoll: nil,
	} {
		controller := &fakeController{
			publications: []publication{{0, release(1, day)}, {time.Hour + 30*time.Second, release(2, day)}},
		}
		if hints == nil {
			controller.down = []span{{time.Hour, time.Hour + time.Second}}
		}
		play(t, scenario{transport: transport, hints: hints, controller: controller}, func(t *testing.T, w *world) {
			pass(time.Hour + 2*time.Minute + time.Second)
			w.runs(t, 2)
		})
	}
}

func TestRun_BrokerLost_Polls(t *testing.T) {
	var first []time.Duration
	for range 20 {
		play(t, scenario{transport: wire.NATS, hints: &fakeBroker{down: []span{{time.Hour, 2 * time.Hour}}},
			controller: &fakeController{publications: []publication{published(0, 1), published(90*time.Minute, 2)}},
		}, func(t *testing.T, w *world) {
			pass(time.Hour + 32*time.Second)
			if got := w.fetches(time.Hour); len(got) == 0 || got[0] > time.Hour+30*time.Second {
				t.Errorf("fetches at %v after the broker was lost, want the first within the interval", got)
			} else {
				first = append(first, got[0]-time.Hour)
			}
			if got := w.Status(); got.Transport != wire.Polling || got.Push.Error != "nothing listens there" {
				t.Errorf("the transport is %s, push %+v", got.Transport, got.Push)
			}
			pass(30*time.Minute + time.Second)
			w.runs(t, 2)
			pass(30*time.Minute + 30*time.Second)
			if got := w.fetches(2 * time.Hour); len(got) == 0 || got[0] > 2*time.Hour+30*time.Second {
				t.Errorf("fetches at %v after it subscribed again, want one within an interval", got)
			}
			if lost, back := w.logged(
				logrus.WarnLevel, "Push lost; polling",
			), w.logged(logrus.InfoLevel, "Push healthy"); lost != 1 || back != 2 {
				t.Errorf("%d lines say that push was lost and %d that it is healthy, want 1 and 2", lost, back)
			}
		})
	}
	slices.Sort(first)
	if first[10] < 5*time.Second || first[10] > 25*time.Second {
		t.Errorf("half of the agents polled by %s after the broker was lost, want them spread over 30 s", first[10])
	}
}

// The answer to a poll that was sent before the agent subscribed says nothing about the
// broker.
func TestRun_SubscribedDuringAPoll_IsHealthy(t *testing.T) {
	play(t, scenario{transport: wire.NATS, hints: &fakeBroker{down: []span{{0, 50 * time.Millisecond}}},
		controller: &fakeController{publications: []publication{published(0, 1)}, slowFetches: 100 * time.Millisecond},
	}, func(t *testing.T, w *world) {
		pass(101 * time.Millisecond)
		if s := w.Status(); s.Transport != wire.NATS || s.LastFetch == nil {
			t.Errorf("after a poll: the transport is %s, push %+v", s.Transport, s.Push)
		}
	})
}

func TestRun_BrokerNeverReachable_Polls(t *testing.T) {
	play(t, scenario{transport: wire.Redis, hints: &fakeBroker{down: always},
		controller: &fakeController{publications: []publication{published(0, 1), published(time.Hour, 2)}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour + 33*time.Second)
		w.runs(t, 2)
		if n := w.logged(logrus.WarnLevel, "Push lost; polling"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
	})
}

func TestRun_HintsWithoutNews_NotFollowed(t *testing.T) {
	one, two := release(1, 30), release(2, 30)
	for name, says := range map[string][]message{
		"an older version": {hint(time.Hour, one, 0)},
		"the one that runs": {
			hint(time.Hour, two, 0), hint(time.Hour, two, 0), hint(time.Hour+time.Second, two, 0),
		},
		"no JSON": {{time.Hour, "hello"}, {time.Hour, ""}, {time.Hour, "null"}},
		"no version": {
			{time.Hour, `{"etag":"x","spread_ms":0}`}, {time.Hour, `{"version":-1}`}, {time.Hour, `{"version":1e9}`},
		},
		"longer than a hint is": {{time.Hour, `{"version":9,"etag":"` + strings.Repeat("x", 1<<20) + `"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, scenario{transport: wire.NATS, hints: &fakeBroker{says: says},
				controller: &fakeController{publications: []publication{{0, one}, {time.Minute, two}}},
			}, func(t *testing.T, w *world) {
				pass(time.Hour - time.Second)
				before := len(w.fetches(0))
				pass(3 * time.Second)
				w.runs(t, 2)
				if n := len(w.fetches(0)) - before; n > 1 { // a resync may be due just then
					t.Errorf("%d fetches, want none for that", n)
				}
			})
		})
	}
}

// subjects is a broker that records the subjects of subscriptions.
type subjects struct {
	mu    sync.Mutex
	asked []string
}

func (s *subjects) Run(ctx context.Context, subject string, r notify.Receiver) error {
	s.mu.Lock()
	s.asked = append(s.asked, subject)
	s.mu.Unlock()
	r.Subscribed()
	<-ctx.Done()
	return nil
}

func TestRun_ControllerNamesFleet_SubscribesToIt(t *testing.T) {
	for name, row := range map[string]struct {
		cached string // the id
		fleets []namedFleet
		want   []string
	}{
		"an older controller": {"", nil, []string{"fleetconf.config"}},
		"learned":             {"", []namedFleet{{time.Hour, "a"}}, []string{"fleetconf.config", "fleetconf.config.a"}},
		"remembered":          {"a", []namedFleet{{0, "a"}}, []string{"fleetconf.config.a"}},
		"another controller": {
			"a", []namedFleet{{0, "a"}, {time.Hour, "b"}}, []string{"fleetconf.config.a", "fleetconf.config.b"},
		},
		"an older controller again": {
			"a", []namedFleet{{0, "a"}, {time.Hour, ""}}, []string{"fleetconf.config.a", "fleetconf.config"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			broker := &subjects{}
			play(t, scenario{transport: wire.NATS, hints: broker,
				controller: &fakeController{publications: []publication{published(0, 1)}, fleets: row.fleets},
				cache:      &fakeCache{stored: state.Stored{Identity: known, Fleet: row.cached}},
			}, func(t *testing.T, w *world) {
				pass(2 * time.Hour)
				broker.mu.Lock()
				defer broker.mu.Unlock()
				if diff := cmp.Diff(row.want, broker.asked); diff != "" {
					t.Errorf("subjects, -want +got:\n%s", diff)
				}
				last := ""
				for _, m := range row.fleets {
					last = m.fleet
				}
				if got := w.cache.content().Fleet; got != last {
					t.Errorf("the cache holds the fleet %q, want %q", got, last)
				}
				if s := w.Status(); s.Transport != wire.NATS {
					t.Errorf("got %+v, want hints received", s.Push)
				}
			})
		})
	}
}

// An agent whose FLEET_ID is not the controller's receives no hints, and says so.
func TestRun_FleetIDOfAnotherFleet_Polls(t *testing.T) {
	for _, row := range []struct {
		named []namedFleet
		want  wire.Transport
	}{
		{[]namedFleet{{0, "mine"}}, wire.NATS}, {[]namedFleet{{0, "other"}}, wire.Polling}, {nil, wire.Polling},
	} {
		broker := &subjects{}
		play(t, scenario{transport: wire.NATS, hints: broker, fleet: "mine",
			controller: &fakeController{
				publications: []publication{published(0, 1), published(time.Hour, 2)}, fleets: row.named,
			},
		}, func(t *testing.T, w *world) {
			pass(time.Hour - 1)
			if s := w.Status(); s.Transport != row.want ||
				strings.Contains(s.Push.Error, "FLEET_ID") != (row.want == wire.Polling) {
				t.Errorf("the controller names %v: got %+v, want %s", row.named, s.Push, row.want)
			}
			broker.mu.Lock()
			if diff := cmp.Diff([]string{"fleetconf.config.mine"}, broker.asked); diff != "" {
				t.Errorf("subjects, -want +got:\n%s", diff)
			}
			broker.mu.Unlock()
			if pass(34 * time.Second); row.want == wire.Polling {
				w.runs(t, 2)
			}
		})
	}
}

// A restored store can publish the same version under another ETag.
func TestRun_HintWithSameVersionAndNewETag_Followed(t *testing.T) {
	again := release(1, 31)
	play(t, scenario{transport: wire.NATS, hints: &fakeBroker{says: []message{hint(time.Hour, again, 0)}},
		controller: &fakeController{publications: []publication{published(0, 1), {time.Hour, again}}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour + time.Second)
		if got := w.cache.content().LastGood; got == nil || got.ETag != again.ETag {
			t.Errorf("a second after the hint the agent holds %+v, want %s", got, again.ETag)
		}
	})
}

// A client that can write to the broker can neither make a fleet fetch much more often than
// polling would, nor keep it from following hints that are true.
func TestRun_FalseHints_RateLimited(t *testing.T) {
	var lies []message
	for i := range 3600 { // one a second, each of another version, to be followed immediately or late
		text := fmt.Sprintf(`{"version":%d,"etag":"","spread_ms":%d}`, 1000+i, i%2*99999999999)
		lies = append(lies, message{time.Hour + time.Duration(i)*time.Second, text})
	}
	three := release(3, 30)
	lies = append(lies, hint(2*time.Hour-time.Minute, three, 0))
	play(t, scenario{transport: wire.NATS, hints: &fakeBroker{says: lies},
		controller: &fakeController{publications: []publication{published(0, 1), {2*time.Hour - time.Minute, three}}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour)
		before := len(w.fetches(0))
		pass(59 * time.Minute)
		if n := len(w.fetches(0)) - before; n > 240 {
			t.Errorf("%d fetches in an hour of false hints, want little more than by polling", n)
		}
		pass(31 * time.Second)
		w.runs(t, 3)
	})
}

// A hint shortens neither a Retry-After nor a back-off.
func TestRun_HintsDuringOutage_KeepBackoff(t *testing.T) {
	two := release(2, 30)
	var says []message
	for i := range 600 {
		r := release(int64(2+i), 30)
		says = append(says, hint(time.Minute+time.Duration(i)*time.Second, r, 0))
	}
	for name, controller := range map[string]*fakeController{
		"down": {
			publications: []publication{published(0, 1), {time.Minute, two}},
			down:         []span{{time.Minute, 11 * time.Minute}},
		},
		"busy": {
			publications: []publication{published(0, 1), {time.Minute, two}},
			busy:         []span{{time.Minute, 11 * time.Minute}}, retryAfter: time.Minute,
		},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, scenario{
				transport: wire.NATS, hints: &fakeBroker{says: says}, controller: controller,
			}, func(t *testing.T, w *world) {
				pass(11 * time.Minute)
				if n := len(w.fetches(time.Minute)); n > 40 {
					t.Errorf("%d fetches in ten minutes of outage, want a back-off", n)
				}
				if s := w.Status(); s.Transport != wire.NATS {
					t.Errorf("the transport is %s, push %+v, want the broker still to be received", s.Transport, s.Push)
				}
				pass(6 * time.Minute)
				w.runs(t, 2)
			})
		})
	}
}

// A whole fleet loses its controller, or its broker, at one moment, and gets it back at one
// moment. Its requests are spread: there are never more than three times those of a fleet
// that polls. In the end every agent runs the newest version.
func TestRun_ReconnectStorm_IsSpread(t *testing.T) {
	const fleet, interval, away, window = 200, 30 * time.Second, time.Minute, 10 * time.Second
	const died, end = 5 * time.Minute, 8 * time.Minute
	for name, row := range map[string]struct {
		transport wire.Transport
		gone      func(*fakeController, *fakeBroker)
	}{
		"long-poll, the controller dies": {
			wire.LongPoll, func(c *fakeController, _ *fakeBroker) { c.down = []span{{died, died + away}} },
		},
		"long-poll, it is restarted": {
			wire.LongPoll, func(c *fakeController, _ *fakeBroker) { c.down = []span{{died, died + 1}} },
		},
		"a broker dies": {
			wire.NATS, func(_ *fakeController, b *fakeBroker) { b.down = []span{{died, died + away}} },
		},
		"a broker is restarted": {
			wire.NATS, func(_ *fakeController, b *fakeBroker) { b.down = []span{{died, died + 1}} },
		},
		"a broker, and the controller with it": {wire.Redis, func(c *fakeController, b *fakeBroker) {
			c.down = []span{{died, died + away}}
			b.down = c.down
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				began := clock{time.Now()}
				two := published(died+2*away, 2)
				worlds := make([]*world, fleet)
				var running sync.WaitGroup
				for i := range worlds {
					s := scenario{
						transport:  row.transport,
						controller: &fakeController{publications: []publication{published(0, 1), two}},
					}
					broker := &fakeBroker{clock: began, says: []message{hint(two.at, two.Release, time.Second)}}
					row.gone(s.controller, broker)
					if row.transport != wire.LongPoll {
						s.hints = broker
					}
					worlds[i] = s.world()
					worlds[i].controller.clock, worlds[i].worker.clock = began, began
					worlds[i].Log = silent()
					running.Go(func() { _ = worlds[i].Run(ctx) })
					pass(interval / fleet) // they do not start at one moment
				}
				pass(end - began.now())
				cancel()
				running.Wait()
				requests := map[time.Duration]int{} // by the window
				for _, w := range worlds {
					w.runs(t, 2)
					for _, at := range w.fetches(0) {
						if !within(w.controller.down, at) {
							requests[at.Truncate(window)]++
						}
					}
				}
				worst := 0
				for at, n := range requests {
					// except for the fetches of version 2, which the hint spreads
					if at >= died-away && (at < two.at || at > two.at+window) {
						worst = max(worst, n)
					}
				}
				polling := fleet * int(window) / int(interval)
				t.Logf("at most %d requests in %s; a polling fleet sends %d", worst, window, polling)
				if worst > 3*polling {
					t.Errorf(
						"%d requests in %s, want %d at most, three times what a polling fleet sends", worst,
						window, 3*polling,
					)
				}
			})
		})
	}
}

func silent() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.PanicLevel)
	return log
}

// If the controller announces elsewhere, push is not healthy, although the broker is there.
func TestRun_BrokerWithoutAnnouncements_Polls(t *testing.T) {
	play(t, scenario{transport: wire.NATS, hints: &fakeBroker{}, controller: &fakeController{
		publications: []publication{published(0, 1), published(time.Hour, 2)}, otherBroker: true,
	}}, func(t *testing.T, w *world) {
		pass(time.Hour + 33*time.Second)
		w.runs(t, 2)
		if got := w.Status(); got.Transport != wire.Polling || !strings.Contains(got.Push.Error, "PUSH") {
			t.Errorf("the transport is %s, push %+v, want polling and the reason", got.Transport, got.Push)
		}
		if n := w.logged(logrus.WarnLevel, "Push lost; polling"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
	})
}

// An agent whose worker is away when a version comes, or whose report is taken late, still
// waits for the next version.
func TestRun_LongPoll_WorkerOrReportLate_KeepsWaiting(t *testing.T) {
	at := 100 * time.Second
	publications := []publication{
		{0, release(1, 3600)}, {at, release(2, 3600)}, {at + 6*time.Second, release(3, 3600)},
		{at + time.Minute, release(4, 3600)},
	}
	for name, s := range map[string]scenario{
		"the worker is away": {
			worker:     &fakeWorker{down: []span{{at - time.Second, at + 3*time.Second}}},
			controller: &fakeController{publications: publications},
		},
		"a report comes late": {worker: &fakeWorker{slow: 5 * time.Second},
			controller: &fakeController{
				publications: publications, busyReports: []span{{at, at + 6*time.Second}}, retryAfter: 2 * time.Second,
			}},
	} {
		t.Run(name, func(t *testing.T) {
			s.transport = wire.LongPoll
			play(t, s, func(t *testing.T, w *world) {
				pass(at + 2*time.Minute)
				w.runs(t, 4)
			})
		})
	}
}

// disagreeing is a controller that answers from two stores in turns.
type disagreeing struct {
	*fakeController
	answers int
}

func (d *disagreeing) Fetch(ctx context.Context, _ protocol.Identity, q protocol.Query) (protocol.Answer, error) {
	d.record("fetch", q.ETag)
	d.answers++
	if !sleep(ctx, time.Millisecond) {
		return protocol.Answer{}, ctx.Err()
	}
	r := release(int64(1+d.answers%2), 30)
	return protocol.Answer{Release: &r, CanWait: true, Waited: q.Wait, PollInterval: 30 * time.Second}, nil
}

func TestRun_LongPoll_ControllersDisagree_BacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scenario{transport: wire.LongPoll}.world()
		w.Source = &disagreeing{fakeController: w.controller}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = w.Run(ctx) })
		pass(time.Hour)
		cancel()
		running.Wait()
		if n := len(w.fetches(0)); n > 300 {
			t.Errorf("%d requests in an hour, want a rest between them", n)
		}
	})
}

// A controller that is stopped soon after an outage, say to deploy a fix, is not taken for a
// part of the outage.
func TestRun_LongPoll_ReleasedAfterOutage_PollsAgainSoon(t *testing.T) {
	var worst time.Duration
	for range 10 {
		play(t, scenario{transport: wire.LongPoll, controller: &fakeController{
			publications: []publication{published(0, 1), published(15*time.Minute, 2)},
			down:         []span{{10 * time.Minute, 11*time.Minute + 30*time.Second}},
			drains:       []time.Duration{15*time.Minute - time.Second},
		}}, func(t *testing.T, w *world) {
			pass(16 * time.Minute)
			w.runs(t, 2)
			for _, p := range w.worker.pushes {
				worst = max(worst, p.at-15*time.Minute)
			}
		})
	}
	if worst > 5*time.Second {
		t.Errorf("version 2 came up to %s late, want soon", worst)
	}
}

// A controller that crashes a few times is not taken for a proxy that cuts.
func TestRun_LongPoll_ControllerCrashes_WaitUnchangedAfterwards(t *testing.T) {
	for range 6 {
		play(t, scenario{transport: wire.LongPoll, controller: &fakeController{publications: []publication{
			published(0, 1),
		},
			down: []span{
				{20 * time.Second, 22 * time.Second}, {48 * time.Second, 50 * time.Second},
				{75 * time.Second, 77 * time.Second},
			},
		}}, func(t *testing.T, w *world) {
			pass(3 * time.Hour)
			if n := len(w.fetches(2 * time.Hour)); n > 60 {
				t.Errorf("%d requests in the third hour, want hardly more than 12", n)
			}
		})
	}
}

func TestRun_LongPoll_WaitsAlwaysCut_Polls(t *testing.T) {
	play(t, scenario{
		transport:  wire.LongPoll,
		controller: &fakeController{publications: []publication{published(0, 1)}, cutsAfter: 3 * time.Second},
	},
		func(t *testing.T, w *world) {
			pass(5 * time.Minute)
			if got := w.Status(); got.Transport != wire.Polling || got.Push.Healthy || got.Push.Error == "" {
				t.Errorf("got the transport %s, push %+v, want polling and the reason", got.Transport, got.Push)
			}
		})
}

func TestRun_RegistrationRefused_BacksOff(t *testing.T) {
	play(t, scenario{controller: &fakeController{
		publications: []publication{{0, release(1, 1)}}, noEnrolment: always, denies: always,
	}}, func(t *testing.T, w *world) {
		pass(time.Hour)
		if n := len(w.controller.times("register")); n > 60 {
			t.Errorf("%d registrations in an hour, want few", n)
		}
	})
}

func TestRun_LongInterval_ResyncsNoMoreOften(t *testing.T) {
	play(t, scenario{
		transport: wire.NATS, hints: &fakeBroker{},
		controller: &fakeController{publications: []publication{{0, release(1, 3600)}}},
	}, func(t *testing.T, w *world) {
		pass(9 * time.Hour)
		if n := len(w.fetches(0)); n > 14 {
			t.Errorf("%d requests in nine hours with an interval of one, want about nine", n)
		}
	})
}

func TestStatus_Polling_NoPush(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
	}, func(t *testing.T, w *world) {
		pass(time.Minute)
		if diff := cmp.Diff(protocol.PushStatus{Transport: wire.Polling}, w.Status().Push); diff != "" ||
			w.Status().Transport != wire.Polling {
			t.Errorf("without push (-want +got):\n%s", diff)
		}
	})
}
