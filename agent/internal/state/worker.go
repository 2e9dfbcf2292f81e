package state

import (
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/reconcile"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Observed handles what the worker says that it runs: ErrNothingRuns, or another error
// if it could not be asked. It returns what to push, nil for nothing; again reports
// whether to observe again immediately.
func (m *Machine) Observed(now time.Time, running wire.WorkerState, err error) (push *reconcile.Push, again bool) {
	empty := errors.Is(err, protocol.ErrNothingRuns)
	if err != nil && !empty {
		m.worker.Unreachable()
		m.workerLost(err)
		return nil, false
	}
	wanted := reconcile.Wanted{Candidate: m.stored.Candidate, LastGood: m.stored.LastGood}
	o := m.worker.Observed(now, wanted, running, empty)
	if o.Restarted {
		m.actions.WorkerRestarted = true
		m.log(logrus.InfoLevel, "Worker restarted", nil)
	}
	switch {
	case o.Runs != nil:
		return nil, m.runs(o.Runs)
	case o.Idle:
		m.workerBack()
	}
	return o.Push, false
}

// Pushed handles the outcome of a push: nil, a *protocol.Refused, or another error if the
// worker could not be asked. It reports whether to observe again immediately.
func (m *Machine) Pushed(now time.Time, push *reconcile.Push, err error) (again bool) {
	m.worker.Pushed(now, push, err)
	fields := logrus.Fields{"version": push.Release.Config.Version}
	var refused *protocol.Refused
	switch {
	case err == nil:
		m.log(logrus.InfoLevel, "Configuration pushed", fields)
		return m.runs(push.Release)
	case errors.As(err, &refused):
		fields["error"] = refused.Message
		m.workerBack()
		m.log(logrus.WarnLevel, "Configuration refused", fields)
		m.refused(push.Release, refused.Message)
		return true
	}
	m.workerLost(fmt.Errorf("push version %d: %w", push.Release.Config.Version, err))
	return false
}

func (m *Machine) workerBack() { m.note(&m.workerErr, nil, "", "Worker back") }

// workerLost records a worker that could not be asked, or pushed to.
func (m *Machine) workerLost(err error) {
	m.note(&m.workerErr, err, "Worker lost", "")
	if c := m.stored.Candidate; c != nil {
		m.queueReport(wire.Report{Version: c.Config.Version, Status: wire.Applying, ETag: c.ETag})
	}
}

// runs records that the worker runs release: a candidate becomes the last good one. It
// reports whether the worker should run something else.
func (m *Machine) runs(release *protocol.Release) (again bool) {
	w := &m.worker
	m.workerBack()
	w.Status.Version = new(release.Config.Version)
	if !release.Same(m.stored.LastGood) {
		if m.stored.Candidate == nil {
			return true // withdrawn during the push
		}
		m.stored.LastGood = release
		if release.Same(m.stored.Candidate) {
			m.stored.Candidate = nil
		}
		m.save()
		w.Refusal = reconcile.Refusal{}
		m.log(
			logrus.InfoLevel, "Configuration applied",
			logrus.Fields{"agent": m.stored.Identity.AgentID, "version": release.Config.Version},
		)
	}
	if w.Refusal.Version == release.Config.Version {
		w.Refusal = reconcile.Refusal{} // the worker accepts it now
	}
	if m.stored.Candidate != nil {
		return true
	}
	w.InSync = true
	if m.reports.appliedDue {
		m.reports.appliedDue = false
		m.queueReport(wire.Report{Version: release.Config.Version, Status: wire.Applied, ETag: release.ETag})
	}
	return false
}

// refused records that the worker refused a release. A candidate is dropped. The last
// good one is kept, because there is no other, but is not pushed again until the
// controller confirms it or the worker restarts.
func (m *Machine) refused(release *protocol.Release, message string) {
	if release.Same(m.stored.Candidate) {
		m.reports.appliedDue = false
		m.stored.Candidate = nil
		m.save()
	}
	if release.Same(m.stored.LastGood) {
		m.worker.RefusedLastGood = release
		m.reports.appliedDue = true // the controller must learn if it runs after all
	}
	m.queueReport(wire.Report{Version: release.Config.Version, Status: wire.Failed, Error: message, ETag: release.ETag})
}

// Assess compares the observations of the worker with what the controller was told. A
// difference that lasts is sent before the next poll is due. Call it after each round of
// observations and pushes.
func (m *Machine) Assess(now time.Time) {
	if m.worker.Assess(now, string(m.workerErr)) {
		m.actions.Interrupt = m.pace.Soon(now)
		m.actions.Follow = true
	}
}
