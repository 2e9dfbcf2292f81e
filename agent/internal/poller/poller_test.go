package poller

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// known is the identity of an agent that has registered before.
var known = protocol.Identity{AgentID: "agent-7", AgentToken: "token-0"}

func ptr(r protocol.Release) *protocol.Release { return &r }

// gaps returns the times between moments.
func gaps(at []time.Duration) (between []time.Duration) {
	for i := 1; i < len(at); i++ {
		between = append(between, at[i]-at[i-1])
	}
	return between
}

func TestRun_Start_PollsImmediately(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
	}, func(t *testing.T, w *world) {
		pass(0)
		if got := w.controller.times("fetch"); !slices.Equal(got, []time.Duration{0}) {
			t.Errorf("polled at %v, want at 0 s", got)
		}
		w.runs(t, 1)
		if got := w.Status().Worker.Version; got == nil || *got != 1 {
			t.Errorf("status says that the worker runs %v, want 1", got)
		}
		pass(0)
		if diff := cmp.Diff([]wire.Report{{Version: 1, Status: wire.Applied}}, w.controller.reports()); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	})
}

func TestRun_Interval_Jittered(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
	}, func(t *testing.T, w *world) {
		pass(3 * time.Hour)
		between := gaps(w.controller.times("fetch"))
		if len(between) < 320 {
			t.Fatalf("%d polls in three hours, want about 360", len(between))
		}
		low, high := slices.Min(between), slices.Max(between)
		if low < 27*time.Second || high > 33*time.Second {
			t.Errorf("polls are %s to %s apart, want 27 s to 33 s", low, high)
		}
		if high-low < 4*time.Second {
			t.Errorf("polls are %s to %s apart: not spread", low, high)
		}
	})
}

func TestRun_IntervalChanged_Used(t *testing.T) {
	play(t, scenario{controller: &fakeController{publications: []publication{
		published(0, 1), {time.Hour, release(2, 5)}, {2 * time.Hour, release(3, 600)},
	}}}, func(t *testing.T, w *world) {
		pass(90 * time.Minute)
		for _, gap := range lastOf(gaps(w.controller.times("fetch")), 20) {
			if gap < 4500*time.Millisecond || gap > 5500*time.Millisecond {
				t.Errorf("polls are %s apart, want 5 s", gap)
			}
		}
		if got := w.Status().PollIntervalSeconds; got != 5 {
			t.Errorf("status says %d s, want 5", got)
		}
		pass(4 * time.Hour)
		for _, gap := range lastOf(gaps(w.controller.times("fetch")), 5) {
			if gap < 9*time.Minute || gap > 11*time.Minute {
				t.Errorf("polls are %s apart, want 10 min", gap)
			}
		}
	})
}

func lastOf[T any](s []T, n int) []T { return s[max(0, len(s)-n):] }

// If If-None-Match named the version that was fetched, the answer after a failed push would
// be 304 forever.
func TestRun_PushFails_IfNoneMatchStaysApplied(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1), published(40*time.Second, 2)}},
		worker:     &fakeWorker{failsPushes: []span{{35 * time.Second, 10 * time.Minute}}},
	}, func(t *testing.T, w *world) {
		pass(9 * time.Minute)
		w.runs(t, 1)
		for _, etag := range w.controller.etags()[1:] {
			if etag != `"v1-30"` {
				t.Fatalf("If-None-Match is %s while the worker runs version 1", etag)
			}
		}
		status := w.Status()
		if *status.DesiredVersion != 2 || *status.AppliedVersion != 1 || status.InSync {
			t.Errorf(
				"status says desired %d, applied %d, in sync %v", *status.DesiredVersion, *status.AppliedVersion,
				status.InSync,
			)
		}
		if diff := cmp.Diff(
			[]wire.Report{{Version: 1, Status: wire.Applied}, {Version: 2, Status: wire.Applying}},
			w.controller.reports(),
		); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
		if n := w.logged(logrus.WarnLevel, "Worker lost"); n != 1 {
			t.Errorf("%d warnings, want 1 for one error", n)
		}
		pass(2 * time.Minute)
		w.runs(t, 2)
		etags := w.controller.etags()
		if last := etags[len(etags)-1]; last != `"v2-30"` {
			t.Errorf("If-None-Match is %s, want that of version 2", last)
		}
		if held := w.cache.content(); held.Candidate != nil || held.LastGood.Config.Version != 2 {
			t.Errorf("cache holds %+v, want version 2 as last good", held)
		}
		if got := w.Status().LastError; got != "" {
			t.Errorf("last error %q, want none", got)
		}
	})
}

func TestRun_PushesFail_BacksOff(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
		worker:     &fakeWorker{failsPushes: always},
	}, func(t *testing.T, w *world) {
		pass(time.Hour)
		n := len(w.worker.pushTimes())
		if n < 120 || n > 500 {
			t.Errorf("%d pushes in an hour, want about 240: one in 0 to 30 s", n)
		}
		if high := slices.Max(gaps(w.worker.pushTimes())); high > 31*time.Second {
			t.Errorf("pushes are up to %s apart, want at most 30 s and a cycle", high)
		}
		if reads := len(w.worker.readTimes()); reads < 3500 {
			t.Errorf("%d reads in an hour, want one a second", reads)
		}
	})
}

func TestRun_WorkerRestarted_RestoredInOneCycle(t *testing.T) {
	const at = time.Hour + 300*time.Millisecond
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}, down: []span{{time.Minute, forever}}},
		worker:     &fakeWorker{restarts: []time.Duration{at}},
	}, func(t *testing.T, w *world) {
		pass(at)
		w.runs(t, 0)
		pass(time.Second)
		w.runs(t, 1)
		if got := w.worker.taken(); !slices.Equal(got, []int64{1, 1}) {
			t.Errorf("the worker took %v, want version 1 twice", got)
		}
		if len(w.cache.saves) != 4 { // id, token, candidate, last good
			t.Errorf("%d saves: restoring a worker must not save", len(w.cache.saves))
		}
	})
}

func TestRun_WorkerChangedByHand_Restored(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 3)}},
		worker: &fakeWorker{tampered: []publication{{time.Minute, release(9, 30)}, {
			2 * time.Minute,
			protocol.Release{Config: wire.Config{Version: 3, Data: wire.Data{URL: "http://elsewhere/"}}},
		}}},
	}, func(t *testing.T, w *world) {
		pass(2 * time.Minute)
		w.runs(t, 3)
		pass(2 * time.Second)
		if state, _ := w.worker.state(); state.URL != "http://target/3" {
			t.Errorf("the worker runs %s, want what version 3 says", state.URL)
		}
	})
}

func TestRun_WorkerAwayAtStart_PushedWhenBack(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
		worker:     &fakeWorker{down: []span{{0, 10*time.Minute + 500*time.Millisecond}}},
	}, func(t *testing.T, w *world) {
		pass(10 * time.Minute)
		if got := w.controller.times("fetch"); len(got) < 18 || got[0] != 0 {
			t.Errorf("polled at %v, want from the start on", got)
		}
		if status := w.Status(); status.Worker.Reachable || status.Worker.Error == "" || status.AppliedVersion != nil {
			t.Errorf("status says %+v of a worker that is away", status)
		}
		pass(time.Second)
		w.runs(t, 1)
		if w.logged(logrus.InfoLevel, "Worker back") != 1 {
			t.Error("the log does not say that the worker is back")
		}
	})
}

func TestRun_ControllerAwayAtStart_RunsFromCache(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 8)}, down: []span{{0, 12 * time.Hour}}},
		cache:      &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(7, 30))}},
	}, func(t *testing.T, w *world) {
		pass(0)
		w.runs(t, 7)
		pass(11 * time.Hour)
		if status := w.Status(); !status.InSync || status.Registered || status.ControllerError == "" {
			t.Errorf(
				"status says in sync %v, registered %v, error %q", status.InSync, status.Registered,
				status.ControllerError,
			)
		}
		if n := w.logged(logrus.WarnLevel, "Controller lost"); n != 1 {
			t.Errorf("%d warnings of one outage, want 1", n)
		}
		pass(time.Hour + 5*time.Minute + time.Second)
		w.runs(t, 8)
		if got := w.controller.selves[0].AgentID; got != known.AgentID {
			t.Errorf("registered as %q, want %q", got, known.AgentID)
		}
		if w.logged(logrus.InfoLevel, "Controller back") != 1 {
			t.Error("the log does not say that the controller is back")
		}
	})
}

func TestRun_BothAwayAtStart_Recovers(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}, down: []span{{0, time.Hour}}},
		worker:     &fakeWorker{down: []span{{0, 2 * time.Hour}}},
	}, func(t *testing.T, w *world) {
		pass(2*time.Hour + time.Second)
		w.runs(t, 1)
	})
}

func TestRun_SlowWorker_PushedBeforeRegistration(t *testing.T) {
	play(t, scenario{
		worker: &fakeWorker{hanging: []span{{0, time.Second / 2}}},
		cache:  &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(7, 30))}},
	}, func(t *testing.T, w *world) {
		pass(time.Second - 1)
		if n := len(w.controller.times("register")); n != 0 {
			t.Errorf("registered before the worker was tried")
		}
		pass(2 * time.Second)
		if got := w.controller.times("register"); !slices.Equal(got, []time.Duration{time.Second}) {
			t.Errorf("registered at %v: a worker that hangs delays it by 1 s", got)
		}
	})
}

func TestRun_EmptyWorker_GetsLastGoodBeforeCandidate(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{down: always},
		cache: &fakeCache{
			stored: state.Stored{Identity: known, LastGood: ptr(release(7, 30)), Candidate: ptr(release(8, 30))},
		},
	}, func(t *testing.T, w *world) {
		pass(0)
		if got := w.worker.taken(); !slices.Equal(got, []int64{7, 8}) {
			t.Errorf("the worker took %v, want 7 and then 8", got)
		}
		if held := w.cache.content(); held.Candidate != nil || held.LastGood.Config.Version != 8 {
			t.Errorf("cache holds %+v, want 8 as last good", held)
		}
	})
}

// The agent died between the push and the save: the worker runs the candidate.
func TestRun_CandidateAlreadyRuns_PromotedWithoutPush(t *testing.T) {
	eight := release(8, 30)
	play(t, scenario{
		controller: &fakeController{down: always},
		worker:     &fakeWorker{running: eight.WorkerConfig(), since: 0},
		cache:      &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(7, 30)), Candidate: &eight}},
	}, func(t *testing.T, w *world) {
		pass(0)
		if got := w.worker.taken(); len(got) != 0 {
			t.Errorf("pushed %v to a worker that ran it", got)
		}
		if held := w.cache.content(); held.Candidate != nil || held.LastGood.Config.Version != 8 {
			t.Errorf("cache holds %+v, want 8 as last good", held)
		}
	})
}

func TestRun_RefusedToken_RegistersAgainWithSameID(t *testing.T) {
	play(t, scenario{controller: &fakeController{
		publications: []publication{published(0, 1)}, forgets: []time.Duration{time.Hour},
	}}, func(t *testing.T, w *world) {
		pass(2 * time.Hour)
		if len(w.controller.selves) != 2 || w.controller.selves[0].AgentID == "" ||
			w.controller.selves[1].AgentID != w.controller.selves[0].AgentID {
			t.Fatalf("registered as %+v, want twice and with the id kept", w.controller.selves)
		}
		registered, polls := w.controller.times("register")[1], 0
		for _, at := range w.controller.times("fetch") {
			if at == registered {
				polls++
			}
		}
		if polls != 2 { // the refused one and the next
			t.Errorf("registered at %s, not immediately after the 401", registered)
		}
		reports := w.controller.reports()
		if len(reports) != 2 || reports[1] != (wire.Report{Version: 1, Status: wire.Applied}) {
			t.Errorf("reported %+v: a controller that forgot the agent must learn again", reports)
		}
		if got := w.cache.content().Identity.AgentToken; got != "token-2" {
			t.Errorf("cache holds %q, want the new token", got)
		}
	})
}

func TestRun_TokenRefusedForever_BacksOff(t *testing.T) {
	play(t, scenario{controller: &fakeController{denies: always}}, func(t *testing.T, w *world) {
		pass(24 * time.Hour)
		n := len(w.controller.times("register"))
		if n < 400 || n > 1000 {
			t.Errorf("registered %d times a day, want about 600: one in 0 to 5 min", n)
		}
		if status := w.Status(); status.Registered || !strings.Contains(status.LastError, "credentials refused") {
			t.Errorf("status says registered %v, error %q", status.Registered, status.LastError)
		}
	})
}

// Two agents with one id end each other's token with each registration.
func TestRun_TwoAgentsWithOneID_BothRun(t *testing.T) {
	var rivals []time.Duration
	for at := 15 * time.Second; at < 24*time.Hour; at += 30 * time.Second {
		rivals = append(rivals, at)
	}
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}, rivals: rivals},
	}, func(t *testing.T, w *world) {
		pass(24 * time.Hour)
		w.runs(t, 1)
		if n := len(w.controller.times("fetch")); n > 3000 {
			t.Errorf("%d polls a day, want at most as many as alone: 2880", n)
		}
		if n := len(w.controller.times("register")); n > 1500 {
			t.Errorf("%d registrations a day, want them backed off", n)
		}
	})
}

func TestRun_SharedPasswordChanged_OwnTokenWorks(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{
			publications: []publication{published(0, 8)}, noEnrolment: always, token: known.AgentToken, tokenAt: 0,
		},
		cache: &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(7, 30))}},
	}, func(t *testing.T, w *world) {
		pass(time.Minute)
		w.runs(t, 8) // its own token is still valid
		if status := w.Status(); !status.Registered || status.LastError != "" {
			t.Errorf("status says registered %v, error %q", status.Registered, status.LastError)
		}
	})
}

func TestRun_LongOutage_RetriesNeverStop(t *testing.T) {
	const back = 24 * time.Hour
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}, down: []span{{0, back}}},
	}, func(t *testing.T, w *world) {
		pass(back - 1)
		tries := w.controller.times("register")
		between := gaps(tries)
		if early := between[:3]; slices.Max(early) > 8*time.Second {
			t.Errorf("first retries are %v apart, want them soon", early)
		}
		late := between[20:]
		if high := slices.Max(late); high > time.Minute || high < 50*time.Second {
			t.Errorf("retries are up to %s apart, want a minute: two intervals", high)
		}
		var sum time.Duration
		for _, gap := range late {
			sum += gap
		}
		if mean := sum / time.Duration(len(late)); mean < 27*time.Second || mean > 33*time.Second {
			t.Errorf("retries are %s apart on average, want 30 s: full jitter", mean)
		}
		pass(time.Minute + 2*time.Second)
		w.runs(t, 1)
	})
}

func TestRun_OutageAfterSuccess_BackoffRestarts(t *testing.T) {
	for _, invalid := range [][]span{nil, always} { // an unusable answer is a success too
		backsOffAnew(t, &fakeController{publications: []publication{published(0, 1)}, invalid: invalid})
	}
}

func backsOffAnew(t *testing.T, controller *fakeController) {
	controller.down = []span{{0, 24 * time.Hour}, {25 * time.Hour, 26 * time.Hour}}
	play(t, scenario{controller: controller}, func(t *testing.T, w *world) {
		pass(26 * time.Hour)
		var second []time.Duration
		for _, at := range w.controller.times("fetch") {
			if at >= 25*time.Hour {
				second = append(second, at)
			}
		}
		if between := gaps(second); between[0] > time.Second || between[1] > 2*time.Second ||
			between[2] > 4*time.Second {
			t.Errorf("retries of the second outage are %v apart, want them to begin at 1 s", between[:3])
		}
	})
}

func TestRun_RetryAfter_IsMinimum(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{busy: []span{{0, 12 * time.Hour}}, retryAfter: 2 * time.Minute},
	}, func(t *testing.T, w *world) {
		pass(10 * time.Hour)
		between := gaps(w.controller.times("register"))
		if low := slices.Min(between); low < 2*time.Minute {
			t.Errorf("retried after %s, was asked to wait 2 min", low)
		}
		if high := slices.Max(between); high > 2*time.Minute+12*time.Second+5*time.Minute {
			t.Errorf("retried after %s", high)
		}
	})
}

func TestRun_NothingPublished_KeepsPolling(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(time.Hour, 1)}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour - 1)
		if status := w.Status(); status.LastError != "" || status.DesiredVersion != nil || !status.InSync ||
			status.LastFetch == nil {
			t.Errorf("status says %+v while nothing is published", status)
		}
		if n := len(w.controller.times("fetch")); n < 105 || n > 135 {
			t.Errorf("%d polls in an hour, want about 120", n)
		}
		pass(34 * time.Second)
		w.runs(t, 1)
	})
}

// A restored controller without versions must not clear the workers.
func TestRun_NothingPublished_KeepsLastGood(t *testing.T) {
	play(t, scenario{
		worker: &fakeWorker{restarts: []time.Duration{time.Minute}},
		cache:  &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(7, 30))}},
	}, func(t *testing.T, w *world) {
		pass(2 * time.Minute)
		w.runs(t, 7)
	})
}

func TestRun_InvalidConfiguration_NotApplied(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{
			publications: []publication{published(0, 1), published(time.Minute, 2)},
			invalid:      []span{{time.Minute, time.Hour}},
		},
	}, func(t *testing.T, w *world) {
		pass(time.Hour - 1)
		w.runs(t, 1)
		if got := w.Status().LastError; !strings.Contains(got, "data.url") {
			t.Errorf("last error %q does not name the field", got)
		}
		if n := w.logged(logrus.WarnLevel, "Configuration unusable"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
		if n := len(w.controller.times("fetch")); n > 140 {
			t.Errorf("%d polls in an hour: an invalid document must not make it poll faster", n)
		}
		pass(34 * time.Second)
		w.runs(t, 2)
	})
}

func TestRun_OlderVersionWithReason_Applied(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{
			because: wire.OlderResume, publications: []publication{published(0, 3), published(time.Minute, 2)},
		},
		cache: &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(9, 30))}},
	}, func(t *testing.T, w *world) {
		pass(time.Minute - 1)
		w.runs(t, 3)
		pass(34 * time.Second)
		w.runs(t, 2)
		if got := w.cache.content().LastGood.Config.Version; got != 2 {
			t.Errorf("last good is version %d, want 2", got)
		}
	})
}

func TestRun_CandidateWithdrawn_Dropped(t *testing.T) {
	for name, back := range map[string]publication{
		"by a 304":                {2 * time.Minute, release(1, 30)},
		"by a document once more": {2 * time.Minute, protocol.Release{Config: release(1, 30).Config}},
	} {
		t.Run(name, func(t *testing.T) {
			first := back
			first.at = 0
			play(t, scenario{
				controller: &fakeController{publications: []publication{first, published(time.Minute, 2), back}},
				worker:     &fakeWorker{failsPushes: []span{{30 * time.Second, 5 * time.Minute}}},
			}, func(t *testing.T, w *world) {
				pass(2*time.Minute - 1)
				if w.cache.content().Candidate == nil {
					t.Fatal("version 2 is not pending")
				}
				pass(10 * time.Minute)
				w.runs(t, 1)
				if got := w.worker.taken(); !slices.Equal(got, []int64{1}) {
					t.Errorf("the worker took %v, want version 1 only", got)
				}
				if w.cache.content().Candidate != nil {
					t.Error("version 2 is still pending")
				}
				reports := w.controller.reports()
				if last := reports[len(reports)-1]; last != (wire.Report{Version: 1, Status: wire.Applied}) {
					t.Errorf("last report is %+v, want version 1 applied", last)
				}
			})
		})
	}
}

func refuse(bad int64) func(int64, time.Duration) string {
	return func(v int64, _ time.Duration) string {
		if v == bad {
			return "host not allowed here"
		}
		return ""
	}
}

func TestRun_RefusedVersion_KeepsLastGoodAndReports(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{
			publications: []publication{published(0, 1), published(time.Minute, 2), published(time.Hour, 3)},
			withholds:    true,
		},
		worker: &fakeWorker{refuses: refuse(2), restarts: []time.Duration{10 * time.Minute}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour - 1)
		w.runs(t, 1)
		want := []wire.Report{
			{Version: 1, Status: wire.Applied}, {Version: 2, Status: wire.Failed, Error: "host not allowed here"},
		}
		if diff := cmp.Diff(want, w.controller.reports()); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
		if n := len(w.worker.pushTimes()); n != 3 { // 1, 2 refused, 1 after the restart
			t.Errorf("%d pushes, want 3", n)
		}
		if held := w.cache.content(); held.Candidate != nil || held.LastGood.Config.Version != 1 {
			t.Errorf("cache holds %+v, want version 1 only", held)
		}
		if got := w.Status().LastError; got != "the worker refused version 2: host not allowed here" {
			t.Errorf("last error is %q", got)
		}
		pass(34 * time.Second)
		w.runs(t, 3)
		if got := w.Status().LastError; got != "" {
			t.Errorf("last error is %q, want none", got)
		}
	})
}

func TestRun_RefusedVersionOfferedAgain_ReportedAgain(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1), published(time.Minute, 2)}},
		worker: &fakeWorker{refuses: func(v int64, at time.Duration) string {
			if at < time.Hour {
				return refuse(2)(v, at)
			}
			return ""
		}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour - 1)
		pushes, fetches := len(w.worker.pushTimes()), len(w.controller.times("fetch"))
		if pushes > fetches {
			t.Errorf("%d pushes in %d polls: more than one for each offer", pushes, fetches)
		}
		if n := len(w.controller.reports()); n < 100 {
			t.Errorf("%d reports of about 118 refusals: each offer is reported", n)
		}
		w.runs(t, 1)
		pass(34 * time.Second)
		w.runs(t, 2)
	})
}

func TestRun_RefusedVersionOnEmptyWorker_KeepsLastGood(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 2)}},
		worker:     &fakeWorker{refuses: refuse(2)},
		cache: &fakeCache{
			stored: state.Stored{Identity: known, LastGood: ptr(release(1, 30)), Candidate: ptr(release(2, 30))},
		},
	}, func(t *testing.T, w *world) {
		pass(0)
		w.runs(t, 1)
		if !w.Status().InSync {
			t.Error("not in sync, want what runs compared again after the refusal")
		}
	})
}

// A worker refuses what it accepted before. There is nothing else to push, so it is pushed
// again when the controller confirms it, not every second.
func TestRun_LastGoodRefused_RetriedWhenConfirmed(t *testing.T) {
	for name, controller := range map[string]*fakeController{
		"confirmed by a 304":                {},
		"confirmed by a document once more": {dropsETags: true},
	} {
		t.Run(name, func(t *testing.T) { refusesLastGood(t, controller) })
	}
}

func refusesLastGood(t *testing.T, controller *fakeController) {
	controller.publications = []publication{published(0, 1)}
	play(t, scenario{
		controller: controller,
		worker: &fakeWorker{restarts: []time.Duration{2 * time.Hour}, refuses: func(v int64, at time.Duration) string {
			if at < time.Hour {
				return refuse(1)(v, at)
			}
			return ""
		}},
		cache: &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(1, 30))}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour - 1)
		if pushes, fetches := len(w.worker.pushTimes()), len(w.controller.times("fetch")); pushes > fetches+1 {
			t.Errorf("%d pushes in %d polls", pushes, fetches)
		}
		if got := w.controller.reports(); len(got) != 1 || got[0].Status != wire.Failed {
			t.Errorf("reported %+v, want one failure", got)
		}
		pass(34 * time.Second)
		w.runs(t, 1)
		if status := w.Status(); status.LastError != "" || !status.InSync {
			t.Errorf("status says %q, in sync %v", status.LastError, status.InSync)
		}
		if got := lastOf(w.controller.reports(), 1); got[0].Status != wire.Applied {
			t.Errorf("last report is %+v, want applied", got)
		}
	})
}

func TestRun_WorkerForgetsPushes_BacksOff(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 2)}},
		worker:     &fakeWorker{forgetsPushes: true},
		cache: &fakeCache{
			stored: state.Stored{Identity: known, LastGood: ptr(release(1, 30)), Candidate: ptr(release(2, 30))},
		},
	}, func(t *testing.T, w *world) {
		pass(time.Hour)
		if n := len(w.worker.pushTimes()); n > 500 {
			t.Errorf("%d pushes in an hour to a worker that forgets them", n)
		}
	})
}

func TestRun_FetchHangs_KeepsReconciling(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{hanging: always},
		worker:     &fakeWorker{restarts: []time.Duration{100*time.Second + 1}},
		cache:      &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(7, 30))}},
	}, func(t *testing.T, w *world) {
		pass(102 * time.Second)
		w.runs(t, 7)
		if high := slices.Max(gaps(w.worker.readTimes())); high > time.Second {
			t.Errorf("the worker was not asked for %s", high)
		}
	})
}

func TestRun_WorkerHangs_KeepsPolling(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{{0, release(1, 1)}}},
		worker:     &fakeWorker{hanging: always},
	}, func(t *testing.T, w *world) {
		pass(time.Minute)
		if n := len(w.controller.times("fetch")); n < 50 {
			t.Errorf("%d polls in a minute, want one a second", n)
		}
	})
}

func TestRun_ReportsFail_SentUntilAcknowledged(t *testing.T) {
	play(t, scenario{controller: &fakeController{
		publications:  []publication{published(0, 1), published(10*time.Minute, 2)},
		takesNoReport: []span{{0, time.Hour}},
	}}, func(t *testing.T, w *world) {
		pass(time.Hour - 1)
		w.runs(t, 2) // a failing report delays nothing
		if n := len(w.controller.times("report")); n < 60 || n > 200 {
			t.Errorf("%d attempts in an hour, want about one a poll", n)
		}
		pass(time.Minute)
		if diff := cmp.Diff([]wire.Report{{Version: 2, Status: wire.Applied}}, w.controller.reports()); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
		pass(time.Hour)
		if n := len(w.controller.reports()); n != 1 {
			t.Errorf("%d reports taken, want 1", n)
		}
	})
}

func TestRun_ReportRetryAfter_IsMinimum(t *testing.T) {
	play(t, scenario{controller: &fakeController{
		publications: []publication{published(0, 1)}, busyReports: always, retryAfter: 10 * time.Minute,
	}}, func(t *testing.T, w *world) {
		pass(2 * time.Hour)
		between := gaps(w.controller.times("report"))
		if low := slices.Min(between); low < 10*time.Minute {
			t.Errorf("reported again after %s, was asked to wait 10 min", low)
		}
		if n := len(w.controller.times("fetch")); n < 200 {
			t.Errorf("%d polls in two hours: the reports delayed them", n)
		}
	})
}

func TestRun_OutcomeDuringReport_Reported(t *testing.T) {
	play(t, scenario{controller: &fakeController{
		publications: []publication{{0, release(1, 1)}, {2 * time.Second, release(2, 1)}}, slowReports: 5 * time.Second,
	}}, func(t *testing.T, w *world) {
		pass(time.Minute)
		want := []wire.Report{{Version: 1, Status: wire.Applied}, {Version: 2, Status: wire.Applied}}
		if diff := cmp.Diff(want, w.controller.reports()); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	})
}

func TestRun_CandidateWithdrawnDuringPush_RevertsToLastGood(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{
			{0, release(1, 1)}, {time.Minute, release(2, 1)}, {62 * time.Second, release(1, 1)},
		}},
		worker: &fakeWorker{slow: 4 * time.Second},
	}, func(t *testing.T, w *world) {
		pass(2 * time.Minute)
		w.runs(t, 1)
		if got := w.worker.taken(); !slices.Equal(got, []int64{1, 2, 1}) {
			t.Fatalf("the worker took %v, want 2 although it was withdrawn, and 1 again", got)
		}
		for _, s := range w.cache.saves {
			if s.LastGood != nil && s.LastGood.Config.Version == 2 {
				t.Error("what was withdrawn became last good")
			}
		}
	})
}

// A refusal does not hide the outcome of the version that is desired by then.
func TestRun_RefusedWhileAnotherDesired_ReportsTheOther(t *testing.T) {
	for _, version := range []int64{3, 1} { // a newer one, and what ran before
		play(t, scenario{
			controller: &fakeController{publications: []publication{
				{0, release(1, 1)}, {time.Minute, release(2, 1)}, {62 * time.Second, release(version, 1)},
			}},
			worker: &fakeWorker{slow: 4 * time.Second, refuses: refuse(2)},
		}, func(t *testing.T, w *world) {
			pass(2 * time.Minute)
			w.runs(t, version)
			reports := w.controller.reports()
			if last := reports[len(reports)-1]; last != (wire.Report{Version: version, Status: wire.Applied}) {
				t.Errorf("last report: got %+v, want version %d applied", last, version)
			}
		})
	}
}

func TestRun_NewerCandidateDuringPush_PushedNext(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{
			{0, release(1, 1)}, {time.Minute, release(2, 1)}, {62 * time.Second, release(3, 600)},
		}},
		worker: &fakeWorker{slow: 4 * time.Second},
	}, func(t *testing.T, w *world) {
		pass(63 * time.Second)
		if w.Status().InSync {
			t.Error("in sync while version 2 is pushed")
		}
		pass(12 * time.Second)
		w.runs(t, 3)
		if got := w.worker.taken(); !slices.Equal(got, []int64{1, 2, 3}) {
			t.Errorf("the worker took %v, want 1, 2, 3", got)
		}
	})
}

func TestRun_WorkerChangedByHandOften_RestoredEachCycle(t *testing.T) {
	var tampered []publication
	for i := range time.Duration(30) {
		tampered = append(tampered, publication{i*10*time.Second + 9500*time.Millisecond, release(99, 30)})
	}
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 3)}},
		worker:     &fakeWorker{tampered: tampered},
	}, func(t *testing.T, w *world) {
		for range tampered {
			pass(9500 * time.Millisecond)
			w.runs(t, 99)
			pass(500 * time.Millisecond)
			w.runs(t, 3)
		}
	})
}

// A restarted worker is pushed to immediately, however long the back-off is.
func TestRun_WorkerRestarted_PushBackoffEnds(t *testing.T) {
	const at = 10 * time.Minute
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
		worker:     &fakeWorker{failsPushes: []span{{0, at}}, down: []span{{at, at + 1500*time.Millisecond}}},
	}, func(t *testing.T, w *world) {
		pass(at + 2*time.Second)
		w.runs(t, 1)
	})
}

func TestRun_LastGoodRefused_TriedOnRestartedWorker(t *testing.T) {
	const at = time.Hour
	play(t, scenario{
		controller: &fakeController{down: always},
		worker: &fakeWorker{down: []span{{at, at + 2*time.Second}}, refuses: func(v int64, now time.Duration) string {
			if now < at {
				return refuse(1)(v, now)
			}
			return ""
		}},
		cache: &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(1, 30))}},
	}, func(t *testing.T, w *world) {
		pass(at)
		if n := len(w.worker.pushTimes()); n != 1 {
			t.Errorf("%d pushes of what was refused, want 1", n)
		}
		pass(3 * time.Second)
		w.runs(t, 1)
	})
}

func TestRun_ReportUnwanted_Dropped(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}, unwanted: true},
	}, func(t *testing.T, w *world) {
		pass(time.Hour)
		if n := len(w.controller.times("report")); n != 1 {
			t.Errorf("%d reports to a controller that wants none, want 1", n)
		}
	})
}

func TestRun_CacheUnwritable_RunsAndSavesLater(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
		cache:      &fakeCache{unwritable: []span{{0, time.Hour}}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour - 1)
		w.runs(t, 1)
		if status := w.Status(); status.Cache.Writable || !strings.Contains(status.LastError, "no space left") {
			t.Errorf("status says writable %v, error %q", status.Cache.Writable, status.LastError)
		}
		if n := w.logged(logrus.WarnLevel, "Cache unwritable"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
		pass(time.Minute + 2*time.Second)
		if held := w.cache.content(); held.LastGood == nil || held.LastGood.Config.Version != 1 ||
			held.Identity.AgentID != w.controller.selves[0].AgentID {
			t.Errorf("cache holds %+v once it can be written, want all", held)
		}
		if !w.Status().Cache.Writable {
			t.Error("status does not say that the cache is writable again")
		}
	})
}

func TestRun_CacheUnreadable_StartsEmpty(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
		cache:      &fakeCache{loadError: errors.New("the checksum does not match")},
	}, func(t *testing.T, w *world) {
		pass(time.Second)
		w.runs(t, 1)
		if w.logged(logrus.WarnLevel, "Cache unusable") != 1 {
			t.Error("the log does not say that the cache is broken")
		}
	})
}

func TestRun_NoETag_PushedOnce(t *testing.T) {
	bare := release(1, 30)
	bare.ETag = ""
	play(t, scenario{
		controller: &fakeController{publications: []publication{{0, bare}}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour)
		if n := len(w.worker.pushTimes()); n != 1 {
			t.Errorf("%d pushes of one configuration without an ETag, want 1", n)
		}
		if n := w.logged(logrus.WarnLevel, "Configuration without usable ETag"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
		if n := len(w.cache.saves); n != 4 {
			t.Errorf("%d saves, want 4: the same again is no news", n)
		}
	})
}

func TestStatus_CacheAge_SinceFetch(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
	}, func(t *testing.T, w *world) {
		pass(90 * time.Minute)
		if got := *w.Status().CacheAgeSeconds; got != 5400 {
			t.Errorf("the cache is %d s old, want 5400", got)
		}
	})
}

// After the shared password has changed, the agent's own token may still be valid. It is
// tried again after it was rejected once.
func TestRun_EnrolmentRefused_OwnTokenTriedAgain(t *testing.T) {
	play(t, scenario{controller: &fakeController{
		publications: []publication{published(0, 1), published(2*time.Hour, 2)},
		noEnrolment:  []span{{time.Minute, forever}},
		denies:       []span{{time.Hour, time.Hour + 5*time.Minute}},
	}}, func(t *testing.T, w *world) {
		pass(3 * time.Hour)
		w.runs(t, 2)
	})
}

func TestRun_Ephemeral_DeregistersAtEnd(t *testing.T) {
	for name, row := range map[string]struct {
		ephemeral bool
		down      []span
		want      int
	}{
		"when it ends":                         {true, nil, 1},
		"not when it is to come back":          {false, nil, 0},
		"in vain while the controller is away": {true, []span{{time.Minute, time.Hour}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			controller := &fakeController{publications: []publication{published(0, 1)}, down: row.down}
			play(
				t, scenario{controller: controller, ephemeral: row.ephemeral},
				func(*testing.T, *world) { pass(2 * time.Minute) },
			)
			if got := controller.times("leave"); len(got) != row.want {
				t.Errorf("deregistered at %v, want %d times", got, row.want)
			}
			last := slices.Max(controller.times("fetch"))
			if at := controller.times("leave"); row.want > 0 && at[0] < last {
				t.Errorf("polled at %s, after it had deregistered at %s", last, at[0])
			}
		})
	}
}

func TestRun_EphemeralNeverRegistered_SendsNothing(t *testing.T) {
	controller := &fakeController{down: []span{{0, time.Hour}}}
	play(t, scenario{controller: controller, ephemeral: true}, func(*testing.T, *world) { pass(time.Minute) })
	if got := controller.times("leave"); len(got) != 0 {
		t.Errorf("deregistered at %v without a registration", got)
	}
}

// Only new configurations are probed: a target that is away for a moment must not leave a
// restarted worker without one.
func TestRun_LastGoodPushedAgain_NotProbed(t *testing.T) {
	probed := published(0, 1)
	probed.Config.Data.Probe = true
	worker := &fakeWorker{restarts: []time.Duration{time.Minute}}
	play(t, scenario{
		controller: &fakeController{publications: []publication{probed}}, worker: worker,
	}, func(t *testing.T, w *world) {
		pass(2 * time.Minute)
		w.runs(t, 1)
		var got []bool
		for _, p := range worker.pushes {
			got = append(got, p.probe)
		}
		if diff := cmp.Diff([]bool{true, false}, got); diff != "" {
			t.Errorf("probes asked for (-want +got):\n%s", diff)
		}
	})
}
