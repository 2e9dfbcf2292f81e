package registry_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func openCounted(store database.Store, plan *atomic.Pointer[models.Plan]) (*registry.Registry, error) {
	log, _ := logtest.NewNullLogger()
	return registry.Open(
		context.Background(), store, plan, registry.Options{InactiveAfter: fleettest.InactiveAfter}, log,
	)
}

func newAgents(t *testing.T) *registry.Registry {
	t.Helper()
	agents, _ := fleettest.OpenAgents(t, fleettest.NewStore(t))
	return agents
}

func TestPoll_Returned_Visible(t *testing.T) {
	agents := newAgents(t)
	id, token := fleettest.Register(t, agents, "")
	at := time.Now().UTC()
	live := fleettest.Login(t, agents, id, token)
	agents.Poll(live, models.Poll{At: at, Interval: 5 * time.Second, Runs: 2})
	if !fleettest.Offers(live, 3) {
		t.Error("version 3 is not offered")
	}
	got, err := agents.Agent(id)
	want := models.Presence{LastPoll: at, PollInterval: 5 * time.Second, Applied: 2, AppliedAt: at}
	if diff := cmp.Diff(want, got.Presence); err != nil || diff != "" {
		t.Errorf("presence (%v), -want +got:\n%s", err, diff)
	}
}

// The version that an agent runs stands in for a lost report.
func TestPoll_AfterALostReport_ShowsApplied(t *testing.T) {
	agents := newAgents(t)
	id, token := fleettest.Register(t, agents, "")
	live := fleettest.Login(t, agents, id, token)
	now := time.Now().UTC()
	fleettest.Report(t, agents, live, wire.Attempt{Version: 2, Status: wire.Failed, Error: "no", At: now})
	agents.Poll(live, models.Poll{At: now, Interval: time.Second, Runs: 2})
	got, _ := agents.Agent(id)
	want := models.Presence{
		LastPoll: now, PollInterval: time.Second, Applied: 2, AppliedAt: now,
		Attempt: wire.Attempt{Version: 2, Status: wire.Applied, At: now},
	}
	if diff := cmp.Diff(want, got.Presence); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestRun_Stopped_PresenceKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	agents, _ := fleettest.OpenAgents(t, db)
	id, token := fleettest.Register(t, agents, "")
	at := time.Now().UTC().Truncate(time.Microsecond)
	agents.Poll(fleettest.Login(t, agents, id, token), models.Poll{At: at, Interval: time.Minute, Runs: 1})
	fleettest.Report(
		t, agents, fleettest.Login(t, agents, id, token),
		wire.Attempt{Version: 2, Status: wire.Failed, Error: "no", At: at},
	)
	want, _ := agents.Agent(id)

	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := agents.Run(ctx); err != nil { // returns after one flush
		t.Fatal(err)
	}
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	agents, _ = fleettest.OpenAgents(t, db)
	got, err := agents.Agent(id)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("the agent after a restart (%v), -want +got:\n%s", err, diff)
	}
	live := fleettest.Login(t, agents, id, token)
	agents.Poll(live, models.Poll{At: at, Interval: time.Minute, Runs: 1})
	if fleettest.Offers(live, 2) {
		t.Error("the refused version is offered again after a restart")
	}
}

func TestRegistry_ConcurrentCalls_NoRace(t *testing.T) {
	agents := newAgents(t)
	id, token := fleettest.Register(t, agents, "shared")
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 20 {
				if live := agents.Authenticate([]byte(id), []byte(token)); live != nil {
					agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Second, Runs: int64(n)})
					if _, err := agents.Report(
						t.Context(), live, wire.Attempt{Version: int64(n), Status: wire.Applied, At: time.Now()},
					); err != nil {
						t.Errorf("Report: %v", err)
					}
				}
				agents.List(census.Query{Limit: 5, Status: wire.Online}, fleettest.Newest(1), time.Now())
				own, _ := fleettest.Register(t, agents, fmt.Sprintf("a%d", i))
				if n%5 == 0 {
					_ = agents.Decommission(t.Context(), own, fleettest.ByAdmin)
				}
			}
		})
	}
	group.Wait()
}
