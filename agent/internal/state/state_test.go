package state

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/pace"
	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

var (
	errOutage = errors.New("connection refused")
	start     = time.Unix(1_700_000_000, 0).UTC()
)

func release(v int64) *protocol.Release {
	return &protocol.Release{
		ETag: fmt.Sprintf(`"v%d"`, v), FetchedAt: start,
		Config: wire.Config{
			Version: v, Data: wire.Data{URL: fmt.Sprintf("http://target/%d", v)}, PollIntervalSeconds: 30,
		},
	}
}

// runs is a worker that runs a version.
func runs(v int64) wire.WorkerState {
	return wire.WorkerState{URL: release(v).Config.Data.URL, Version: v, Instance: "a"}
}

// registered is the state of an agent that has registered as host with a secret.
func registered() Stored {
	identity := protocol.Identity{AgentID: "agent-7", AgentToken: "token-0", AgentSecret: strings.Repeat("s", 43)}
	self := wire.RegisterRequest{Hostname: "host", AgentID: identity.AgentID, AgentSecret: identity.AgentSecret}
	return Stored{Identity: identity, Registered: protocol.Digest(self), LastGood: release(7)}
}

// machine is one that was loaded from a cache.
func machine(transport wire.Transport, stored Stored) *Machine {
	m := New(Config{Self: wire.RegisterRequest{Hostname: "host"}, Transport: transport})
	m.Loaded(stored, nil)
	m.Actions()
	return m
}

// step fails the test unless the next step is want.
func step(t *testing.T, m *Machine, now time.Time, want Step) {
	t.Helper()
	if got, until := m.Next(now); got != want {
		t.Fatalf("the next step: got %d until %s, want %d", got, until, want)
	}
}

// fetch sends a query at now, and handles its answer.
func fetch(m *Machine, now time.Time, answer protocol.Answer, err error) error {
	_, q := m.Querying(now)
	return m.Fetched(now, q, answer, err)
}

// offer is the answer with a release.
func offer(v int64) protocol.Answer {
	return protocol.Answer{Release: release(v), CanWait: true, PollInterval: 30 * time.Second}
}

// logged counts the lines of a level and a message.
func logged(lines []Line, level logrus.Level, message string) (n int) {
	for _, line := range lines {
		if line.Level == level && line.Message == message {
			n++
		}
	}
	return n
}

func TestStored_Printed_HidesToken(t *testing.T) {
	stored := Stored{Identity: protocol.Identity{AgentID: "agent-7", AgentToken: "secret"}}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, stored); strings.Contains(text, "secret") {
			t.Errorf("%s is %q", format, text)
		}
	}
}

func TestStatus_BeforeAnything_ZeroValues(t *testing.T) {
	want := protocol.Status{
		Transport: "poll", Push: protocol.PushStatus{Transport: "poll"}, PollIntervalSeconds: 30,
		Cache: protocol.CacheStatus{Writable: true},
	}
	if diff := cmp.Diff(want, New(Config{Transport: wire.Polling}).Status(start)); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestLoaded_Cache_RestoresIdentityAndRelease(t *testing.T) {
	stored := registered()
	stored.LastGood.Config.PollIntervalSeconds = 3600
	m := machine(wire.Polling, stored)
	if got := m.Status(start); m.AgentID() != "agent-7" || got.PollIntervalSeconds != 3600 || *got.AppliedVersion != 7 {
		t.Errorf("got the id %q and the status %+v", m.AgentID(), got)
	}
	if _, self := m.Registering(); self.AgentSecret != stored.Identity.AgentSecret {
		t.Error("it registers without the secret that the cache holds")
	}
	step(t, m, start, Fetch)
}

// A new agent makes its id and its secret, saves and registers them, and then polls.
func TestNext_NewAgent_RegistersAndPolls(t *testing.T) {
	m := machine(wire.Polling, Stored{})
	step(t, m, start, Identify)
	m.Identified("agent-1", "secret")
	if actions := m.Actions(); !actions.Save {
		t.Error("the id and the secret are not saved")
	}
	step(t, m, start, Register)
	if as, self := m.Registering(); as.AgentToken != "" || self.AgentID != "agent-1" || self.AgentSecret != "" {
		t.Errorf("registers %+v, want the id alone before the secret is saved", self)
	}
	stored, _ := m.Stored()
	m.Saved(stored, nil)
	_, self := m.Registering()
	if self.AgentSecret != "secret" {
		t.Errorf("registers %+v, want the secret once it is saved", self)
	}
	if m.AgentID() != "" {
		t.Errorf("the id before the registration: got %q, want none", m.AgentID())
	}
	m.Registered(
		start, self, protocol.Registration{Identity: protocol.Identity{AgentID: "agent-1", AgentToken: "token-1"}}, nil,
	)
	if stored, _ := m.Stored(); stored.Identity.AgentToken != "token-1" || stored.Identity.AgentSecret != "secret" ||
		m.AgentID() != "agent-1" {
		t.Errorf("stored %#v, want the token beside the secret", stored.Identity)
	}
	step(t, m, start, Fetch)
	_ = fetch(m, start, protocol.Answer{}, protocol.ErrNothingPublished)
	got, until := m.Next(start)
	if wait := until.Sub(start); got != Rest || wait < 27*time.Second || wait > 33*time.Second {
		t.Errorf("after a poll: got step %d for %s, want a rest of about 30s", got, wait)
	}
	step(t, m, until, Fetch)
}

// What an agent does next after its credentials were refused.
func TestNext_CredentialsRefused_RegistersAgain(t *testing.T) {
	shared, own := protocol.Identity{}, registered().Identity
	for name, row := range map[string]struct {
		poll          error
		as            protocol.Identity
		register      []error // in order
		registrations int
		want          Step
	}{
		"token refused":       {protocol.ErrUnauthorized, shared, []error{nil}, 1, Fetch},
		"certificate refused": {protocol.ErrForbidden, own, []error{nil}, 1, Fetch},
		"certificate and token refused": {
			protocol.ErrForbidden, own, []error{protocol.ErrUnauthorized, nil}, 2, Fetch,
		},
		"token and password refused": {
			protocol.ErrUnauthorized, shared, []error{protocol.ErrUnauthorized}, 1, Fetch,
		},
		"certificate refused both times": {protocol.ErrForbidden, own, []error{protocol.ErrForbidden}, 1, Fetch},
		"token refused, then an outage":  {protocol.ErrUnauthorized, shared, []error{errOutage}, 1, Rest},
	} {
		t.Run(name, func(t *testing.T) {
			m := machine(wire.Polling, registered())
			step(t, m, start, Fetch)
			_ = fetch(m, start, protocol.Answer{}, row.poll)
			if m.Status(start).Registered {
				t.Error("the status says registered")
			}
			for i, err := range row.register {
				step(t, m, start, Register)
				as, self := m.Registering()
				want := row.as
				if i > 0 {
					want = shared
				}
				if as != want {
					t.Errorf("registration %d: with the token %q, want %q", i+1, as.AgentToken, want.AgentToken)
				}
				m.Registered(
					start, self,
					protocol.Registration{Identity: protocol.Identity{AgentID: "agent-7", AgentToken: "token-1"}}, err,
				)
			}
			step(t, m, start, row.want)
		})
	}
}

// A registration that is out of date is renewed after a poll, and delays nothing.
func TestNext_RegistrationOutdated_RenewedAfterPoll(t *testing.T) {
	stored := registered()
	stored.Registered = "of another hostname"
	m := machine(wire.Polling, stored)
	step(t, m, start, Fetch)
	_ = fetch(m, start, protocol.Answer{}, protocol.ErrNotModified)
	step(t, m, start, Register)
	as, self := m.Registering()
	if as.AgentToken != "token-0" {
		t.Errorf("registers with the token %q, want its own", as.AgentToken)
	}
	m.Registered(start, self, protocol.Registration{}, &protocol.RetryLater{After: time.Minute, Err: errOutage})
	if n := logged(m.Actions().Log, logrus.WarnLevel, "Registration not renewed"); n != 1 ||
		m.Status(start).LastError != "" {
		t.Errorf("%d warnings and the error %q, want one warning and no error", n, m.Status(start).LastError)
	}
	_, now := m.Next(start)
	step(t, m, now, Fetch)
	_ = fetch(m, now, protocol.Answer{}, protocol.ErrNotModified)
	step(t, m, now, Rest) // a minute is not over
	now = now.Add(2 * time.Minute)
	step(t, m, now, Fetch)
	_ = fetch(m, now, protocol.Answer{}, protocol.ErrNotModified)
	step(t, m, now, Register)
	m.Registered(now, self, protocol.Registration{Identity: stored.Identity}, nil)
	step(t, m, now, Rest)
	if stored, _ := m.Stored(); stored.Registered != protocol.Digest(self) {
		t.Error("what was registered is not stored")
	}
}

// Queries name what the worker runs. While it refuses even that, they name nothing.
func TestQuerying_Applied_UnlessRefused(t *testing.T) {
	m := machine(wire.Polling, Stored{})
	if _, q := m.Querying(start); q.Applied != nil {
		t.Errorf("before anything runs: got %+v", q.Applied)
	}
	m = machine(wire.Polling, registered())
	if _, q := m.Querying(start); q.Applied == nil || *q.Applied != release(7).Config {
		t.Errorf("got %+v, want what runs", q.Applied)
	}
	push, _ := m.Observed(start, wire.WorkerState{}, protocol.ErrNothingRuns)
	m.Pushed(start, push, &protocol.Refused{Message: "no"})
	if _, q := m.Querying(start); q.Applied != nil || q.ETag != release(7).ETag {
		t.Errorf("while the worker refuses it: got %+v", q)
	}
}

// If the worker runs nothing, no version is older than what it runs.
func TestFetched_OlderVersion_NeedsAReason(t *testing.T) {
	older, because := offer(1), offer(1)
	because.OlderBecause = wire.OlderResume
	for name, row := range map[string]struct {
		answer  protocol.Answer
		refused bool // the worker refuses the last good one
		want    error
	}{
		"version 7 runs":           {older, false, protocol.ErrOlder},
		"version 7 runs, a reason": {because, false, nil},
		"nothing runs":             {older, true, nil},
	} {
		m := machine(wire.Polling, registered())
		if row.refused {
			push, _ := m.Observed(start, wire.WorkerState{}, protocol.ErrNothingRuns)
			m.Pushed(start, push, &protocol.Refused{Message: "no"})
		}
		if err := fetch(m, start, row.answer, nil); !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %v", name, err, row.want)
		}
		if stored, _ := m.Stored(); (stored.Candidate != nil) != (row.want == nil) {
			t.Errorf("%s: the candidate is %+v", name, stored.Candidate)
		}
	}
}

// A new release becomes the candidate, which is saved and pushed. A 304 withdraws it.
func TestFetched_Release_BecomesCandidate(t *testing.T) {
	m := machine(wire.Polling, registered())
	m.reports.acknowledged = wire.Report{Version: 8, Status: wire.Failed}
	_ = fetch(m, start, offer(8), nil)
	stored, _ := m.Stored()
	if actions := m.Actions(); !actions.Save || !actions.Reconcile || stored.Candidate == nil ||
		logged(actions.Log, logrus.InfoLevel, "Configuration fetched") != 1 {
		t.Errorf("got %+v, want it saved, logged and pushed", actions)
	}
	if m.reports.acknowledged != (wire.Report{}) {
		t.Error("if it is refused again, that is not reported again")
	}
	_ = fetch(m, start, offer(8), nil)
	if actions := m.Actions(); actions.Save || actions.Reconcile {
		t.Errorf("the same again: got %+v, want nothing to do", actions)
	}
	_ = fetch(m, start, protocol.Answer{}, protocol.ErrNotModified)
	stored, _ = m.Stored()
	if actions := m.Actions(); !actions.Save || stored.Candidate != nil ||
		logged(actions.Log, logrus.InfoLevel, "Configuration withdrawn") != 1 {
		t.Errorf("got %+v and the candidate %+v, want it withdrawn", actions, stored.Candidate)
	}
	_ = fetch(m, start, offer(8), nil)
	_ = fetch(m, start, offer(7), nil)
	if stored, _ := m.Stored(); stored.Candidate != nil {
		t.Errorf("after the offer of what runs: got the candidate %+v, want none", stored.Candidate)
	}
	bare := offer(9)
	bare.Release.ETag = ""
	_ = fetch(m, start, bare, nil)
	if n := logged(m.Actions().Log, logrus.WarnLevel, "Configuration without usable ETag"); n != 1 {
		t.Errorf("%d warnings of a missing ETag, want 1", n)
	}
}

// After the token was refused, the last report is sent again, because the controller may not
// know the outcome.
func TestRegistered_TokenRefused_ReportsAgain(t *testing.T) {
	m := machine(wire.Polling, registered())
	report := wire.Report{Version: 7, Status: wire.Applied}
	m.Reported(start, report, nil)
	_ = fetch(m, start, protocol.Answer{}, protocol.ErrUnauthorized)
	step(t, m, start, Register)
	_, self := m.Registering()
	answer := protocol.Registration{
		Identity: protocol.Identity{AgentID: "agent-7", AgentToken: "token-1"}, PollInterval: time.Hour,
	}
	m.Registered(start, self, answer, nil)
	if _, got, _ := m.NextReport(start); got == nil || *got != report || !m.Actions().Report {
		t.Errorf("got the report %+v, want %+v", got, report)
	}
	if status := m.Status(start); !status.Registered || status.PollIntervalSeconds != 3600 {
		t.Errorf("the status is %+v, want it registered, with an interval of an hour", status)
	}
}

// After an answer that cannot be used, the agent polls on as usual and shows the error.
func TestFetched_Unusable_PollsOn(t *testing.T) {
	for name, row := range map[string]struct {
		answer protocol.Answer
		err    error
		want   error
	}{
		"invalid": {protocol.Answer{PollInterval: time.Minute}, protocol.ErrInvalidConfig, protocol.ErrInvalidConfig},
		"older":   {offer(1), nil, protocol.ErrOlder},
	} {
		m := machine(wire.Polling, registered())
		m.following.registerWith, m.following.refused = sharedPassword, errOutage
		if err := fetch(m, start, row.answer, row.err); !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %v", name, err, row.want)
		}
		status, actions := m.Status(start), m.Actions()
		if !status.Registered || status.LastFetch == nil || !strings.Contains(status.LastError, row.want.Error()) ||
			!actions.Report {
			t.Errorf("%s: the status is %+v", name, status)
		}
		if n := logged(actions.Log, logrus.WarnLevel, "Configuration unusable"); n != 1 {
			t.Errorf("%s: %d warnings, want 1", name, n)
		}
		step, until := m.Next(start)
		if wait := until.Sub(start); step != Rest || wait < 27*time.Second || wait > 66*time.Second {
			t.Errorf("%s: got step %d for %s, want a rest of an interval", name, step, wait)
		}
		if got, _ := m.Next(until); got != Fetch {
			t.Errorf("%s: then got step %d, want a fetch without a registration", name, got)
		}
		if fetch(m, until, protocol.Answer{}, protocol.ErrNotModified); m.Status(until).LastError != "" {
			t.Errorf("%s: after a 304 the error is %q", name, m.Status(until).LastError)
		}
	}
}

// An outage is logged once, and so is its end.
func TestFetched_Outage_LoggedOnce(t *testing.T) {
	m := machine(wire.LongPoll, registered())
	for range 3 {
		_ = fetch(m, start, protocol.Answer{}, errOutage)
	}
	lines := m.Actions().Log
	if n := logged(lines, logrus.WarnLevel, "Controller lost"); n != 1 ||
		m.Status(start).ControllerError != errOutage.Error() {
		t.Errorf("%d warnings and the error %q, want one", n, m.Status(start).ControllerError)
	}
	_ = fetch(m, start, protocol.Answer{CanWait: true}, protocol.ErrNotModified)
	if n := logged(m.Actions().Log, logrus.InfoLevel, "Controller back"); n != 1 {
		t.Errorf("%d lines that it is back, want 1", n)
	}
	_ = fetch(m, start, protocol.Answer{}, protocol.ErrCut) // of a long poll: not an outage
	if got := m.Status(start).ControllerError; got != "" {
		t.Errorf("after a cut the error is %q, want none", got)
	}
	_ = fetch(m, start, protocol.Answer{CanWait: true}, protocol.ErrNotModified)
	_ = fetch(m, start, protocol.Answer{}, errOutage) // of a long poll
	if got := m.Status(start).ControllerError; got != errOutage.Error() {
		t.Errorf("after a broken long poll the error is %q, want %q", got, errOutage)
	}
}

// What the worker refused is pushed again once the controller confirms it, or offers it.
func TestFetched_RefusedLastGood_PushedWhenConfirmed(t *testing.T) {
	for name, answer := range map[string]protocol.Answer{"304": {}, "200": offer(7)} {
		m := machine(wire.Polling, registered())
		push, _ := m.Observed(start, wire.WorkerState{}, protocol.ErrNothingRuns)
		m.Pushed(start, push, &protocol.Refused{Message: "no"})
		later := start.Add(time.Minute)
		if push, _ := m.Observed(later, wire.WorkerState{}, protocol.ErrNothingRuns); push != nil {
			t.Errorf("%s: pushed again before the controller confirms it", name)
		}
		err := error(nil)
		if answer.Release == nil {
			err = protocol.ErrNotModified
		}
		_ = fetch(m, later, answer, err)
		if push, _ := m.Observed(later, wire.WorkerState{}, protocol.ErrNothingRuns); push == nil {
			t.Errorf("%s: not pushed again", name)
		}
	}
}

// An agent that follows a hint in vain ignores the same hint.
func TestFetched_UnfoundedHint_Ignored(t *testing.T) {
	m := machine(wire.NATS, registered())
	hint := notify.Hint{Version: 9}
	m.Hinted(start, hint)
	_ = fetch(m, start, protocol.Answer{}, protocol.ErrNotModified)
	if got := m.Hinted(start, hint); got != pace.HintIgnored {
		t.Errorf("got %s, want %s", got, pace.HintIgnored)
	}
}

// A refused release that is offered again rests for an interval, a new one until the verdict.
func TestFetched_LongPollRefusedRelease_RestsForAnInterval(t *testing.T) {
	m := machine(wire.LongPoll, registered())
	_ = fetch(m, start, offer(8), nil)
	push, _ := m.Observed(start, runs(7), nil)
	m.Pushed(start, push, &protocol.Refused{Message: "no"})
	_ = fetch(m, start, offer(8), nil)
	m.verdict()
	step(t, m, start, Rest)
	_ = fetch(m, start, offer(9), nil)
	m.verdict()
	step(t, m, start, Fetch)
}

// If the worker runs a release by the time that its answer arrives, the next long poll
// follows immediately.
func TestFetched_LongPollReleaseRuns_PollsImmediately(t *testing.T) {
	m := machine(
		wire.LongPoll,
		Stored{Identity: registered().Identity, Registered: registered().Registered, Candidate: release(8)},
	)
	_, q := m.Querying(start)
	m.Observed(start, runs(8), nil)
	m.Reported(start, wire.Report{Version: 8, Status: wire.Applied, ETag: release(8).ETag}, nil)
	_ = m.Fetched(start, q, offer(8), nil)
	step(t, m, start, Fetch)
}

// A change that came after the query was made ends the long poll too.
func TestStale_ChangedSinceQuery(t *testing.T) {
	for _, row := range []struct {
		told, reported string
		want           bool
	}{{"", "", false}, {"", "away", true}, {"away", "away", false}, {"away", "", true}, {"away", "hangs", false}} {
		m := machine(wire.LongPoll, registered())
		m.worker.Reported = row.reported
		if got := m.Stale(protocol.Query{WorkerError: row.told}); got != row.want {
			t.Errorf("told %q, now %q: got %v, want %v", row.told, row.reported, got, row.want)
		}
	}
}

// A worker that stays away interrupts a long poll, and brings other polls forward.
func TestAssess_WorkerAway_ReportedSoon(t *testing.T) {
	for _, transport := range []wire.Transport{wire.LongPoll, wire.Polling} {
		m := machine(transport, registered())
		_ = fetch(m, start, protocol.Answer{CanWait: true}, protocol.ErrNotModified)
		away := start.Add(time.Second)
		m.Observed(away, wire.WorkerState{}, errOutage)
		m.Assess(away)
		m.Actions()
		now := away.Add(5 * time.Second)
		m.Assess(now)
		actions := m.Actions()
		if at := actions.Interrupt; (transport == wire.LongPoll) != (!at.Before(now) && !at.After(
			now.Add(15*time.Second),
		)) {
			t.Errorf("%s: interrupts at %s", transport, at)
		}
		if _, until := m.Next(now); transport == wire.Polling && until.After(now.Add(15*time.Second)) ||
			!actions.Follow {
			t.Errorf("%s: the next poll is in %s", transport, until.Sub(now))
		}
		if _, q := m.Querying(now); q.WorkerError != errOutage.Error() {
			t.Errorf("%s: the query says %q, want %q", transport, q.WorkerError, errOutage)
		}
	}
}

func TestInterrupted_LongPoll_PollsImmediately(t *testing.T) {
	m := machine(wire.LongPoll, registered())
	step(t, m, start, Fetch)
	m.Querying(start)
	m.Interrupted()
	step(t, m, start, Fetch)
}

// A verdict ends the rest after a release if it is on that release, and if the controller
// will not offer it again.
func TestReported_Verdicts_EndTheRest(t *testing.T) {
	for _, row := range []struct {
		report wire.Report
		err    error
		want   bool
	}{
		{wire.Report{Version: 8, Status: wire.Applied}, nil, true},
		{wire.Report{Version: 8, Status: wire.Applied}, errOutage, true}, // the next poll says so
		{wire.Report{Version: 8, Status: wire.Failed}, nil, true},
		{wire.Report{Version: 8, Status: wire.Failed}, errOutage, false},
		{wire.Report{Version: 8, Status: wire.Applying}, nil, false},
		{wire.Report{Version: 1, Status: wire.Applied}, nil, false},
	} {
		m := machine(wire.LongPoll, registered())
		_ = fetch(m, start, offer(8), nil)
		step(t, m, start, Rest)
		m.Reported(start, row.report, row.err)
		if got, _ := m.Next(start); (got == Fetch) != row.want || !m.Actions().Follow && row.want {
			t.Errorf("%+v, %v: got %v, want %v", row.report, row.err, got == Fetch, row.want)
		}

		m = machine(wire.LongPoll, registered())
		_ = fetch(m, start, offer(8), nil)
		m.reports.acknowledged = row.report // so it is not reported again
		m.queueReport(row.report)
		want := row.report == (wire.Report{Version: 8, Status: wire.Applied})
		if got, _ := m.Next(start); (got == Fetch) != want {
			t.Errorf("%+v, acknowledged before: a verdict: %v, want %v", row.report, got == Fetch, want)
		}
	}
}

// A long poll that is rejected immediately was not cut. The next poll asks for no wait.
func TestFetched_LongPollRejectedImmediately_IsNotCut(t *testing.T) {
	for _, by := range []error{protocol.ErrProxy, errOutage} {
		m := machine(wire.LongPoll, registered())
		_ = fetch(m, start, protocol.Answer{CanWait: true}, protocol.ErrNotModified)
		wait := m.pace.NextWait()
		_ = fetch(m, start, protocol.Answer{}, &protocol.RetryLater{After: time.Minute, Err: by})
		if _, q := m.Querying(start); m.pace.NextWait() != wait || q.Wait != 0 {
			t.Errorf("%v: got waits of %s and then %s, want none and then %s", by, q.Wait, m.pace.NextWait(), wait)
		}
		if _, until := m.Next(start); until.Before(start.Add(time.Minute)) {
			t.Errorf("%v: rests until %s, want a minute", by, until)
		}
	}
}

// The verdict on an earlier version does not end the rest after this one.
func TestFetched_LongPoll_EarlierVerdictForgotten(t *testing.T) {
	m := machine(wire.LongPoll, registered())
	m.reports.offered = 7
	m.Reported(start, wire.Report{Version: 7, Status: wire.Applied}, nil)
	_ = fetch(m, start, offer(8), nil)
	step(t, m, start, Rest)
}

// A hint is followed unless it names what the agent has, or an older version.
func TestHinted_Versions_Outcome(t *testing.T) {
	two, four := release(2), release(4)
	for _, row := range []struct {
		candidate *protocol.Release
		version   int64
		etag      string
		want      pace.Outcome
	}{
		{nil, 1, "", pace.HintOld}, {nil, 2, two.ETag, pace.HintOld}, {nil, 2, "another", pace.HintFollowed},
		{nil, 3, "", pace.HintFollowed}, {four, 3, "", pace.HintOld}, {four, 4, four.ETag, pace.HintOld},
		{four, 5, "", pace.HintFollowed},
	} {
		m := machine(wire.NATS, Stored{LastGood: two, Candidate: row.candidate})
		if got := m.Hinted(start, notify.Hint{Version: row.version, ETag: row.etag}); got != row.want {
			t.Errorf(
				"version %d %s, a candidate %v: got %s, want %s", row.version, row.etag, row.candidate != nil, got,
				row.want,
			)
		}
		if got := m.Actions().Follow; got != (row.want == pace.HintFollowed) {
			t.Errorf(
				"version %d %s, a candidate %v: wakes the follow loop: %v", row.version, row.etag, row.candidate != nil,
				got,
			)
		}
	}
}

// An applied version becomes the last good one, and a refused one is dropped.
func TestPushed_Outcomes_Stored(t *testing.T) {
	for name, row := range map[string]struct {
		err                 error
		candidate, lastGood int64
		report              wire.Report
		again               bool
		lastError           string
	}{
		"applied": {nil, 0, 8, wire.Report{Version: 8, Status: wire.Applied, ETag: `"v8"`}, false, ""},
		"refused": {
			&protocol.Refused{Message: "no"}, 0, 7,
			wire.Report{Version: 8, Status: wire.Failed, Error: "no", ETag: `"v8"`}, true,
			"the worker refused version 8: no",
		},
		"failed": {
			errOutage, 8, 7, wire.Report{Version: 8, Status: wire.Applying, ETag: `"v8"`}, false,
			"push version 8: connection refused",
		},
	} {
		m := machine(wire.Polling, registered())
		_ = fetch(m, start, offer(8), nil)
		push, _ := m.Observed(start, runs(7), nil)
		if push == nil || !push.New || push.Config.Version != 8 {
			t.Fatalf("%s: pushes %+v, want version 8, which is new", name, push)
		}
		m.Actions()
		again := m.Pushed(start, push, row.err)
		stored, _ := m.Stored()
		var candidate int64
		if stored.Candidate != nil {
			candidate = stored.Candidate.Config.Version
		}
		_, report, _ := m.NextReport(start)
		if candidate != row.candidate || stored.LastGood.Config.Version != row.lastGood || again != row.again {
			t.Errorf("%s: stored %+v, again %v", name, stored, again)
		}
		if report == nil || *report != row.report {
			t.Errorf("%s: reports %+v, want %+v", name, report, row.report)
		}
		if got := m.Status(start).LastError; got != row.lastError {
			t.Errorf("%s: the error is %q, want %q", name, got, row.lastError)
		}
		if got := m.Actions().Save; got != (candidate == 0) {
			t.Errorf("%s: saves: %v", name, got)
		}
	}
}

// A candidate that was withdrawn during its push does not become the last good one.
func TestPushed_CandidateWithdrawn_LastGoodPushedAgain(t *testing.T) {
	m := machine(wire.Polling, registered())
	_ = fetch(m, start, offer(8), nil)
	push, _ := m.Observed(start, runs(7), nil)
	_ = fetch(m, start, protocol.Answer{}, protocol.ErrNotModified)
	if again := m.Pushed(start, push, nil); !again {
		t.Error("the worker is not observed again")
	}
	if push, _ := m.Observed(start, runs(8), nil); push == nil || push.Config.Version != 7 || push.New {
		t.Errorf("pushes %+v, want the last good one", push)
	}
}

// A failed report is sent again after a back-off, which ends when the controller answers a
// poll, unless the controller asked for the wait.
func TestReported_Failure_RetriesAfterBackOff(t *testing.T) {
	for _, floor := range []time.Duration{0, time.Minute} {
		m := machine(wire.Polling, registered())
		_ = fetch(m, start, offer(8), nil)
		m.runs(release(8))
		_, report, _ := m.NextReport(start)
		if report == nil {
			t.Fatal("nothing to report")
		}
		err := errOutage
		if floor > 0 {
			err = &protocol.RetryLater{After: floor, Err: errOutage}
		}
		for range 10 {
			m.Reported(start, *report, err)
		}
		_, again, notBefore := m.NextReport(start)
		if again == nil || *again != *report || !notBefore.After(start.Add(floor)) {
			t.Errorf("after a failure: %+v not before %s, want the same after %s", again, notBefore, floor)
		}
		_ = fetch(m, start, protocol.Answer{}, protocol.ErrNotModified)
		if _, _, notBefore := m.NextReport(start); notBefore.After(start) != (floor > 0) {
			t.Errorf("after a poll: not before %s; asked to wait %s", notBefore, floor)
		}
		m.Reported(start, *report, nil)
		if _, report, _ := m.NextReport(start); report != nil {
			t.Errorf("after it was taken: got %+v, want none", report)
		}
	}
}

// A report waits until the fleet has fetched the version.
func TestNextReport_Spread_Waits(t *testing.T) {
	m := machine(wire.Polling, registered())
	answer := offer(8)
	answer.Spread = time.Second
	_ = fetch(m, start, answer, nil)
	m.runs(release(8))
	if _, report, notBefore := m.NextReport(start); report == nil || !notBefore.Equal(start.Add(time.Second)) {
		t.Errorf("got %+v not before %s, want it in a second", report, notBefore)
	}
}

// An answer names the fleet whose hints to receive, unless FLEET_ID does.
func TestFetched_Fleet_Subscribes(t *testing.T) {
	for own, want := range map[string]string{"": "theirs", "mine": "mine"} {
		m := New(Config{Transport: wire.NATS, Fleet: own})
		m.Loaded(registered(), nil)
		m.Subscribed(start)
		_ = fetch(m, start, protocol.Answer{Fleet: "theirs", ResyncInterval: 5 * time.Minute}, protocol.ErrNotModified)
		if actions := m.Actions(); m.Fleet() != want || actions.Subscribe != (own == "") || !actions.Save {
			t.Errorf(
				"FLEET_ID %q: the fleet is %q, subscribes %v, saves %v", own, m.Fleet(), actions.Subscribe,
				actions.Save,
			)
		}
		if push := m.Status(start).Push; push.Healthy != (own == "") {
			t.Errorf("FLEET_ID %q: push is %+v", own, push)
		}
	}
}

// Each change of push is logged once.
func TestActions_PushChanges_LoggedOnce(t *testing.T) {
	m := machine(wire.NATS, registered())
	for i, row := range []struct {
		err     error
		message string
		level   logrus.Level
	}{
		{errOutage, "Push lost; polling", logrus.WarnLevel}, {errOutage, "", 0}, {errors.New("another"), "", 0},
		{nil, "Push healthy", logrus.InfoLevel}, {nil, "", 0}, {errOutage, "Push lost; polling", logrus.WarnLevel},
	} {
		if row.err == nil {
			m.Subscribed(start)
		} else {
			m.Unsubscribed(start, row.err)
		}
		lines := m.Actions().Log
		if row.message == "" && len(lines) != 0 ||
			row.message != "" && (len(lines) != 1 || logged(lines, row.level, row.message) != 1) {
			t.Errorf("change %d: got %+v, want %q", i, lines, row.message)
		}
	}
}

// Errors are logged when they change, and when they end.
func TestSaved_Errors_LoggedWhenTheyChange(t *testing.T) {
	m := machine(wire.Polling, registered())
	for i, row := range []struct {
		err   error
		level logrus.Level
		want  string
	}{
		{errOutage, logrus.WarnLevel, "Cache unwritable"}, {errOutage, logrus.DebugLevel, "Cache unwritable"},
		{errors.New("another"), logrus.WarnLevel, "Cache unwritable"}, {nil, logrus.InfoLevel, "Cache writable"},
	} {
		m.Saved(Stored{}, row.err)
		if lines := m.Actions().Log; len(lines) != 1 || logged(lines, row.level, row.want) != 1 {
			t.Errorf("save %d: got %+v, want %q", i, lines, row.want)
		}
		if got := m.Status(start).Cache; got.Writable != (row.err == nil) {
			t.Errorf("save %d: the status says %+v", i, got)
		}
	}
	m.Saved(Stored{}, nil)
	if lines := m.Actions().Log; len(lines) != 0 {
		t.Errorf("got %+v, want nothing while all is well", lines)
	}
}
