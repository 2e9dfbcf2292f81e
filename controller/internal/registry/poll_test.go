package registry_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// slowFlush is a store whose presence flushes take as long as a test lets them.
type slowFlush struct {
	fleettest.Batches
	proceed chan struct{}

	mu     sync.Mutex
	stored models.Presence // the report columns of the one agent
}

func (s *slowFlush) write(batch []database.Presence) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range batch {
		if p.Reported {
			s.stored = p.Presence
		}
	}
}

func (s *slowFlush) SavePresence(_ context.Context, batch []database.Presence, _ ...models.Entry) error {
	<-s.proceed
	s.write(batch)
	return nil
}

func (s *slowFlush) SaveReports(_ context.Context, batch []database.Presence) error {
	s.write(batch)
	return nil
}

// What a flush read before a report does not replace the report in the store.
func TestReport_DuringFlush_NotOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowFlush{proceed: make(chan struct{})}
		agents, _ := fleettest.OpenAgents(t, store)
		id, token := fleettest.Register(t, agents, "a1")
		live := fleettest.Login(t, agents, id, token)
		agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Hour, Runs: 1})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = agents.Run(ctx) })
		time.Sleep(registry.FlushInterval)
		synctest.Wait() // the flush has read the agent
		running.Go(func() {
			attempt := wire.Attempt{Version: 2, Status: wire.Failed, Error: "no", At: time.Now()}
			if _, err := agents.Report(t.Context(), live, attempt); err != nil {
				t.Errorf("Report: %v", err)
			}
		})
		synctest.Wait()
		close(store.proceed)
		synctest.Wait()
		stop()
		running.Wait()
		if store.stored.Refused.Version != 2 {
			t.Errorf("stored: got %+v, want the refusal of version 2", store.stored)
		}
	})
}

// A poll that changes nothing makes no garbage.
func TestPoll_NothingChanged_AllocatesNothing(t *testing.T) {
	agents, _ := fleettest.OpenAgents(t, fleettest.NewStore(t))
	id, token := fleettest.Register(t, agents, "a1")
	live := fleettest.Login(t, agents, id, token)
	poll := func() { agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Hour, Runs: 1}) }
	poll()
	if got := testing.AllocsPerRun(100, poll); got != 0 {
		t.Errorf("got %v allocations for each poll, want none", got)
	}
}
