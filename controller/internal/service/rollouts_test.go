package service_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
)

// fleet is the rules of a whole controller on a real store.
type fleet struct {
	db       *sqlite.DB
	agents   *service.Agents
	configs  *service.Configs
	rollouts *service.Rollouts
	logged   *logtest.Hook
}

func newFleet(t *testing.T, store database.Store, db *sqlite.DB) *fleet {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	plan := loadPlan(t, db)
	agents, _ := openAgentsOf(t, db, plan)
	configs := service.NewConfigs(db, plan, agents, service.ConfigOptions{Tags: db.Tags()}, log)
	return &fleet{db: db, agents: agents, configs: configs, rollouts: service.NewRollouts(configs, agents, store), logged: hook}
}

func openFleet(t *testing.T) *fleet {
	t.Helper()
	db := newStore(t)
	return newFleet(t, db, db)
}

// join registers agents a0, a1, … and returns them.
func (f *fleet) join(t *testing.T, n int) []*service.Agent {
	t.Helper()
	lives := make([]*service.Agent, n)
	for i := range lives {
		id, token := register(t, f.agents, fmt.Sprint("a", i))
		lives[i] = login(t, f.agents, id, token)
	}
	return lives
}

func (f *fleet) figures(t *testing.T, version int64) *models.Rollout {
	t.Helper()
	r, err := f.rollouts.Rollout(t.Context(), version)
	if err != nil {
		t.Fatalf("Rollout: %v", err)
	}
	return r
}

func TestRollout_CountsAgentsByOutcome(t *testing.T) {
	f := openFleet(t)
	lives := f.join(t, 40)
	cfg := publish(t, f.configs, draft("http://a/"))
	for i, live := range lives[:10] { // 100 ms, 200 ms, … a second
		report(t, f.agents, live, models.Attempt{Version: 1, Status: models.Applied, At: cfg.PublishedAt.Add(time.Duration(i+1) * 100 * time.Millisecond)})
	}
	for i, live := range lives[10:18] {
		words := "host not allowed"
		if i == 0 {
			words = "status 503"
		}
		report(t, f.agents, live, models.Attempt{Version: 1, Status: models.Failed, Error: words, At: models.Now()})
	}
	report(t, f.agents, lives[18], models.Attempt{Version: 1, Status: models.Applying, At: models.Now()})
	late, token := register(t, f.agents, "late") // what it takes to join is not latency
	report(t, f.agents, login(t, f.agents, late, token), models.Attempt{Version: 1, Status: models.Applied, At: cfg.PublishedAt.Add(time.Hour)})

	got := f.figures(t, 1)
	want := models.Figures{
		Targets: 41, Applied: 11, Failed: 8, Pending: 22,
		FirstAppliedAt: cfg.PublishedAt.Add(100 * time.Millisecond),
		Latency:        models.Latency{Agents: 10, P50: 500 * time.Millisecond, P90: 900 * time.Millisecond, P99: time.Second, Max: time.Second},
		Failures: []models.Failure{
			{Error: "host not allowed", Count: 7, Samples: []string{"a11", "a12", "a13", "a14", "a15"}},
			{Error: "status 503", Count: 1, Samples: []string{"a10"}},
		},
	}
	if diff := cmp.Diff(want, got.Figures, cmpopts.IgnoreFields(models.Figures{}, "Stragglers")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(got.Stragglers) != 20 || got.Stragglers[0].ID != "a18" || got.Stragglers[0].Status != models.Online {
		t.Errorf("stragglers: got %d of them, %+v first, want 20 and a18 first", len(got.Stragglers), got.Stragglers[0])
	}
}

func TestRollout_ContentMismatch_Pending(t *testing.T) {
	f := openFleet(t)
	live := f.join(t, 1)[0]
	publish(t, f.configs, draft("http://a/"))
	poll := models.Poll{At: time.Now(), Interval: defaultInterval, Runs: 1}
	for _, row := range []struct {
		mismatch         bool
		applied, pending int
	}{{true, 0, 1}, {false, 1, 0}} {
		poll.Mismatch = row.mismatch
		f.agents.Poll(live, poll)
		if got := f.figures(t, 1).Figures; got.Applied != row.applied || got.Pending != row.pending {
			t.Errorf("mismatch %v: got %+v, want %d applied, %d pending", row.mismatch, got, row.applied, row.pending)
		}
	}
}

func TestRollout_TellsOfflineFromPending(t *testing.T) {
	db := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, db, db)
		lives := f.join(t, 3)
		publish(t, f.configs, draft("http://a/"))
		time.Sleep(11 * defaultInterval)
		f.agents.Poll(lives[0], models.Poll{At: time.Now(), Interval: defaultInterval})
		got := f.figures(t, 1)
		if got.Targets != 3 || got.Pending != 1 || got.Offline != 2 {
			t.Errorf("got %+v, want one pending and two offline", got.Figures)
		}
		if len(got.Stragglers) != 3 || got.Stragglers[0].ID != "a0" || got.Stragglers[1].Status != models.Offline {
			t.Errorf("stragglers: got %+v, want the pending one first", got.Stragglers)
		}
		time.Sleep(inactiveAfter)
		f.agents.Poll(lives[0], models.Poll{At: time.Now(), Interval: defaultInterval, Runs: 1})
		if got := f.figures(t, 1); got.Targets != 1 || got.Share() != 1 {
			t.Errorf("a week later: got %+v, want the inactive ones left out", got.Figures)
		}
	})
}

func TestRollout_Superseded_KeepsItsFigures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := openStore(t, path)
	f := newFleet(t, db, db)
	lives := f.join(t, 3)
	publish(t, f.configs, draft("http://a/"))
	report(t, f.agents, lives[0], models.Attempt{Version: 1, Status: models.Applied, At: models.Now()})
	report(t, f.agents, lives[1], models.Attempt{Version: 1, Status: models.Failed, Error: "no", At: models.Now()})
	before := f.figures(t, 1)
	publish(t, f.configs, draft("http://b/"))
	report(t, f.agents, lives[2], models.Attempt{Version: 1, Status: models.Applied, At: models.Now()}) // too late
	closeDB()                                                                                           // as kill -9 does
	db, _ = openStore(t, path)
	f = newFleet(t, db, db)
	before.SupersededBy = 2
	now := cmpopts.IgnoreFields(models.Straggler{}, "LastPoll")
	if diff := cmp.Diff(before, f.figures(t, 1), now); diff != "" {
		t.Errorf("-when it was superseded +after:\n%s", diff)
	}
	if _, err := f.rollouts.Rollout(t.Context(), 3); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("a version that is none: got %v, want ErrNotFound", err)
	}
}

// verdict is what a wait came to.
type verdict struct {
	rollout *models.Rollout
	reached bool
	err     error
	after   time.Duration
}

// counting counts what is asked of a store while somebody waits.
type counting struct {
	*sqlite.DB
	asked int
}

func (c *counting) Figures(ctx context.Context, version int64) (models.Figures, int64, error) {
	c.asked++
	return c.DB.Figures(ctx, version)
}

func TestWait(t *testing.T) {
	applied := func(t *testing.T, f *fleet, live *service.Agent) {
		report(t, f.agents, live, models.Attempt{Version: 1, Status: models.Applied, At: models.Now()})
	}
	for name, row := range map[string]struct {
		share   float64
		during  func(t *testing.T, f *fleet, lives []*service.Agent, draining chan struct{}, leave func())
		reached bool
		applied int
		err     error
		at      time.Duration // give or take the time between two looks
	}{
		"a report reaches the share": {0.5, func(t *testing.T, f *fleet, lives []*service.Agent, _ chan struct{}, _ func()) {
			applied(t, f, lives[0])
			time.Sleep(time.Second)
			applied(t, f, lives[1])
		}, true, 2, nil, 2 * time.Second},
		"so does a poll, where the report was lost": {0.25, func(_ *testing.T, f *fleet, lives []*service.Agent, _ chan struct{}, _ func()) {
			f.agents.Poll(lives[0], models.Poll{At: time.Now(), Interval: defaultInterval, Runs: 1})
		}, true, 1, nil, time.Second},
		"and so do agents that leave": {1, func(t *testing.T, f *fleet, lives []*service.Agent, _ chan struct{}, _ func()) {
			applied(t, f, lives[0])
			time.Sleep(time.Second)
			for _, id := range []string{"a1", "a2", "a3"} {
				if err := f.agents.Decommission(t.Context(), id, byAdmin); err != nil {
					t.Error(err)
				}
			}
		}, true, 1, nil, 2 * time.Second},
		"and a poll of one that held another content": {0.25, func(_ *testing.T, f *fleet, lives []*service.Agent, _ chan struct{}, _ func()) {
			poll := models.Poll{At: time.Now(), Interval: defaultInterval, Runs: 1}
			poll.Mismatch = true
			f.agents.Poll(lives[0], poll)
			time.Sleep(time.Second)
			poll.Mismatch = false
			f.agents.Poll(lives[0], poll)
		}, true, 1, nil, 2 * time.Second},
		"the wait is over before": {1, func(t *testing.T, f *fleet, lives []*service.Agent, _ chan struct{}, _ func()) {
			applied(t, f, lives[0])
		}, false, 1, nil, time.Minute},
		"a refusal is not an application": {0.25, func(t *testing.T, f *fleet, lives []*service.Agent, _ chan struct{}, _ func()) {
			report(t, f.agents, lives[0], models.Attempt{Version: 1, Status: models.Failed, At: models.Now()})
		}, false, 0, nil, time.Minute},
		"the version is superseded": {1, func(t *testing.T, f *fleet, lives []*service.Agent, _ chan struct{}, _ func()) {
			applied(t, f, lives[0])
			publish(t, f.configs, draft("http://b/"))
		}, false, 1, nil, time.Second},
		"the controller stops": {1, func(_ *testing.T, _ *fleet, _ []*service.Agent, draining chan struct{}, _ func()) {
			close(draining)
		}, false, 0, models.ErrDraining, time.Second},
		"the caller leaves": {1, func(_ *testing.T, _ *fleet, _ []*service.Agent, _ chan struct{}, leave func()) {
			leave()
		}, false, 0, context.Canceled, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			store := &counting{DB: newStore(t)}
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, store, store.DB)
				lives := f.join(t, 4)
				publish(t, f.configs, draft("http://a/"))
				draining, done := make(chan struct{}), make(chan verdict)
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				began := time.Now()
				go func() {
					r, reached, err := f.rollouts.Wait(ctx, 1, row.share, time.Minute, draining)
					done <- verdict{r, reached, err, time.Since(began)}
				}()
				time.Sleep(time.Second)
				go row.during(t, f, lives, draining, leave)
				got := <-done
				if got.reached != row.reached || !errors.Is(got.err, row.err) {
					t.Fatalf("got %+v, want reached %v, error %v", got, row.reached, row.err)
				}
				if late := got.after - row.at; late < 0 || late > time.Second/2 {
					t.Errorf("answered after %s, want %s", got.after, row.at)
				}
				if row.err == nil && (got.rollout.Applied != row.applied || (got.rollout.SupersededBy != 0) != (name == "the version is superseded")) {
					t.Errorf("got %+v, want %d applied", got.rollout, row.applied)
				}
				if name != "the version is superseded" && store.asked != 0 {
					t.Errorf("the store was asked %d times, want never", store.asked)
				}
				synctest.Wait()
			})
		})
	}
}

func TestWait_NoTargets_NeverReached(t *testing.T) {
	f := openFleet(t)
	publish(t, f.configs, draft("http://a/"))
	if _, reached, err := f.rollouts.Wait(t.Context(), 1, 0.5, 0, nil); reached || err != nil {
		t.Errorf("a fleet of none: got %v, %v, want not reached", reached, err)
	}
	if _, _, err := f.rollouts.Wait(t.Context(), 2, 0.5, time.Minute, nil); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("a version that is none: got %v, want ErrNotFound at once", err)
	}
}

// What an agent was told is noted is on the disk.
func TestReport_IsDurableWhenItReturns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := openStore(t, path)
	f := newFleet(t, db, db)
	lives := f.join(t, 30)
	var group sync.WaitGroup
	for i, live := range lives {
		group.Go(func() {
			attempt := models.Attempt{Version: 1, Status: models.Applied, At: models.Now()}
			if i%3 == 0 {
				attempt.Status, attempt.Error = models.Failed, "no room"
			}
			if _, err := f.agents.Report(t.Context(), live, attempt); err != nil {
				t.Errorf("Report: %v", err)
			}
		})
	}
	group.Wait()
	want := f.agents.List(service.Query{Limit: 100}, newest(1), time.Now()).Agents
	closeDB() // and no flush
	db, _ = openStore(t, path)
	f = newFleet(t, db, db)
	if diff := cmp.Diff(want, f.agents.List(service.Query{Limit: 100}, newest(1), time.Now()).Agents); diff != "" {
		t.Errorf("after a crash, -want +got:\n%s", diff)
	}
}

// slowBatches is a store that takes a second to write reports.
type slowBatches struct{ batches }

func (s *slowBatches) SaveReports(ctx context.Context, batch map[string]models.Presence) error {
	time.Sleep(time.Second)
	return s.batches.SaveReports(ctx, batch)
}

// Reports that come together are written together.
func TestReport_Concurrent_FewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowBatches{}
		agents, _ := openAgents(t, store)
		var group sync.WaitGroup
		for i := range 200 {
			time.Sleep(time.Millisecond)
			id, token := register(t, agents, fmt.Sprint("a", i))
			live := login(t, agents, id, token)
			group.Go(func() {
				if _, err := agents.Report(t.Context(), live, models.Attempt{Version: 1, Status: models.Applied, At: models.Now()}); err != nil {
					t.Errorf("Report: %v", err)
				}
			})
		}
		group.Wait()
		written := 0
		for _, n := range store.written() {
			written += n
		}
		if len(store.written()) > 3 || written != 200 {
			t.Errorf("got batches of %v, want all 200 in at most 3", store.written())
		}
	})
}

// A report that was stored with that of another waits for no further write, and does
// not fail with it.
func TestReport_StoredByAnother_Returns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowBatches{}
		agents, _ := openAgents(t, store)
		var group sync.WaitGroup
		var errs [4]error
		began := time.Now()
		for i, at := range []time.Duration{0, 100, 200, 1500} { // the first writes, the second for the third too
			time.Sleep(at*time.Millisecond - time.Since(began))
			id, token := register(t, agents, fmt.Sprint("a", i))
			live := login(t, agents, id, token)
			group.Go(func() {
				attempt := models.Attempt{Version: 1, Status: models.Applied, At: models.Now()}
				_, errs[i] = agents.Report(t.Context(), live, attempt)
			})
		}
		time.Sleep(2500*time.Millisecond - time.Since(began))
		store.fail(true) // what the last one writes
		group.Wait()
		if err := errors.Join(errs[:3]...); err != nil || errs[3] == nil || len(store.written()) != 3 {
			t.Errorf("got %v and %v in %v, want the last of three writes failed", err, errs[3], store.written())
		}
	})
}

func TestReport_StoreFails_KeptInMemory(t *testing.T) {
	store := &batches{}
	agents, _ := openAgents(t, store)
	id, token := register(t, agents, "a1")
	live := login(t, agents, id, token)
	store.fail(true)
	attempt := models.Attempt{Version: 1, Status: models.Failed, Error: "no", At: models.Now()}
	if _, err := agents.Report(t.Context(), live, attempt); !errors.Is(err, database.ErrFull) || !errors.Is(err, database.ErrInDoubt) {
		t.Errorf("got %v, want the store's error, in doubt: memory has it, and the agent is to say it again", err)
	}
	agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Second})
	if offers(live, 1) {
		t.Error("the refused version is offered again: memory forgot it")
	}
	store.fail(false)
	report(t, agents, live, attempt)
	if n := len(store.written()); n != 2 {
		t.Errorf("got %d writes, want the one that failed and another", n)
	}
}

func TestRetry_OffersTheRefusedVersionAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := openStore(t, path)
	f := newFleet(t, db, db)
	live := f.join(t, 1)[0]
	publish(t, f.configs, draft("http://a/"))
	report(t, f.agents, live, models.Attempt{Version: 1, Status: models.Failed, Error: "no", At: models.Now()})
	if err := f.agents.Retry(t.Context(), "a0", byAdmin); err != nil {
		t.Fatal(err)
	}
	if err := f.agents.Retry(t.Context(), "nobody", byAdmin); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("an agent that is none: got %v, want ErrNotFound", err)
	}
	f.agents.Poll(live, models.Poll{At: time.Now(), Interval: defaultInterval})
	if !offers(live, 1) {
		t.Error("the version is not offered again")
	}
	entries, err := db.Audit(t.Context(), models.ActionRetry, 0, 10)
	if err != nil || len(entries) != 1 || entries[0].Origin != byAdmin || entries[0].Version != 1 {
		t.Errorf("the audit trail: got %+v, %v", entries, err)
	}
	closeDB()
	db, _ = openStore(t, path)
	if got, _ := newFleet(t, db, db).agents.Agent("a0"); got.Refuses(1) {
		t.Error("after a crash it is refused again")
	}
}
