package state

import (
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/pace"
	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// reports is what the controller was told, and is still to be told.
type reports struct {
	pending      *wire.Report // to be sent; a newer one replaces it
	acknowledged wire.Report  // the last that the controller took
	offered      int64        // the version that the controller offered last
	appliedDue   bool         // that the desired version is applied was not reported yet
	notBefore    time.Time    // until then the whole fleet fetches

	retry   *backoff.Backoff
	retryAt time.Time // not before this is a failed report sent again
	floor   bool      // the controller asked for that
	woken   bool      // there was a reason to try sooner since the last report was sent
}

func newReports() reports {
	return reports{appliedDue: true, retry: backoff.New(pace.RetryFirst, pace.RetryLimit)}
}

// NextReport returns the report to send, as whom, and not before when. It is nil if
// there is none, or if the agent is not registered yet.
func (m *Machine) NextReport(now time.Time) (as protocol.Identity, report *wire.Report, notBefore time.Time) {
	r := &m.reports
	if r.pending == nil || m.stored.Identity.AgentToken == "" {
		return protocol.Identity{}, nil, time.Time{}
	}
	notBefore = r.notBefore
	if r.retryAt.After(notBefore) {
		notBefore = r.retryAt
	}
	if !now.Before(notBefore) {
		r.woken = false
	}
	return m.stored.Identity, new(*r.pending), notBefore
}

// Reported handles the controller's answer to a report: nil, ErrUnwanted, or another
// error, after which it is sent again.
func (m *Machine) Reported(now time.Time, report wire.Report, err error) {
	r := &m.reports
	fields := logrus.Fields{"version": report.Version, "status": report.Status}
	// After an applied release the next poll says what runs, so that only a refusal
	// needs the report to be taken.
	if r.offered == report.Version && (report.Status == wire.Applied || report.Status == wire.Failed && err == nil) {
		m.verdict()
	}
	if err != nil && !errors.Is(err, protocol.ErrUnwanted) {
		fields["error"] = err.Error()
		m.log(logrus.DebugLevel, "Report failed", fields)
		r.floor = protocol.Floor(err) > 0
		r.retryAt = now.Add(r.retry.Next(protocol.Floor(err)))
		if r.woken && !r.floor {
			r.retryAt = time.Time{}
		}
		return
	}
	r.acknowledged = report
	if r.pending != nil && *r.pending == report {
		r.pending = nil
	}
	if err != nil {
		fields["error"] = err.Error()
		m.log(logrus.WarnLevel, "Report unwanted", fields)
	} else {
		m.log(logrus.DebugLevel, "Reported", fields)
	}
	r.retry.Reset()
	r.retryAt, r.floor = time.Time{}, false
	m.following.reportTaken = true
	m.actions.Follow = true
}

// queueReport queues an outcome, unless the last report says the same.
func (m *Machine) queueReport(report wire.Report) {
	r := &m.reports
	last := r.acknowledged
	if r.pending != nil {
		last = *r.pending
	}
	if last == report {
		if report.Status == wire.Applied && report.Version == r.offered {
			m.verdict() // there is nothing to report
		}
		return
	}
	r.pending = &report
	m.wakeReport()
}

// reportAgain queues what was reported last: a controller that did not know the token
// may not know the outcome.
func (m *Machine) reportAgain() {
	r := &m.reports
	if r.pending == nil && r.acknowledged.Version > 0 {
		r.pending = new(r.acknowledged)
	}
	m.wakeReport()
}

// wakeReport sends a report that is pending sooner than its back-off, unless the
// controller asked for the wait.
func (m *Machine) wakeReport() {
	r := &m.reports
	r.woken = true
	if !r.floor {
		r.retryAt = time.Time{}
	}
	m.actions.Report = true
}

// verdict records that the worker has decided on what was fetched last, and that the
// controller will not offer it again.
func (m *Machine) verdict() {
	m.following.verdict = true
	m.actions.Follow = true
}
