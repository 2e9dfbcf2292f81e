package state

import (
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/pace"
	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/reconcile"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

// Step is what the follow loop does next.
type Step int

// The steps of the follow loop.
const (
	Rest     Step = iota // wait until the time that Next names, or Actions.Follow
	Identify             // make an id and a secret, and call Identified
	Register             // call Registering, send it, and call Registered
	Fetch                // call Querying, send it, and call Fetched
)

// phase is where the follow loop is between two rests.
type phase int

const (
	resting phase = iota
	registering
	fetching
	renewing // the registration, if it is out of date
)

// following is the progress of the follow loop, and what it knows of the controller.
type following struct {
	phase        phase
	rest         pace.Rest
	registerWith credentials // before the next poll
	registered   bool        // the controller has accepted the token since the start, and not refused it since
	refused      error       // why the registration before this poll was refused
	lastAnswer   time.Time   // to a poll

	renewAt    time.Time // not before this is a renewal tried again
	renewal    *backoff.Backoff
	renewalErr fault

	began       time.Time // when the poll began
	hint        notify.Hint
	lastFetched *protocol.Release
	verdict     bool // the worker has decided on lastFetched, and the controller knows
	reportTaken bool // a report was taken since the rest began
}

func newFollowing() following {
	return following{registerWith: sharedPassword, renewal: backoff.New(pace.RetryFirst, pace.RetryLimit)}
}

// Next returns the next step, and for Rest how long it lasts.
func (m *Machine) Next(now time.Time) (step Step, until time.Time) {
	f := &m.following
	if f.phase == renewing && (now.Before(f.renewAt) || m.identified() && m.registrationCurrent()) {
		f.phase = resting
	}
	if f.phase == resting {
		until = m.pace.RestUntil(f.rest)
		ended := f.rest.OnVerdict && f.verdict || f.rest.OnReport && f.reportTaken
		if !ended && now.Before(until) {
			return Rest, until
		}
		f.phase, f.refused = fetching, nil
		if f.registerWith != nothing {
			f.phase = registering
		}
	}
	switch {
	case f.phase == fetching:
		return Fetch, time.Time{}
	case !m.identified():
		return Identify, time.Time{}
	}
	return Register, time.Time{}
}

// failed handles a request without an answer.
func (m *Machine) failed(now time.Time, err error) {
	m.note(&m.controllerErr, err, "Controller lost", "Controller back")
	m.restFor(m.pace.Failed(now, err))
}

// restFor begins a rest. Only a report that is taken from now on can end it.
func (m *Machine) restFor(rest pace.Rest) {
	m.following.phase, m.following.rest, m.following.reportTaken = resting, rest, false
}

// Querying returns the query to send. If-None-Match names what the worker accepted
// last, not what was fetched last: otherwise the answer after a failed push would be
// 304 forever.
func (m *Machine) Querying(now time.Time) (protocol.Identity, protocol.Query) {
	m.following.began, m.following.hint = now, m.pace.TakeHint()
	q := protocol.Query{
		MayWait: m.config.Transport == wire.LongPoll, Wait: m.pace.Wait(now), WorkerError: m.worker.Reported,
	}
	q.Transport, q.PushError = m.pace.Transport()
	if good := m.stored.LastGood; good != nil {
		q.ETag = good.ETag
		if !good.Same(m.worker.RefusedLastGood) {
			q.Applied = &good.Config
		}
	}
	return m.stored.Identity, q
}

// Stale reports whether a query says something else of the worker than is known now, so
// that a long poll should end.
func (m *Machine) Stale(q protocol.Query) bool {
	return (q.WorkerError == "") != (m.worker.Reported == "")
}

// Interrupted handles a long poll that was ended because it was Stale.
func (m *Machine) Interrupted() { m.restFor(pace.Rest{}) }

// Fetched handles the answer to a query. It returns the error that the answer amounts
// to, which is err or an ErrOlder.
func (m *Machine) Fetched(now time.Time, q protocol.Query, answer protocol.Answer, err error) error {
	f, took := &m.following, now.Sub(m.following.began)
	if err == nil {
		err = answer.Older(q, m.stored.LastGood)
	}
	m.intervals(q, answer, err)
	switch {
	case err == nil:
		m.offered(now, answer)
	case errors.Is(err, protocol.ErrNotModified):
		m.confirmed()
	case errors.Is(err, protocol.ErrNothingPublished):
		m.log(logrus.DebugLevel, "Nothing published", nil)
	case errors.Is(err, protocol.ErrInvalidConfig), errors.Is(err, protocol.ErrOlder):
		// The controller has accepted the token, and polling it more often would not
		// change what it says.
		f.registerWith = nothing
		m.answered(now)
		m.note(&m.controllerErr, err, "Configuration unusable", "Controller back")
		m.restFor(m.pace.AfterInterval(now))
		return err
	case errors.Is(err, protocol.ErrUnauthorized):
		m.tokenRefused(now, err)
		return err
	case pace.IsCut(q.Wait, err, took):
		rest := m.pace.Cut(now, err, took)
		m.log(logrus.DebugLevel, "Wait cut", logrus.Fields{
			"after": took.Round(time.Second).String(), "wait": m.pace.NextWait().String(), "error": err.Error(),
		})
		if !errors.Is(err, protocol.ErrCut) {
			m.note(&m.controllerErr, err, "Controller lost", "Controller back")
		}
		m.restFor(rest)
		return err
	default:
		m.failed(now, err)
		return err
	}
	f.registerWith, f.phase = nothing, renewing
	m.answered(now)
	m.note(&m.controllerErr, f.refused, "Registration refused", "Controller back")
	isNew := err == nil && !answer.Unchanged(q)
	m.pace.HintResult(now, f.hint, isNew)
	a := pace.Answer{Took: took, Wait: q.Wait, CanWait: answer.CanWait, Waited: answer.Waited, New: isNew}
	if isNew {
		a.RefusedAgain = answer.Release.Same(f.lastFetched) && m.worker.Refusal.Version == answer.Release.Config.Version
		a.Decided = m.reports.pending == nil && q.Outdated(m.stored.LastGood)
		f.lastFetched = answer.Release
	}
	f.rest = m.pace.Answered(now, a)
	return err
}

// intervals takes over the intervals and the fleet that an answer names.
func (m *Machine) intervals(q protocol.Query, answer protocol.Answer, err error) {
	if err == nil || errors.Is(err, protocol.ErrNotModified) || errors.Is(err, protocol.ErrNothingPublished) {
		ownFleet := m.config.Fleet == "" || m.config.Fleet == answer.Fleet
		m.pace.Announced(q.Transport, answer.ResyncInterval, ownFleet)
		if answer.Fleet != m.stored.Fleet {
			m.stored.Fleet = answer.Fleet
			m.save()
			m.actions.Subscribe = m.config.Fleet == ""
		}
	}
	if m.pace.SetInterval(answer.PollInterval) {
		m.log(logrus.InfoLevel, "Poll interval changed", logrus.Fields{"interval": answer.PollInterval.String()})
	}
}

// answered records that the controller answered a poll: it would take a report too.
func (m *Machine) answered(now time.Time) {
	m.following.registered = true
	m.following.lastAnswer = now.UTC()
	m.log(logrus.DebugLevel, "Polled", nil)
	m.wakeReport()
}

// offered handles the release that the agent should run. It may be older than what runs,
// if the controller named a reason. Reports wait until the fleet has fetched it.
func (m *Machine) offered(now time.Time, answer protocol.Answer) {
	release := answer.Release.WithETagOf(m.stored.LastGood, m.stored.Candidate)
	m.following.verdict = false
	m.reports.notBefore = now.Add(answer.Spread)
	m.reports.offered = release.Config.Version
	m.worker.RefusedLastGood = nil
	switch {
	case release.Same(m.stored.LastGood):
		m.withdraw()
		m.worker.Refusal = reconcile.Refusal{}
	case release.Same(m.stored.Candidate):
	default:
		fields := logrus.Fields{"version": release.Config.Version} // not the URL, which may hold a key
		m.log(logrus.InfoLevel, "Configuration fetched", fields)
		if release.ETag == "" {
			m.log(logrus.WarnLevel, "Configuration without usable ETag", fields)
		}
		m.stored.Candidate = release
		m.save()
		m.reports.appliedDue = true
		if m.reports.acknowledged.Status == wire.Failed {
			m.reports.acknowledged = wire.Report{} // it is tried again, so the outcome is reported again
		}
		m.actions.Reconcile = true
	}
}

// confirmed handles a 304: the agent should run what the query named, and no candidate
// that was offered before.
func (m *Machine) confirmed() {
	m.worker.RefusedLastGood = nil
	m.withdraw()
}

// withdraw drops a candidate that the controller does not offer any more.
func (m *Machine) withdraw() {
	if m.stored.Candidate == nil {
		return
	}
	m.log(logrus.InfoLevel, "Configuration withdrawn", logrus.Fields{"version": m.stored.Candidate.Config.Version})
	m.stored.Candidate = nil
	m.save()
}
