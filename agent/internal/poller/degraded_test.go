package poller

import (
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// The controller learns within one poll interval that a worker is away, and that it is back,
// with every transport. A short absence is not reported.
func TestRun_WorkerAway_IsReported(t *testing.T) {
	const blip, away, back = 10 * time.Minute, 20 * time.Minute, 30 * time.Minute
	for _, transport := range []wire.Transport{wire.Polling, wire.LongPoll, wire.NATS} {
		t.Run(string(transport), func(t *testing.T) {
			s := scenario{
				controller: &fakeController{publications: []publication{published(0, 1)}},
				worker:     &fakeWorker{down: []span{{blip, blip + 3*time.Second}, {away, back}}},
				transport:  transport,
			}
			if transport == wire.NATS {
				s.hints = &fakeBroker{}
			}
			play(t, s, func(t *testing.T, w *world) {
				pass(away + time.Second)
				if s := w.Status(); s.InSync || s.Worker.Reachable || s.Worker.Version != nil {
					t.Errorf("while it is away: got in sync %v, %+v", s.InSync, s.Worker)
				}
				pass(time.Hour - away)
				told := w.controller.degraded
				if len(told) != 2 || told[0].what != errOutage.Error() || told[1].what != "" {
					t.Fatalf("told %+v, want the outage and its end", told)
				}
				for i, since := range []time.Duration{away, back} {
					if late := told[i].at - since; late < 5*time.Second || late > 30*time.Second {
						t.Errorf("told %q after %s, want between 5s and 30s", told[i].what, late)
					}
				}
				if n := w.logged(logrus.WarnLevel, "Controller lost"); n != 0 {
					t.Errorf("%d warnings of a lost controller, want none", n)
				}
			})
		})
	}
}

// A worker that accepts pushes and does not run them is reported too, and so is one that
// refuses the last good configuration.
func TestRun_WorkerDoesNotRunDesired_IsReported(t *testing.T) {
	for want, s := range map[string]scenario{
		"the worker accepted version 1 and does not run it": {worker: &fakeWorker{forgetsPushes: true}},
		"the worker refused version 1: not now": {worker: &fakeWorker{
			restarts: []time.Duration{time.Minute},
			refuses: func(_ int64, t time.Duration) string {
				if t < time.Minute {
					return ""
				}
				return "not now"
			},
		}},
	} {
		s.controller = &fakeController{publications: []publication{published(0, 1)}}
		s.transport = wire.LongPoll
		play(t, s, func(t *testing.T, w *world) {
			pass(2 * time.Minute)
			if told := w.controller.degraded; len(told) != 1 || told[0].what != want {
				t.Errorf("told %+v, want %q", told, want)
			}
		})
	}
}
