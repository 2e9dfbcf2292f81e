package state

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// world is a controller, a worker and a cache around a Machine. Time passes only in rests.
type world struct {
	*Machine
	now       time.Time
	transport wire.Transport

	current int64 // version that the controller offers
	failed  int64 // version that was reported FAILED, which it does not offer
	token   string
	last    wire.Report // that the controller took

	runs     int64 // version that the worker runs; 0: none
	refuses  int64 // version that it refuses
	instance int

	cache    Stored
	offered  map[int64]bool
	accepted map[string]bool // ETags
	fault    string          // the first law that was broken
}

func newWorld(transport wire.Transport, refuses int64) *world {
	w := &world{
		now: start, transport: transport, current: 1, refuses: refuses,
		offered: map[int64]bool{}, accepted: map[string]bool{"": true},
	}
	w.restart()
	return w
}

// restart starts the agent again from its cache.
func (w *world) restart() { w.Machine = machine(w.transport, w.cache) }

func (w *world) broken(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
	}
}

func (w *world) save() {
	stored, _ := w.Stored()
	w.cache = stored
	w.Saved(stored, nil)
}

// follow makes one step of the follow loop. Its request fails with err, unless that is nil.
func (w *world) follow(err error) {
	switch step, until := w.Next(w.now); step {
	case Rest:
		w.now = until
	case Identify:
		w.Identified("agent-1", "secret")
	case Register:
		w.save()
		_, self := w.Registering()
		var r protocol.Registration
		if err == nil {
			w.token += "t"
			r.Identity = protocol.Identity{AgentID: self.AgentID, AgentToken: w.token}
		}
		w.Registered(w.now, self, r, err)
	case Fetch:
		id, q := w.Querying(w.now)
		if !w.accepted[q.ETag] {
			w.broken("If-None-Match is %s, which the worker never accepted", q.ETag)
		}
		answer := protocol.Answer{PollInterval: 30 * time.Second, CanWait: q.MayWait, Waited: q.Wait}
		w.now = w.now.Add(q.Wait)
		switch offer := release(w.current); {
		case err != nil:
		case id.AgentToken != w.token:
			err = protocol.ErrUnauthorized
		case q.ETag == offer.ETag, w.current == w.failed && q.ETag != "":
			err = protocol.ErrNotModified
		case w.current == w.failed:
			err = protocol.ErrNothingPublished
		default:
			answer.Release, answer.OlderBecause = offer, wire.OlderResume
			w.offered[w.current] = true
		}
		_ = w.Fetched(w.now, q, answer, err)
	}
}

// observe makes one step of the reconcile loop. Its requests fail with err, unless that is
// nil.
func (w *world) observe(err error) {
	defer func() { w.Assess(w.now) }()
	running := runs(w.runs)
	running.Instance = fmt.Sprint(w.instance)
	switch {
	case err != nil:
		running = wire.WorkerState{}
	case w.runs == 0:
		running, err = wire.WorkerState{}, protocol.ErrNothingRuns
	}
	push, _ := w.Observed(w.now, running, err)
	if push == nil {
		return
	}
	if !w.offered[push.Config.Version] {
		w.broken("version %d was pushed and never offered", push.Config.Version)
	}
	if push.New {
		w.save()
	}
	if push.Config.Version == w.refuses {
		w.Pushed(w.now, push, &protocol.Refused{Message: "no"})
	} else {
		w.runs = push.Config.Version
		w.accepted[push.Release.ETag] = true
		w.Pushed(w.now, push, nil)
	}
	if stored, _ := w.Stored(); stored.LastGood != nil && !w.accepted[stored.LastGood.ETag] {
		w.broken("version %d is the last good one, and was never accepted", stored.LastGood.Config.Version)
	}
}

// report makes one step of the report loop. Its request fails with err, unless that is nil.
func (w *world) report(err error) {
	id, report, notBefore := w.NextReport(w.now)
	if report == nil || w.now.Before(notBefore) {
		return
	}
	w.save()
	if err == nil && id.AgentToken != w.token {
		err = protocol.ErrUnauthorized
	}
	if err == nil {
		w.last = *report
		if report.Status == wire.Failed {
			w.failed = report.Version
		}
	}
	w.Reported(w.now, *report, err)
}

// converged returns what is wrong after a time without faults; "" for nothing.
func (w *world) converged() string {
	stored, _ := w.Stored()
	status := w.Status(w.now)
	switch {
	case w.current == w.refuses && stored.LastGood != nil && w.runs != stored.LastGood.Config.Version:
		return fmt.Sprintf("the worker runs version %d, the last good one is %+v", w.runs, stored.LastGood)
	case w.current == w.refuses:
		return ""
	case w.runs != w.current || stored.LastGood == nil || stored.LastGood.Config.Version != w.current:
		return fmt.Sprintf("the worker runs version %d, the last good one is %+v", w.runs, stored.LastGood)
	case stored.Candidate != nil || !status.InSync || !status.Registered || status.LastError != "":
		return fmt.Sprintf("the status is %+v, the candidate %+v", status, stored.Candidate)
	case w.last.Status != wire.Applied && w.last.Version != w.refuses, w.last.Status == wire.Applied &&
		w.last.Version != w.current:
		return fmt.Sprintf("the last report is %+v", w.last)
	}
	return ""
}

// In any order of events the laws hold, and after the last fault the controller, the agent
// and the worker agree.
func TestMachine_AnyHistory_Converges(t *testing.T) {
	failures := []error{
		nil, nil, nil, errOutage, protocol.ErrUnauthorized, protocol.ErrForbidden, protocol.ErrInvalidConfig,
		protocol.ErrCut, protocol.ErrProxy, protocol.ErrNothingPublished, protocol.ErrUnwanted,
		&protocol.RetryLater{After: time.Minute, Err: errOutage},
	}
	rapid.Check(t, func(t *rapid.T) {
		transport := rapid.SampledFrom([]wire.Transport{wire.Polling, wire.LongPoll}).Draw(t, "transport")
		w := newWorld(transport, rapid.Int64Range(0, 6).Draw(t, "refuses"))
		for _, event := range rapid.SliceOfN(rapid.IntRange(0, 9), 0, 200).Draw(t, "events") {
			err := rapid.SampledFrom(failures).Draw(t, "error")
			switch event {
			case 0, 1, 2:
				w.follow(err)
			case 3, 4:
				w.observe(err)
			case 5:
				w.report(err)
			case 6:
				w.current = rapid.Int64Range(1, 6).Draw(t, "version")
			case 7:
				w.runs, w.instance = 0, w.instance+1
			case 8:
				w.save()
			case 9:
				w.restart()
			}
		}
		for range 400 {
			w.follow(nil)
			w.observe(nil)
			w.report(nil)
			w.now = w.now.Add(time.Second)
		}
		if w.fault != "" {
			t.Fatal(w.fault)
		}
		if fault := w.converged(); fault != "" {
			t.Fatalf("version %d is offered, %d refused: %s", w.current, w.refuses, fault)
		}
	})
}
