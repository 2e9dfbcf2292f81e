package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func TestRun_AgentUnseenForPruneAfter_Removed(t *testing.T) {
	const pruneAfter = 24 * time.Hour
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		before, _ := fleettest.OpenAgents(t, db)
		fleettest.Register(t, before, "unseen")
		time.Sleep(3 * pruneAfter) // downtime of the controller, which does not count
		log, _ := logtest.NewNullLogger()
		agents, err := registry.Open(
			t.Context(), db, fleettest.NoPlan(),
			registry.Options{InactiveAfter: fleettest.InactiveAfter, PruneAfter: pruneAfter}, log,
		)
		if err != nil {
			t.Fatal(err)
		}
		id, token := fleettest.Register(t, agents, "stays")
		live := fleettest.Login(t, agents, id, token)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- agents.Run(ctx) }()
		time.Sleep(pruneAfter - time.Minute)
		agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Minute, Runs: 1})
		if _, err := agents.Agent("unseen"); err != nil {
			t.Errorf("before PRUNE_AFTER: %v", err)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if _, err := agents.Agent("unseen"); err == nil {
			t.Error("after PRUNE_AFTER: still registered")
		}
		if _, err := agents.Agent("stays"); err != nil {
			t.Errorf("the agent that polled: %v", err)
		}
		stop()
		<-done
		entries, err := db.Audit(t.Context(), models.ActionDecommission, 0, 10)
		if err != nil || len(entries) != 1 || !strings.Contains(entries[0].Detail, "unseen") ||
			entries[0].Actor != "controller" {
			t.Errorf("audit log: got %+v, %v, want one entry that names the agent", entries, err)
		}
	})
}

// Frequent restarts of the controller do not prevent pruning.
func TestRun_FrequentRestarts_AgentPruned(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		log, _ := logtest.NewNullLogger()
		open := func() *registry.Registry {
			agents, err := registry.Open(
				t.Context(), db, fleettest.NoPlan(),
				registry.Options{InactiveAfter: fleettest.InactiveAfter, PruneAfter: 10 * day}, log,
			)
			if err != nil {
				t.Fatal(err)
			}
			return agents
		}
		agents := open()
		fleettest.Register(t, agents, "unseen")
		id, token := fleettest.Register(t, agents, "stays")
		run := func(d time.Duration) {
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- agents.Run(ctx) }()
			for range d / time.Hour {
				agents.Poll(
					fleettest.Login(t, agents, id, token), models.Poll{At: time.Now(), Interval: time.Hour, Runs: 1},
				)
				time.Sleep(time.Hour)
			}
			stop()
			<-done
		}
		wantGone := func(want bool) {
			t.Helper()
			if _, err := agents.Agent("unseen"); (err != nil) != want {
				t.Errorf("the unseen agent: got %v, want it removed: %v", err, want)
			}
			if _, err := agents.Agent(id); err != nil {
				t.Errorf("the agent that polls: %v", err)
			}
		}
		for range 9 { // a restart each day
			run(day)
			agents = open()
		}
		wantGone(false)
		time.Sleep(30 * day) // downtime
		agents = open()
		run(time.Hour)
		wantGone(false)
		run(2 * day)
		wantGone(true)
	})
}

// Law 11: the database receives one batch in each period, however many polls there are.
func TestRun_Presence_WrittenInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fleettest.Batches{}
		agents, logged := fleettest.OpenAgents(t, store)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- agents.Run(ctx) }()
		lives := []*registry.Agent{}
		for i := range 10 {
			time.Sleep(time.Millisecond)
			id, token := fleettest.Register(t, agents, fmt.Sprint("a", i))
			lives = append(lives, fleettest.Login(t, agents, id, token))
		}
		poll := func() {
			for range 100 {
				for _, live := range lives {
					agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Second, Runs: 1})
				}
			}
		}
		poll()
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		time.Sleep(2 * registry.FlushInterval) // no polls: no writes
		synctest.Wait()
		if diff := cmp.Diff([]int{10}, store.Written()); diff != "" {
			t.Errorf("batches after 1,000 polls, -want +got:\n%s", diff)
		}

		store.Fail(true)
		poll()
		time.Sleep(2 * registry.FlushInterval)
		synctest.Wait()
		warnings := 0
		for _, entry := range logged.AllEntries() {
			if entry.Level == logrus.WarnLevel {
				warnings++
			}
		}
		if warnings != 1 {
			t.Errorf("got %d warnings over two failed flushes, want 1", warnings)
		}
		store.Fail(false)
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		if last := logged.LastEntry(); last.Level != logrus.InfoLevel {
			t.Errorf("after the recovery: logged %v, want Info", last)
		}
		poll()
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if diff := cmp.Diff([]int{10, 10, 10, 10, 10}, store.Written()); diff != "" {
			t.Errorf("batches: one, two that failed, one after the recovery, the last; -want +got:\n%s", diff)
		}
	})
}

// A large fleet is written in parts, so that a publish does not wait for all of them. A
// part that was not stored is written again.
func TestRun_LargeFleet_WrittenInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fleettest.Batches{}
		agents, _ := fleettest.OpenAgents(t, store)
		for i := range 5000 {
			time.Sleep(time.Microsecond)
			id, token := fleettest.Register(t, agents, fmt.Sprint("a", i))
			agents.Poll(
				fleettest.Login(t, agents, id, token), models.Poll{At: time.Now(), Interval: time.Second, Runs: 1},
			)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- agents.Run(ctx) }()
		store.Fail(true)
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		store.Fail(false)
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		if diff := cmp.Diff([]int{4096, 904, 4096}, store.Written()); diff != "" &&
			!cmp.Equal([]int{4096, 4096, 904}, store.Written()) {
			t.Errorf("batches: one that failed, then the rest and the failed one; -want +got:\n%s", diff)
		}
		stop()
		<-done
	})
}

// A large fleet is pruned in parts, so that a registration does not wait for all of them.
func TestRun_LargeFleet_PrunedInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fleettest.Batches{}
		log, _ := logtest.NewNullLogger()
		agents, err := registry.Open(
			t.Context(), store, fleettest.NoPlan(), registry.Options{PruneAfter: time.Hour}, log,
		)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 1500 {
			fleettest.Register(t, agents, fmt.Sprint("a", i))
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- agents.Run(ctx) }()
		time.Sleep(2 * time.Hour)
		stop()
		<-done
		if diff := cmp.Diff([]int{1000, 500}, store.Removals()); diff != "" {
			t.Errorf("agents in each removal, -want +got:\n%s", diff)
		}
	})
}

func TestRun_PollAfterPruneScan_AgentStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pruneAfter = 24 * time.Hour
		store := &slowRemovals{permits: make(chan struct{}, 2)}
		log, _ := logtest.NewNullLogger()
		agents, err := registry.Open(
			t.Context(), store, fleettest.NoPlan(), registry.Options{PruneAfter: pruneAfter}, log,
		)
		if err != nil {
			t.Fatal(err)
		}
		id, token := fleettest.Register(t, agents, "stays")
		fleettest.Register(t, agents, "other")
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- agents.Run(ctx) }()
		time.Sleep(pruneAfter + time.Minute - time.Second)
		go func() { done <- agents.Decommission(t.Context(), "other", fleettest.ByAdmin) }()
		time.Sleep(2 * time.Second) // after the scan, while the removal waits
		agents.Poll(fleettest.Login(t, agents, id, token), models.Poll{At: time.Now(), Interval: time.Minute})
		store.permits <- struct{}{}
		store.permits <- struct{}{}
		if err := <-done; err != nil {
			t.Errorf("Decommission: %v", err)
		}
		synctest.Wait()
		if _, err := agents.Agent(id); err != nil || store.removed != 1 {
			t.Errorf("got %v, %d removals, want the agent that polled to stay", err, store.removed)
		}
		stop()
		<-done
	})
}

// flushes is a store that records the last flush.
type flushes struct {
	fleettest.Batches
	last []database.Presence
}

func (f *flushes) SavePresence(ctx context.Context, batch []database.Presence, entries ...models.Entry) error {
	f.last = batch
	return f.Batches.SavePresence(ctx, batch, entries...)
}

// A flush includes the fields that reports set if they may differ from the store.
func TestRun_Flush_IncludesUnsavedReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &flushes{}
		agents, _ := fleettest.OpenAgents(t, store)
		id, token := fleettest.Register(t, agents, "a1")
		live := fleettest.Login(t, agents, id, token)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- agents.Run(ctx) }()
		poll := func(runs int64) {
			agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Second, Runs: runs})
		}
		disconnected, disconnect := context.WithCancel(t.Context())
		disconnect()
		report := func(ctx context.Context, status wire.AttemptStatus, want error) {
			t.Helper()
			attempt := wire.Attempt{Version: 2, Status: status, At: models.Now()}
			if _, err := agents.Report(ctx, live, attempt); !errors.Is(err, want) {
				t.Errorf("Report: got %v, want %v", err, want)
			}
		}
		for _, row := range []struct {
			name     string
			do       func()
			fails    bool
			reported bool
		}{
			{"a poll without a version", func() { poll(0) }, false, false},
			{"a poll with a version", func() { poll(1) }, false, true},
			{"the same poll", func() { poll(1) }, false, false},
			{"a report that is stored", func() { report(ctx, wire.Applying, nil) }, false, false},
			{"a poll that completes the report", func() { poll(2) }, true, true},
			{"the same poll, after a flush that failed", func() { poll(2) }, false, true},
			{
				"a report that is not stored", func() { store.Fail(true); report(ctx, wire.Failed, database.ErrFull) },
				false, true,
			},
			{"a poll with another outcome", func() { poll(2) }, false, true},
			{"that poll again", func() { poll(2) }, false, false},
			{"a report of a client that disconnected", func() {
				report(disconnected, wire.Failed, context.Canceled)
			}, false, true},
		} {
			store.last = nil
			store.Fail(false)
			row.do()
			store.Fail(row.fails)
			time.Sleep(registry.FlushInterval)
			synctest.Wait()
			if len(store.last) != 1 || store.last[0].Reported != row.reported {
				t.Errorf(
					"%s: got %+v, want one agent, reported fields included: %v", row.name, store.last, row.reported,
				)
			}
		}
		stop()
		<-done
	})
}
