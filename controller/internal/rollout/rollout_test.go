package rollout_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func TestRollout_CountsAgentsByOutcome(t *testing.T) {
	f := fleettest.Open(t)
	lives := f.Join(t, 40)
	cfg := fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	for i, live := range lives[:10] { // 100 ms, 200 ms, … a second
		fleettest.Report(t, f.Agents, live, wire.Attempt{
			Version: 1, Status: wire.Applied, At: cfg.PublishedAt.Add(time.Duration(i+1) * 100 * time.Millisecond),
		})
	}
	for i, live := range lives[10:18] {
		message := "host not allowed"
		if i == 0 {
			message = "status 503"
		}
		fleettest.Report(
			t, f.Agents, live, wire.Attempt{Version: 1, Status: wire.Failed, Error: message, At: models.Now()},
		)
	}
	fleettest.Report(t, f.Agents, lives[18], wire.Attempt{Version: 1, Status: wire.Applying, At: models.Now()})
	late, token := fleettest.Register(t, f.Agents, "late") // after the commit: not in the latency
	fleettest.Report(
		t, f.Agents, fleettest.Login(t, f.Agents, late, token),
		wire.Attempt{Version: 1, Status: wire.Applied, At: cfg.PublishedAt.Add(time.Hour)},
	)

	got := f.Figures(t, 1)
	want := models.Figures{
		Targets: 41, Applied: 11, Failed: 8, Pending: 22,
		FirstAppliedAt: cfg.PublishedAt.Add(100 * time.Millisecond),
		Latency: models.Latency{
			Agents: 10, P50: 500 * time.Millisecond, P90: 900 * time.Millisecond, P99: time.Second, Max: time.Second,
		},
		Failures: []wire.RolloutFailure{
			{Error: "host not allowed", Count: 7, SampleAgents: []string{"a11", "a12", "a13", "a14", "a15"}},
			{Error: "status 503", Count: 1, SampleAgents: []string{"a10"}},
		},
	}
	if diff := cmp.Diff(want, got.Figures, cmpopts.IgnoreFields(models.Figures{}, "Stragglers")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(got.Stragglers) != 20 || got.Stragglers[0].ID != "a18" || got.Stragglers[0].Status != wire.Online {
		t.Errorf("stragglers: got %d of them, %+v first, want 20 and a18 first", len(got.Stragglers), got.Stragglers[0])
	}
}

func TestRollout_ContentMismatch_Pending(t *testing.T) {
	f := fleettest.Open(t)
	live := f.Join(t, 1)[0]
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	poll := models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 1}
	for _, row := range []struct {
		mismatch         bool
		applied, pending int
	}{{true, 0, 1}, {false, 1, 0}} {
		poll.Mismatch = row.mismatch
		f.Agents.Poll(live, poll)
		if got := f.Figures(t, 1).Figures; got.Applied != row.applied || got.Pending != row.pending {
			t.Errorf("mismatch %v: got %+v, want %d applied, %d pending", row.mismatch, got, row.applied, row.pending)
		}
	}
}

func TestRollout_AgentsUnseen_OfflineOrLeftOut(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		f := fleettest.New(t, db, db)
		lives := f.Join(t, 3)
		fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
		time.Sleep(11 * fleettest.DefaultInterval)
		f.Agents.Poll(lives[0], models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval})
		got := f.Figures(t, 1)
		if got.Targets != 3 || got.Pending != 1 || got.Offline != 2 {
			t.Errorf("got %+v, want one pending and two offline", got.Figures)
		}
		if len(got.Stragglers) != 3 || got.Stragglers[0].ID != "a0" || got.Stragglers[1].Status != wire.Offline {
			t.Errorf("stragglers: got %+v, want the pending one first", got.Stragglers)
		}
		time.Sleep(fleettest.InactiveAfter)
		f.Agents.Poll(lives[0], models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 1})
		if got := f.Figures(t, 1); got.Targets != 1 || got.Share() != 1 {
			t.Errorf("a week later: got %+v, want the inactive ones left out", got.Figures)
		}
	})
}

func TestRollout_Superseded_KeepsItsFigures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	f := fleettest.New(t, db, db)
	lives := f.Join(t, 3)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	fleettest.Report(t, f.Agents, lives[0], wire.Attempt{Version: 1, Status: wire.Applied, At: models.Now()})
	fleettest.Report(
		t, f.Agents, lives[1], wire.Attempt{Version: 1, Status: wire.Failed, Error: "no", At: models.Now()},
	)
	before := f.Figures(t, 1)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://b/"))
	// too late
	fleettest.Report(t, f.Agents, lives[2], wire.Attempt{Version: 1, Status: wire.Applied, At: models.Now()})
	// as kill -9 does
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	f = fleettest.New(t, db, db)
	before.SupersededBy = 2
	now := cmpopts.IgnoreFields(models.Straggler{}, "LastPoll")
	if diff := cmp.Diff(before, f.Figures(t, 1), now); diff != "" {
		t.Errorf("-when it was superseded +after:\n%s", diff)
	}
	if _, err := f.Rollouts.Rollout(t.Context(), 3); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("an unknown version: got %v, want ErrNotFound", err)
	}
}

// outcome is the outcome of Wait.
type outcome struct {
	rollout *models.Rollout
	reached bool
	err     error
	after   time.Duration
}

// counting is a store that counts reads of figures.
type counting struct {
	*sqlite.DB
	reads int
}

func (c *counting) Figures(ctx context.Context, version int64) (models.Figures, int64, error) {
	c.reads++
	return c.DB.Figures(ctx, version)
}

func TestWait_EachEnd_ReturnsRollout(t *testing.T) {
	applied := func(t *testing.T, f *fleettest.Fleet, live *registry.Agent) {
		fleettest.Report(t, f.Agents, live, wire.Attempt{Version: 1, Status: wire.Applied, At: models.Now()})
	}
	for name, row := range map[string]struct {
		share   float64
		during  func(t *testing.T, f *fleettest.Fleet, lives []*registry.Agent, draining chan struct{}, cancel func())
		reached bool
		applied int
		err     error
		at      time.Duration // when Wait returns, with half a second of tolerance
	}{
		"a report reaches the share": {0.5, func(
			t *testing.T, f *fleettest.Fleet, lives []*registry.Agent, _ chan struct{}, _ func(),
		) {
			applied(t, f, lives[0])
			time.Sleep(time.Second)
			applied(t, f, lives[1])
		}, true, 2, nil, 2 * time.Second},
		"a poll after a lost report reaches the share": {0.25, func(
			_ *testing.T, f *fleettest.Fleet, lives []*registry.Agent, _ chan struct{}, _ func(),
		) {
			f.Agents.Poll(lives[0], models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 1})
		}, true, 1, nil, time.Second},
		"removals reach the share": {1, func(
			t *testing.T, f *fleettest.Fleet, lives []*registry.Agent, _ chan struct{}, _ func(),
		) {
			applied(t, f, lives[0])
			time.Sleep(time.Second)
			for _, id := range []string{"a1", "a2", "a3"} {
				if err := f.Agents.Decommission(t.Context(), id, fleettest.ByAdmin); err != nil {
					t.Error(err)
				}
			}
		}, true, 1, nil, 2 * time.Second},
		"a poll that ends a mismatch reaches the share": {0.25, func(
			_ *testing.T, f *fleettest.Fleet, lives []*registry.Agent, _ chan struct{}, _ func(),
		) {
			poll := models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 1}
			poll.Mismatch = true
			f.Agents.Poll(lives[0], poll)
			time.Sleep(time.Second)
			poll.Mismatch = false
			f.Agents.Poll(lives[0], poll)
		}, true, 1, nil, 2 * time.Second},
		"the wait ends": {1, func(
			t *testing.T, f *fleettest.Fleet, lives []*registry.Agent, _ chan struct{}, _ func(),
		) {
			applied(t, f, lives[0])
		}, false, 1, nil, time.Minute},
		"a refusal does not count": {0.25, func(
			t *testing.T, f *fleettest.Fleet, lives []*registry.Agent, _ chan struct{}, _ func(),
		) {
			fleettest.Report(t, f.Agents, lives[0], wire.Attempt{Version: 1, Status: wire.Failed, At: models.Now()})
		}, false, 0, nil, time.Minute},
		"the version is superseded": {1, func(
			t *testing.T, f *fleettest.Fleet, lives []*registry.Agent, _ chan struct{}, _ func(),
		) {
			applied(t, f, lives[0])
			fleettest.Publish(t, f.Publisher, fleettest.Draft("http://b/"))
		}, false, 1, nil, time.Second},
		"the controller stops": {1, func(
			_ *testing.T, _ *fleettest.Fleet, _ []*registry.Agent, draining chan struct{}, _ func(),
		) {
			close(draining)
		}, false, 0, models.ErrDraining, time.Second},
		"the client disconnects": {1, func(
			_ *testing.T, _ *fleettest.Fleet, _ []*registry.Agent, _ chan struct{}, disconnect func(),
		) {
			disconnect()
		}, false, 0, context.Canceled, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			store := &counting{DB: fleettest.NewStore(t)}
			synctest.Test(t, func(t *testing.T) {
				f := fleettest.New(t, store, store.DB)
				lives := f.Join(t, 4)
				fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
				draining, done := make(chan struct{}), make(chan outcome)
				ctx, disconnect := context.WithCancel(t.Context())
				defer disconnect()
				began := time.Now()
				go func() {
					r, reached, err := f.Rollouts.Wait(ctx, 1, row.share, time.Minute, draining)
					done <- outcome{r, reached, err, time.Since(began)}
				}()
				time.Sleep(time.Second)
				go row.during(t, f, lives, draining, disconnect)
				got := <-done
				if got.reached != row.reached || !errors.Is(got.err, row.err) {
					t.Fatalf("got %+v, want reached %v, error %v", got, row.reached, row.err)
				}
				if late := got.after - row.at; late < 0 || late > time.Second/2 {
					t.Errorf("returned after %s, want %s", got.after, row.at)
				}
				superseded := name == "the version is superseded"
				if row.err == nil &&
					(got.rollout.Applied != row.applied || (got.rollout.SupersededBy != 0) != superseded) {
					t.Errorf("got %+v, want %d applied", got.rollout, row.applied)
				}
				if !superseded && store.reads != 0 {
					t.Errorf("got %d reads of the store, want none", store.reads)
				}
				synctest.Wait()
			})
		})
	}
}

func TestWait_NoTargets_NeverReached(t *testing.T) {
	f := fleettest.Open(t)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	if _, reached, err := f.Rollouts.Wait(t.Context(), 1, 0.5, 0, nil); reached || err != nil {
		t.Errorf("no agents: got %v, %v, want not reached", reached, err)
	}
	if _, _, err := f.Rollouts.Wait(t.Context(), 2, 0.5, time.Minute, nil); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("an unknown version: got %v, want ErrNotFound immediately", err)
	}
}
