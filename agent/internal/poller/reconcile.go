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

// reconciler is the state of reconcile, which alone touches it.
type reconciler struct {
	*Poller
	attempts
	instance     string // of the worker when last asked; "" while it runs nothing
	lastInstance string // the instance that answered last, however long ago

	// After a push of lastPushed, the same is not pushed again before notBefore. The
	// pushes have effect when a read shows so, not when the worker says so.
	retry      *backoff.Backoff
	lastPushed *models.Release
	notBefore  time.Time
}

// notReached stands for the instance of a worker that could not be asked: who
// answers next counts as another one.
const notReached = "\x00"

// maxTurns bounds how often what is wanted can change within one cycle: the
// last good one on an empty worker, the candidate, and back when it is refused.
const maxTurns = 3

// reconcile sees to it that the worker runs what is wanted until ctx ends: now,
// every second, and whenever something else is wanted.
func (p *Poller) reconcile(ctx context.Context) {
	r := newReconciler(p)
	ticker := time.NewTicker(cycleInterval)
	defer ticker.Stop()
	for first := true; ; first = false {
		for range maxTurns {
			if !r.cycle(ctx) {
				break
			}
		}
		r.assess()
		if first {
			close(p.firstPushDone)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.offered:
		case <-ticker.C:
		}
	}
}

func newReconciler(p *Poller) *reconciler {
	return &reconciler{
		Poller: p, attempts: newAttempts(p.Log), instance: notReached, retry: backoff.New(retryFirst, pushLimit),
	}
}

// cycle asks the worker what it runs and pushes what it should run. It reports
// whether something else is wanted now, so that another cycle is due at once.
func (r *reconciler) cycle(ctx context.Context) bool {
	running, err := r.Sink.Running(r.begin(ctx))
	nothing := errors.Is(err, models.ErrNothingRuns)
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil && !nothing:
		r.instance = notReached
		r.unreachable(err)
		return false
	}
	r.workerAnswered(running, nothing)

	want := r.want(nothing)
	switch {
	case want == nil:
		r.idle()
		return false
	case !nothing && want.RunsOn(running):
		r.retry.Reset()
		r.lastPushed = nil
		return r.runs(want)
	case want.Same(r.lastPushed) && time.Now().Before(r.notBefore):
		r.setInSync(false)
		return false
	}

	r.setInSync(false)
	config, known := r.asPushed(want)
	if !known {
		r.persist(ctx) // the candidate is saved before it is pushed
	}
	began := time.Now()
	err = r.Sink.Push(r.begin(ctx), config)
	r.Metrics.pushed(err, time.Since(began))
	r.lastPushed, r.notBefore = want, time.Now().Add(r.retry.Next(models.Floor(err)))
	var refused *models.Refused
	switch {
	case err == nil:
		r.log.WithField("version", want.Config.Version).Info("Configuration pushed")
		return r.runs(want)
	case errors.As(err, &refused):
		r.refuse(want, refused.Message)
		return true
	case ctx.Err() != nil:
		return false
	}
	r.unreachable(fmt.Errorf("push version %d: %w", want.Config.Version, err))
	return false
}

// workerAnswered notes who answered. Another instance than before knows nothing of what
// this one was told, nor of what it refused.
func (r *reconciler) workerAnswered(running wire.WorkerState, nothing bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lastInstance != "" && running.Instance != r.lastInstance {
		r.Metrics.workerRestarts.Inc()
		r.log.Info("Worker restarted")
	}
	r.lastInstance = running.Instance
	if running.Instance != r.instance {
		r.instance = running.Instance
		r.retry.Reset()
		r.lastPushed = nil
		r.refusedLastGood = nil
	}
	r.worker = models.WorkerStatus{Reachable: true, Instance: running.Instance}
	if !nothing {
		r.worker.Version = new(running.Version)
	}
}

// unreachable notes a worker that could not be asked or told.
func (r *reconciler) unreachable(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.workerErr.note(r.log, err, "Worker lost", "Worker back")
	r.inSync = false
	if r.instance == notReached {
		r.worker = models.WorkerStatus{}
	}
	if c := r.state.Candidate; c != nil {
		r.queueReport(wire.Report{Version: c.Config.Version, Status: wire.Applying, ETag: c.ETag})
	}
}

// idle notes a worker that is well and should run nothing in particular.
func (r *reconciler) idle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.workerErr.note(r.log, nil, "", "Worker back")
	r.inSync = r.state.Desired() == nil
}

func (r *reconciler) setInSync(is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inSync = is
}

// want is what the worker should run next. An empty worker gets what is known
// to be good before what is new: /hit works at once, and again if the new one
// is refused.
func (p *Poller) want(nothing bool) *models.Release {
	p.mu.Lock()
	defer p.mu.Unlock()
	good, candidate := p.state.LastGood, p.state.Candidate
	if good != nil && good.Same(p.refusedLastGood) {
		good = nil
	}
	if candidate != nil && (!nothing || good == nil) {
		return candidate
	}
	return good
}

// asPushed returns what the worker is to run, and whether that is the last good one,
// which is not probed again: it was judged when it was new, and a target that is
// away for a moment must not leave a restarted worker with nothing.
func (p *Poller) asPushed(release *models.Release) (config wire.WorkerConfig, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	config, known = release.Push(), release.Same(p.state.LastGood)
	config.Probe = config.Probe && !known
	return config, known
}

// runs notes that the worker runs release: a candidate is the last good one
// now. It reports whether something else is wanted.
func (r *reconciler) runs(release *models.Release) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.workerErr.note(r.log, nil, "", "Worker back")
	r.worker.Version = new(release.Config.Version)
	if !release.Same(r.state.LastGood) {
		if r.state.Candidate == nil {
			return true // withdrawn while it was pushed
		}
		r.state.LastGood = release
		if release.Same(r.state.Candidate) {
			r.state.Candidate = nil
		}
		r.save()
		r.refusal = refusal{}
		r.log.WithFields(logrus.Fields{"agent": r.state.Identity.AgentID, "version": release.Config.Version}).Info("Configuration applied")
	}
	if r.refusal.version == release.Config.Version {
		r.refusal = refusal{} // the worker has changed its mind
	}
	if r.state.Candidate != nil {
		return true
	}
	r.inSync = true
	if r.due {
		r.due = false
		r.queueReport(wire.Report{Version: release.Config.Version, Status: wire.Applied, ETag: release.ETag})
	}
	return false
}

// refuse notes the worker's no. A candidate is dropped; the last good one stays,
// for it is all there is, but is not pushed again until the controller confirms
// it or the worker restarts.
func (r *reconciler) refuse(release *models.Release, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.workerErr.note(r.log, nil, "", "Worker back")
	r.refusal = refusal{version: release.Config.Version, message: message}
	r.log.WithFields(logrus.Fields{"version": release.Config.Version, "error": message}).Warn("Configuration refused")
	if release.Same(r.state.Candidate) {
		r.due = false
		r.state.Candidate = nil
		r.save()
	}
	if release.Same(r.state.LastGood) {
		r.refusedLastGood = release
		r.due = true // should it run after all, that is news
	}
	r.queueReport(wire.Report{Version: release.Config.Version, Status: wire.Failed, Error: message, ETag: release.ETag})
}
