// Package reconcile decides what to push to the worker. Worker compares what the worker
// says that it runs with what it should run, and promises that a configuration whose
// push failed, or had no effect, is not pushed again before a back-off, unless another
// instance of the worker answers.
//
// It is pure but for the jitter of the back-off: each call gets the time that it happens
// at.
package reconcile

import (
	"errors"
	"fmt"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const (
	retryFirst = time.Second
	retryLimit = 30 * time.Second // shorter than for the controller: the worker is near

	// healthDelay is how long a worker must be away, or back, before that is reported.
	// A restart takes less.
	healthDelay = 5 * time.Second
)

// notReached stands for the instance of a worker that could not be asked. The next one
// that answers counts as another.
const notReached = "\x00"

// Wanted is what the worker should run: the candidate, or else the last good release.
type Wanted struct {
	Candidate *protocol.Release // neither accepted nor refused by the worker yet
	LastGood  *protocol.Release // accepted last by the worker
}

// Push is a configuration to push to the worker.
type Push struct {
	Config  wire.WorkerConfig
	Release *protocol.Release
	New     bool // the worker has not accepted it yet: save it first
}

// Refusal is a version that the worker refused; the zero Refusal is none.
type Refusal struct {
	Version int64
	Message string
}

func (r Refusal) String() string {
	if r.Version == 0 {
		return ""
	}
	return fmt.Sprintf("the worker refused version %d: %s", r.Version, r.Message)
}

// Worker is what an agent knows of its worker. Make it with New.
type Worker struct {
	Status  protocol.WorkerStatus
	InSync  bool    // the worker, when last asked, ran what it should
	Refusal Refusal // the last one, until something replaces it

	// RefusedLastGood is the last good release if the worker refused even that. It is
	// not pushed again until the controller confirms it or the worker restarts.
	RefusedLastGood *protocol.Release

	// Reported is what polls say is wrong with the worker; "" while all is well.
	Reported    string
	differsFrom time.Time // since when the observations differ from that; zero: they do not

	instance     string // that answered last; notReached after a failure
	lastInstance string // that answered last, however long ago; "" for none

	lastPushed *protocol.Release // without effect so far
	notBefore  time.Time         // of pushing it again
	retry      *backoff.Backoff
}

// New returns a Worker that was not asked yet.
func New() Worker { return Worker{instance: notReached, retry: backoff.New(retryFirst, retryLimit)} }

// Observation is what follows from an answer of the worker.
type Observation struct {
	Restarted bool              // another instance answers than before
	Runs      *protocol.Release // what it should run, and does
	Idle      bool              // there is nothing that it should run
	Push      *Push
}

// Unreachable records a worker that could not be asked.
func (w *Worker) Unreachable() {
	w.InSync, w.instance, w.Status = false, notReached, protocol.WorkerStatus{}
}

// Observed handles an answer of the worker; empty says that it runs nothing.
func (w *Worker) Observed(now time.Time, wanted Wanted, running wire.WorkerState, empty bool) (o Observation) {
	o.Restarted = w.lastInstance != "" && running.Instance != w.lastInstance
	w.lastInstance = running.Instance
	if running.Instance != w.instance { // it knows nothing of earlier pushes, and may accept what was refused
		w.instance = running.Instance
		w.retry.Reset()
		w.lastPushed, w.RefusedLastGood = nil, nil
	}
	w.Status = protocol.WorkerStatus{Reachable: true, Instance: running.Instance}
	if !empty {
		w.Status.Version = new(running.Version)
	}

	next := w.next(wanted, empty)
	switch {
	case next == nil:
		o.Idle, w.InSync = true, wanted == Wanted{}
		return o
	case !empty && next.RunsOn(running):
		w.retry.Reset()
		w.lastPushed = nil
		o.Runs = next
		return o
	}
	w.InSync = false
	if next.Same(w.lastPushed) && now.Before(w.notBefore) {
		return o
	}
	// The last good release is not probed again: a target that is away for a moment
	// must not leave a restarted worker without a configuration.
	o.Push = &Push{Config: next.WorkerConfig(), Release: next, New: !next.Same(wanted.LastGood)}
	o.Push.Config.Probe = o.Push.Config.Probe && o.Push.New
	return o
}

// next returns what the worker should run next. An empty worker gets the last good
// release before the candidate, so that it serves immediately, and still does if it
// refuses the candidate.
func (w *Worker) next(wanted Wanted, empty bool) *protocol.Release {
	good, candidate := wanted.LastGood, wanted.Candidate
	if good != nil && good.Same(w.RefusedLastGood) {
		good = nil
	}
	if candidate != nil && (!empty || good == nil) {
		return candidate
	}
	return good
}

// Pushed records a push and its error. Only the next observation shows whether it had
// an effect.
func (w *Worker) Pushed(now time.Time, push *Push, err error) {
	w.lastPushed, w.notBefore = push.Release, now.Add(w.retry.Next(protocol.Floor(err)))
	var refused *protocol.Refused
	switch {
	case err == nil:
	case errors.As(err, &refused):
		w.Refusal = Refusal{Version: push.Release.Config.Version, Message: refused.Message}
	default:
		w.InSync = false
	}
}

// Assess compares what is wrong with the worker with what polls say. workerErr is why it
// cannot be reached; "" while it can. Assess returns true when a difference between well
// and not well has lasted for healthDelay, so that the controller should be told soon.
func (w *Worker) Assess(now time.Time, workerErr string) (changed bool) {
	seen := workerErr
	switch {
	case seen != "" || w.InSync:
	case w.RefusedLastGood != nil:
		seen = w.Refusal.String()
	case w.lastPushed != nil:
		seen = fmt.Sprintf("the worker accepted version %d and does not run it", w.lastPushed.Config.Version)
	}
	switch {
	case (seen == "") == (w.Reported == ""): // another error is sent with the next poll
	case w.differsFrom.IsZero():
		w.differsFrom = now
		return false
	case now.Sub(w.differsFrom) < healthDelay:
		return false
	default:
		changed = true
	}
	w.Reported, w.differsFrom = seen, time.Time{}
	return changed
}
