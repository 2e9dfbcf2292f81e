package registry_test

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

	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func TestReport_Returned_Durable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	f := fleettest.New(t, db, db)
	lives := f.Join(t, 30)
	var group sync.WaitGroup
	for i, live := range lives {
		group.Go(func() {
			attempt := wire.Attempt{Version: 1, Status: wire.Applied, At: models.Now()}
			if i%3 == 0 {
				attempt.Status, attempt.Error = wire.Failed, "no room"
			}
			if _, err := f.Agents.Report(t.Context(), live, attempt); err != nil {
				t.Errorf("Report: %v", err)
			}
		})
	}
	group.Wait()
	want := f.Agents.List(census.Query{Limit: 100}, fleettest.Newest(1), time.Now()).Agents
	closeDB() // and no flush
	db, _ = fleettest.OpenStore(t, path)
	f = fleettest.New(t, db, db)
	if diff := cmp.Diff(
		want, f.Agents.List(census.Query{Limit: 100}, fleettest.Newest(1), time.Now()).Agents,
	); diff != "" {
		t.Errorf("after a crash, -want +got:\n%s", diff)
	}
}

// slowBatches is a store that takes a second to write reports.
type slowBatches struct{ fleettest.Batches }

func (s *slowBatches) SaveReports(ctx context.Context, batch []database.Presence) error {
	time.Sleep(time.Second)
	return s.Batches.SaveReports(ctx, batch)
}

// Concurrent reports are written together.
func TestReport_Concurrent_FewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowBatches{}
		agents, _ := fleettest.OpenAgents(t, store)
		var group sync.WaitGroup
		for i := range 200 {
			time.Sleep(time.Millisecond)
			id, token := fleettest.Register(t, agents, fmt.Sprint("a", i))
			live := fleettest.Login(t, agents, id, token)
			group.Go(func() {
				if _, err := agents.Report(
					t.Context(), live, wire.Attempt{Version: 1, Status: wire.Applied, At: models.Now()},
				); err != nil {
					t.Errorf("Report: %v", err)
				}
			})
		}
		group.Wait()
		written := 0
		for _, n := range store.Written() {
			written += n
		}
		if len(store.Written()) > 3 || written != 200 {
			t.Errorf("got batches of %v, want all 200 in at most 3", store.Written())
		}
	})
}

// A report that another call has stored returns immediately, and does not fail with the
// next write.
func TestReport_StoredByAnother_Returns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowBatches{}
		agents, _ := fleettest.OpenAgents(t, store)
		var group sync.WaitGroup
		var errs [4]error
		began := time.Now()
		for i, at := range []time.Duration{0, 100, 200, 1500} { // the first writes, the second for the third too
			time.Sleep(at*time.Millisecond - time.Since(began))
			id, token := fleettest.Register(t, agents, fmt.Sprint("a", i))
			live := fleettest.Login(t, agents, id, token)
			group.Go(func() {
				attempt := wire.Attempt{Version: 1, Status: wire.Applied, At: models.Now()}
				_, errs[i] = agents.Report(t.Context(), live, attempt)
			})
		}
		time.Sleep(2500*time.Millisecond - time.Since(began))
		store.Fail(true) // what the last one writes
		group.Wait()
		if err := errors.Join(errs[:3]...); err != nil || errs[3] == nil || len(store.Written()) != 3 {
			t.Errorf("got %v and %v in %v, want the last of three writes failed", err, errs[3], store.Written())
		}
	})
}

func TestReport_StoreFails_KeptInMemory(t *testing.T) {
	store := &fleettest.Batches{}
	agents, _ := fleettest.OpenAgents(t, store)
	id, token := fleettest.Register(t, agents, "a1")
	live := fleettest.Login(t, agents, id, token)
	store.Fail(true)
	attempt := wire.Attempt{Version: 1, Status: wire.Failed, Error: "no", At: models.Now()}
	if _, err := agents.Report(t.Context(), live, attempt); !errors.Is(err, database.ErrFull) ||
		!errors.Is(err, database.ErrInDoubt) {
		t.Errorf("got %v, want the store's error, in doubt: it is in memory, and the agent must repeat it", err)
	}
	agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Second})
	if fleettest.Offers(live, 1) {
		t.Error("the refused version is offered again, want the refusal kept in memory")
	}
	store.Fail(false)
	fleettest.Report(t, agents, live, attempt)
	if n := len(store.Written()); n != 2 {
		t.Errorf("got %d writes, want the failed one and another", n)
	}
}

func TestRetry_RefusedVersion_OfferedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	f := fleettest.New(t, db, db)
	live := f.Join(t, 1)[0]
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	fleettest.Report(t, f.Agents, live, wire.Attempt{Version: 1, Status: wire.Failed, Error: "no", At: models.Now()})
	if err := f.Agents.Retry(t.Context(), "a0", fleettest.ByAdmin); err != nil {
		t.Fatal(err)
	}
	if err := f.Agents.Retry(t.Context(), "unknown", fleettest.ByAdmin); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("an unknown agent: got %v, want ErrNotFound", err)
	}
	f.Agents.Poll(live, models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval})
	if !fleettest.Offers(live, 1) {
		t.Error("the version is not offered again")
	}
	entries, err := db.Audit(t.Context(), models.ActionRetry, 0, 10)
	if err != nil || len(entries) != 1 || entries[0].Origin != fleettest.ByAdmin || entries[0].Version != 1 {
		t.Errorf("audit log: got %+v, %v, want one retry of version 1", entries, err)
	}
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	if got, _ := fleettest.New(t, db, db).Agents.Agent("a0"); got.Refuses(1) {
		t.Error("after a restart: still refused")
	}
}

// lateFailure is a store whose writes of reports fail once flushed is closed.
type lateFailure struct {
	flushes
	flushed chan struct{}
}

func (l *lateFailure) SaveReports(context.Context, []database.Presence) error {
	<-l.flushed
	return database.ErrFull
}

func TestReport_StoreFailsDuringFlush_Flushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &lateFailure{flushed: make(chan struct{})}
		agents, _ := fleettest.OpenAgents(t, store)
		id, token := fleettest.Register(t, agents, "a1")
		live := fleettest.Login(t, agents, id, token)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- agents.Run(ctx) }()
		failed := make(chan error)
		go func() {
			_, err := agents.Report(ctx, live, wire.Attempt{Version: 1, Status: wire.Applied, At: models.Now()})
			failed <- err
		}()
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		close(store.flushed)
		if err := <-failed; !errors.Is(err, database.ErrFull) {
			t.Errorf("Report: got %v, want ErrFull", err)
		}
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		if len(store.Written()) != 1 || len(store.last) != 1 || !store.last[0].Reported {
			t.Errorf("got %+v, last %+v, want one flush, with the report", store.Written(), store.last)
		}
		stop()
		<-done
	})
}

func TestReport_Failed_NotOfferedUntilANewerVersion(t *testing.T) {
	agents := newAgents(t)
	id, token := fleettest.Register(t, agents, "")
	live := fleettest.Login(t, agents, id, token)
	now := time.Now().UTC()
	fleettest.Report(t, agents, live, wire.Attempt{Version: 1, Status: wire.Applied, At: now})
	fleettest.Report(t, agents, live, wire.Attempt{Version: 2, Status: wire.Failed, Error: "host not allowed", At: now})
	agents.Poll(live, models.Poll{At: now, Interval: time.Second, Runs: 1})
	if fleettest.Offers(live, 2) {
		t.Error("the refused version is offered again")
	}
	agents.Poll(live, models.Poll{At: now, Interval: time.Second, Runs: 1})
	if !fleettest.Offers(live, 3) {
		t.Error("a newer version is not offered")
	}
	// A restarted agent reports again what it runs. The refusal is kept.
	got, _ := agents.Agent(id)
	fleettest.Report(t, agents, live, wire.Attempt{Version: 1, Status: wire.Applied, At: now})
	agents.Poll(live, models.Poll{At: now, Interval: time.Second, Runs: 1})
	if fleettest.Offers(live, 2) {
		t.Error("the refused version is offered again after a restart of the agent")
	}
	fleettest.Report(t, agents, live, wire.Attempt{Version: 2, Status: wire.Applied, At: now})
	agents.Poll(live, models.Poll{At: now, Interval: time.Second})
	if !fleettest.Offers(live, 2) {
		t.Error("a version that runs after all is not offered")
	}
	if got.Applied != 1 || got.Attempt.Error != "host not allowed" || fleettest.StatusOf(
		&got, fleettest.Newest(2), now,
	) != wire.Refused || fleettest.StatusOf(&got, fleettest.Newest(3), now) != wire.Online {
		t.Errorf("got %+v, want version 1 applied, 2 failed", got)
	}
}
