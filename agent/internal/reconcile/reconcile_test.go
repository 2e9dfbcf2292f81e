package reconcile

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

var (
	errFails = errors.New("answered 500")
	start    = time.Unix(1_700_000_000, 0)
)

func release(v int64) *protocol.Release {
	url := fmt.Sprintf("http://target/%d", v)
	return &protocol.Release{
		ETag: fmt.Sprintf(`"v%d"`, v), Config: wire.Config{Version: v, Data: wire.Data{URL: url, Probe: true}},
	}
}

// runs is a worker that runs a version.
func runs(v int64, instance string) wire.WorkerState {
	return wire.WorkerState{URL: release(v).Config.Data.URL, Version: v, Instance: instance}
}

// What to push depends on what the worker runs, what it should run and what it refused.
func TestObserved_EachState_PushesOrNot(t *testing.T) {
	one, two := release(1), release(2)
	elsewhere := runs(2, "a")
	elsewhere.URL = "http://elsewhere/"
	for name, row := range map[string]struct {
		wanted  Wanted
		running wire.WorkerState // none: the worker is empty
		refused *protocol.Release
		push    int64
		isNew   bool
		runs    int64
		inSync  bool
	}{
		"nothing is wanted":                    {inSync: true},
		"nothing is wanted, something runs":    {running: runs(9, "a"), inSync: true},
		"the last good, on an empty worker":    {wanted: Wanted{LastGood: one}, push: 1},
		"the last good before the candidate":   {wanted: Wanted{two, one}, push: 1},
		"the candidate, if there is no other":  {wanted: Wanted{Candidate: two}, push: 2, isNew: true},
		"the candidate instead of the last":    {wanted: Wanted{two, one}, running: runs(1, "a"), push: 2, isNew: true},
		"the candidate runs":                   {wanted: Wanted{two, one}, running: runs(2, "a"), runs: 2},
		"the last good runs":                   {wanted: Wanted{LastGood: one}, running: runs(1, "a"), runs: 1},
		"another version runs":                 {wanted: Wanted{LastGood: one}, running: runs(9, "a"), push: 1},
		"another URL runs":                     {wanted: Wanted{LastGood: two}, running: elsewhere, push: 2},
		"the last good was refused":            {wanted: Wanted{LastGood: one}, refused: one},
		"the last good was refused, candidate": {wanted: Wanted{two, one}, refused: one, push: 2, isNew: true},
	} {
		w := New()
		w.instance = row.running.Instance // the one that refused
		w.RefusedLastGood = row.refused
		o := w.Observed(start, row.wanted, row.running, row.running.Version == 0)
		var push, runs int64
		var isNew, probe bool
		if o.Push != nil {
			push, isNew, probe = o.Push.Config.Version, o.Push.New, o.Push.Config.Probe
		}
		if o.Runs != nil {
			runs = o.Runs.Config.Version
		}
		if push != row.push || isNew != row.isNew || probe != row.isNew || runs != row.runs ||
			o.Idle != (push == 0 && runs == 0) {
			t.Errorf("%s: got a push of %d (new %v, probed %v), %d runs, idle %v",
				name, push, isNew, probe, runs, o.Idle)
			t.Errorf("%s: want a push of %d (new and probed %v), %d runs", name, row.push, row.isNew, row.runs)
		}
		if row.runs == 0 && w.InSync != row.inSync {
			t.Errorf("%s: got in sync %v, want %v", name, w.InSync, row.inSync)
		}
	}
}

// The back-off of pushes ends when the worker runs what it should, and when another
// instance answers.
func TestPushed_BackOff_Ends(t *testing.T) {
	wanted := Wanted{LastGood: release(1)}
	for name, end := range map[string]func(w *Worker, now time.Time) wire.WorkerState{
		"it runs what it should": func(w *Worker, now time.Time) wire.WorkerState {
			w.Observed(now, wanted, runs(1, "a"), false)
			return runs(99, "a")
		},
		"it was restarted": func(*Worker, time.Time) wire.WorkerState { return runs(99, "b") },
		"it was away": func(w *Worker, _ time.Time) wire.WorkerState {
			w.Unreachable()
			return runs(99, "a")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, now := New(), start
			for range 20 {
				if o := w.Observed(now, wanted, runs(99, "a"), false); o.Push == nil {
					t.Fatal("no push after the longest back-off")
				} else {
					w.Pushed(now, o.Push, errFails)
				}
				now = now.Add(retryLimit)
			}
			w.Pushed(now, &Push{Release: wanted.LastGood}, &protocol.RetryLater{After: time.Hour, Err: errFails})
			if o := w.Observed(now, wanted, runs(99, "a"), false); o.Push != nil {
				t.Error("pushed again before the back-off is over")
			}
			o := w.Observed(now, wanted, end(&w, now), false)
			if o.Push == nil {
				t.Fatal("no push, want one")
			}
			w.Pushed(now, o.Push, errFails)
			if wait := w.notBefore.Sub(now); wait > retryFirst {
				t.Errorf("the next push is due in %s, want it within %s", wait, retryFirst)
			}
		})
	}
}

// A restart is another instance than the last that answered, even if the worker was away
// or empty in between.
func TestObserved_AnotherInstance_Restarted(t *testing.T) {
	w := New()
	for i, row := range []struct {
		instance string
		want     bool
	}{{"", false}, {"a", false}, {"a", false}, {"b", true}, {"", true}, {"c", false}, {"c", false}} {
		w.Unreachable()
		if got := w.Observed(start, Wanted{}, runs(1, row.instance), row.instance == "").Restarted; got != row.want {
			t.Errorf("answer %d, of instance %q: got restarted %v, want %v", i, row.instance, got, row.want)
		}
	}
}

// It is reported when a worker has been away, or back, for healthDelay.
func TestAssess_Changes_ReportedAfterADelay(t *testing.T) {
	w := New()
	for i, row := range []struct {
		after   time.Duration
		err     string
		changed bool
		want    string
	}{
		{0, "", false, ""},
		{time.Second, "away", false, ""},
		{2 * time.Second, "", false, ""}, // a restart
		{3 * time.Second, "away", false, ""},
		{7 * time.Second, "away", false, ""},
		{8 * time.Second, "away", true, "away"},
		{9 * time.Second, "hangs", false, "hangs"}, // goes along with the next poll
		{10 * time.Second, "", false, "hangs"},
		{15 * time.Second, "", true, ""},
	} {
		if got := w.Assess(start.Add(row.after), row.err); got != row.changed || w.Reported != row.want {
			t.Errorf("step %d: got changed %v and %q, want %v and %q", i, got, w.Reported, row.changed, row.want)
		}
	}
}

// A worker that can be reached and does not run what it should is reported too.
func TestAssess_NotInSync_NamesTheReason(t *testing.T) {
	one := release(1)
	for want, prepare := range map[string]func(*Worker){
		"": func(w *Worker) { w.InSync = true },
		"the worker refused version 1: no": func(w *Worker) {
			w.RefusedLastGood, w.Refusal = one, Refusal{Version: 1, Message: "no"}
		},
		"the worker accepted version 1 and does not run it": func(w *Worker) { w.lastPushed = one },
	} {
		w := New()
		prepare(&w)
		w.Assess(start, "")
		w.Assess(start.Add(healthDelay), "")
		if w.Reported != want {
			t.Errorf("got %q, want %q", w.Reported, want)
		}
	}
}
