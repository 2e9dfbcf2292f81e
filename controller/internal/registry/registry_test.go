package registry_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
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

func openCounted(store database.Store, plan *atomic.Pointer[models.Plan]) (*registry.Registry, error) {
	log, _ := logtest.NewNullLogger()
	return registry.Open(context.Background(), store, plan, registry.Options{InactiveAfter: fleettest.InactiveAfter}, log)
}

func newAgents(t *testing.T) *registry.Registry {
	t.Helper()
	agents, _ := fleettest.OpenAgents(t, fleettest.NewStore(t))
	return agents
}

func TestRegister_IsIdempotentById(t *testing.T) {
	agents := newAgents(t)
	id, token, isNew, err := agents.Register(t.Context(), registry.Registration{Hostname: "web-1", Metadata: []byte("{}")})
	if err != nil || !isNew || id == "" || len(token) != 43 {
		t.Fatalf("a new agent: got %q, %q, %v, %v", id, token, isNew, err)
	}
	again, newToken, isNew, err := agents.Register(t.Context(), registry.Registration{ID: id, Hostname: "web-2", Metadata: []byte(`{"a":1}`)})
	if err != nil || isNew || again != id || newToken == token {
		t.Errorf("the same agent again: got %q, new %v, %v, want id %q and another token", again, isNew, err, id)
	}
	page := agents.List(registry.Query{Limit: 10}, fleettest.Newest(0), time.Now())
	if page.Total != 1 || page.Agents[0].Hostname != "web-2" || string(page.Agents[0].Metadata) != `{"a":1}` {
		t.Errorf("the list: got %+v, want one agent with its new hostname and metadata", page)
	}
}

func TestRegister_KeepsAnUnknownId(t *testing.T) {
	agents := newAgents(t)
	if id, _ := fleettest.Register(t, agents, "from-a-lost-controller"); id != "from-a-lost-controller" {
		t.Errorf("got %q, want the id that was sent", id)
	}
}

func TestRegister_RefusesTheNameOfAnAccount(t *testing.T) {
	agents := newAgents(t)
	_, _, _, err := agents.Register(t.Context(), registry.Registration{ID: "admin", Hostname: "h"})
	var bad *models.InvalidError
	if !errors.As(err, &bad) || bad.Field != "agent_id" {
		t.Errorf("got %v, want an error that names agent_id", err)
	}
}

func TestAuthenticate(t *testing.T) {
	agents := newAgents(t)
	id, token := fleettest.Register(t, agents, "")
	other, _ := fleettest.Register(t, agents, "")
	for name, row := range map[string]struct {
		id, token string
		want      bool
	}{
		"its own token":    {id, token, true},
		"a wrong token":    {id, token[1:], false},
		"no token":         {id, "", false},
		"another's token":  {other, token, false},
		"an unknown id":    {"nobody", token, false},
		"zeros as a token": {id, string(make([]byte, 32)), false},
		"nothing whatever": {"", "", false},
	} {
		if got := agents.Authenticate([]byte(row.id), []byte(row.token)) != nil; got != row.want {
			t.Errorf("%s: got %v, want %v", name, got, row.want)
		}
	}
}

// Two hosts with one id, from a cloned disk, each register when they start:
// neither may lock the other out, and somebody must be told.
func TestRegister_TwoAgentsWithOneID_BothAuthenticate(t *testing.T) {
	db := fleettest.NewStore(t)
	agents, logged := fleettest.OpenAgents(t, db)
	one := registry.Registration{ID: "twin", Hostname: "clone", Metadata: []byte("{}")}
	two := registry.Registration{ID: "twin", Hostname: "clone", Metadata: []byte("{}")}
	_, first, _, _ := agents.Register(t.Context(), one)
	_, second, _, _ := agents.Register(t.Context(), two)
	fleettest.Login(t, agents, "twin", first)
	if last := logged.LastEntry(); last != nil {
		t.Errorf("logged %v of an agent whose new token is still on its way", last)
	}
	for range 3 {
		fleettest.Login(t, agents, "twin", second)
		fleettest.Login(t, agents, "twin", first)
	}
	if n := len(logged.AllEntries()); n != 1 {
		t.Errorf("logged %d lines, want 1", n)
	}
	if last := logged.LastEntry(); last == nil || last.Level != logrus.WarnLevel || last.Data["agent"] != "twin" {
		t.Errorf("logged %v, want a warning that names the agent", last)
	}
	fleettest.Register(t, agents, "twin")
	if agents.Authenticate([]byte("twin"), []byte(first)) != nil {
		t.Error("a token that is two registrations old is still good")
	}
}

// An agent that uses its old token until the response with the new one has arrived
// has no twin, whatever it did before it registered again.
func TestReregister_SameAgent_NoDuplicateWarning(t *testing.T) {
	agents, logged := fleettest.OpenAgents(t, fleettest.NewStore(t))
	_, first := fleettest.Register(t, agents, "a1")
	fleettest.Login(t, agents, "a1", first)
	fleettest.Register(t, agents, "a1")
	fleettest.Login(t, agents, "a1", first)
	if last := logged.LastEntry(); last != nil {
		t.Errorf("logged %v, want nothing", last)
	}
}

// Who is removed after it authenticated does not come back with its old token.
func TestRegister_AfterItWasDecommissioned(t *testing.T) {
	agents := newAgents(t)
	id, token := fleettest.Register(t, agents, "")
	live := fleettest.Login(t, agents, id, token)
	if err := agents.Decommission(t.Context(), id, fleettest.ByAdmin); err != nil {
		t.Fatal(err)
	}
	_, _, _, err := agents.Register(t.Context(), registry.Registration{ID: id, Hostname: "h", Metadata: []byte("{}"), Self: live})
	if !errors.Is(err, models.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if _, err := agents.Agent(id); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("the agent: got %v, want ErrNotFound", err)
	}
}

func TestPoll_IsSeenAtOnce(t *testing.T) {
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
	// A restarted agent tells again what it runs; the refusal stands.
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
	if got.Applied != 1 || got.Attempt.Error != "host not allowed" || fleettest.StatusOf(&got, fleettest.Newest(2), now) != wire.Refused || fleettest.StatusOf(&got, fleettest.Newest(3), now) != wire.Online {
		t.Errorf("got %+v, want version 1 applied, 2 failed", got)
	}
}

// What an agent proves to run it has not refused, should its report be lost.
func TestPoll_AfterALostReport_ShowsApplied(t *testing.T) {
	agents := newAgents(t)
	id, token := fleettest.Register(t, agents, "")
	live := fleettest.Login(t, agents, id, token)
	now := time.Now().UTC()
	fleettest.Report(t, agents, live, wire.Attempt{Version: 2, Status: wire.Failed, Error: "no", At: now})
	agents.Poll(live, models.Poll{At: now, Interval: time.Second, Runs: 2})
	got, _ := agents.Agent(id)
	want := models.Presence{LastPoll: now, PollInterval: time.Second, Applied: 2, AppliedAt: now, Attempt: wire.Attempt{Version: 2, Status: wire.Applied, At: now}}
	if diff := cmp.Diff(want, got.Presence); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestStatus(t *testing.T) {
	registered := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	const interval = 10 * time.Second
	for name, row := range map[string]struct {
		lastPoll, now time.Duration // since registration; lastPoll 0 is never
		want          wire.AgentStatus
	}{
		"just registered":             {0, time.Second, wire.Online},
		"never polled for a while":    {0, 31 * time.Second, wire.Stale},
		"never polled for long":       {0, 101 * time.Second, wire.Offline},
		"three intervals ago":         {time.Hour, time.Hour + 30*time.Second, wire.Online},
		"more than three intervals":   {time.Hour, time.Hour + 31*time.Second, wire.Stale},
		"ten intervals ago":           {time.Hour, time.Hour + 100*time.Second, wire.Stale},
		"more than ten intervals":     {time.Hour, time.Hour + 101*time.Second, wire.Offline},
		"the clock was set backwards": {time.Hour, 0, wire.Online},
	} {
		t.Run(name, func(t *testing.T) {
			a := models.Agent{RegisteredAt: registered, Presence: models.Presence{PollInterval: interval}}
			if row.lastPoll != 0 {
				a.LastPoll = registered.Add(row.lastPoll)
			}
			if got := fleettest.StatusOf(&a, fleettest.Newest(1), registered.Add(row.now)); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestStatus_Degraded_Precedence(t *testing.T) {
	now := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	for name, row := range map[string]struct {
		unseen         time.Duration
		applied, fails int64
		want           wire.AgentStatus
	}{
		"seen":                        {0, 1, 0, wire.Degraded},
		"stale":                       {31 * time.Second, 1, 0, wire.Stale},
		"offline":                     {101 * time.Second, 1, 0, wire.Offline},
		"refused the desired version": {0, 1, 2, wire.Refused},
		"refused an older version":    {0, 2, 1, wire.Degraded},
		"in conflict":                 {0, 3, 0, wire.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			a := models.Agent{Presence: models.Presence{
				LastPoll: now.Add(-row.unseen), PollInterval: 10 * time.Second, Applied: row.applied,
				Refused: models.Refusal{Version: row.fails}, Degraded: "connection refused",
			}}
			plan := fleettest.Newest(2).Observe(3)
			if got := fleettest.StatusOf(&a, plan, now); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestList_Pages(t *testing.T) {
	agents := newAgents(t)
	ids := []string{}
	for i := range 7 {
		id, token := fleettest.Register(t, agents, fmt.Sprintf("a%d", i))
		ids = append(ids, id)
		if i%2 == 0 {
			agents.Poll(fleettest.Login(t, agents, id, token), models.Poll{At: time.Now(), Interval: time.Minute, Runs: 1})
		}
	}
	if err := agents.Decommission(t.Context(), "a3", fleettest.ByAdmin); err != nil {
		t.Fatal(err)
	}
	ids = append(ids[:3], ids[4:]...)
	for name, row := range map[string]struct {
		query registry.Query
		want  []string
	}{
		"all":              {registry.Query{}, ids},
		"by version":       {registry.Query{Applied: 1}, []string{"a0", "a2", "a4", "a6"}},
		"by status":        {registry.Query{Status: wire.Online}, ids},
		"by status, none":  {registry.Query{Status: wire.Offline}, nil},
		"by version, none": {registry.Query{Applied: 9}, nil},
	} {
		for limit := 1; limit <= 8; limit++ {
			var got []string
			q := row.query
			q.Limit = limit
			for more := true; more; {
				page := agents.List(q, fleettest.Newest(1), time.Now())
				if page.Total != len(row.want) || len(page.Agents) > limit {
					t.Fatalf("%s, %d a page: got %d of %d, want a total of %d", name, limit, len(page.Agents), page.Total, len(row.want))
				}
				for _, a := range page.Agents {
					got = append(got, a.ID)
					q.After = a.Seq
				}
				more = page.More
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("%s, %d a page, -want +got:\n%s", name, limit, diff)
			}
		}
	}
}

func TestDecommission_RevokesTheToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	agents, _ := fleettest.OpenAgents(t, db)
	id, token := fleettest.Register(t, agents, "")
	live := fleettest.Login(t, agents, id, token)
	if err := agents.Decommission(t.Context(), id, fleettest.ByAdmin); err != nil {
		t.Fatal(err)
	}
	agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Second}) // a poll that was under way
	if agents.Authenticate([]byte(id), []byte(token)) != nil {
		t.Error("the token is still good")
	}
	if _, err := agents.Agent(id); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("the agent: got %v, want ErrNotFound", err)
	}
	if err := agents.Decommission(t.Context(), id, fleettest.ByAdmin); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("once more: got %v, want ErrNotFound", err)
	}
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	agents, _ = fleettest.OpenAgents(t, db)
	if page := agents.List(registry.Query{Limit: 10}, fleettest.Newest(0), time.Now()); page.Total != 0 {
		t.Errorf("after a restart there are %d agents, want none", page.Total)
	}
	if _, _, isNew, err := agents.Register(t.Context(), registry.Registration{ID: id, Hostname: "h", Metadata: []byte("{}")}); err != nil || !isNew {
		t.Errorf("registering again: new %v, %v, want a new agent", isNew, err)
	}
}

func TestPresence_SurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	agents, _ := fleettest.OpenAgents(t, db)
	id, token := fleettest.Register(t, agents, "")
	at := time.Now().UTC().Truncate(time.Microsecond)
	agents.Poll(fleettest.Login(t, agents, id, token), models.Poll{At: at, Interval: time.Minute, Runs: 1})
	fleettest.Report(t, agents, fleettest.Login(t, agents, id, token), wire.Attempt{Version: 2, Status: wire.Failed, Error: "no", At: at})
	want, _ := agents.Agent(id)

	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := agents.Run(ctx); err != nil { // ends at once, after one flush
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

// Law 11: however many polls there are, the database sees one batch a period.
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
		time.Sleep(2 * registry.FlushInterval) // nothing polled: nothing to write
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
			t.Errorf("after it healed: logged %v, want that it did", last)
		}
		poll()
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if diff := cmp.Diff([]int{10, 10, 10, 10, 10}, store.Written()); diff != "" {
			t.Errorf("batches, the two that failed, the one after, the last, -want +got:\n%s", diff)
		}
	})
}

func TestAgents_UnderManyCallersAtOnce(t *testing.T) {
	agents := newAgents(t)
	id, token := fleettest.Register(t, agents, "shared")
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 20 {
				if live := agents.Authenticate([]byte(id), []byte(token)); live != nil {
					agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Second, Runs: int64(n)})
					if _, err := agents.Report(t.Context(), live, wire.Attempt{Version: int64(n), Status: wire.Applied, At: time.Now()}); err != nil {
						t.Errorf("Report: %v", err)
					}
				}
				agents.List(registry.Query{Limit: 5, Status: wire.Online}, fleettest.Newest(1), time.Now())
				own, _ := fleettest.Register(t, agents, fmt.Sprintf("a%d", i))
				if n%5 == 0 {
					_ = agents.Decommission(t.Context(), own, fleettest.ByAdmin)
				}
			}
		})
	}
	group.Wait()
}

// A large fleet is written in parts, so that a publish gets in between, and a
// part that was not stored is not forgotten.
func TestRun_LargeFleet_WrittenInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fleettest.Batches{}
		agents, _ := fleettest.OpenAgents(t, store)
		for i := range 5000 {
			time.Sleep(time.Microsecond)
			id, token := fleettest.Register(t, agents, fmt.Sprint("a", i))
			agents.Poll(fleettest.Login(t, agents, id, token), models.Poll{At: time.Now(), Interval: time.Second, Runs: 1})
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
		if diff := cmp.Diff([]int{4096, 904, 4096}, store.Written()); diff != "" && !cmp.Equal([]int{4096, 4096, 904}, store.Written()) {
			t.Errorf("batches, one that failed and what it left, -want +got:\n%s", diff)
		}
		stop()
		<-done
	})
}

// It is removed in parts, so that a registration gets in between.
func TestRun_LargeFleet_PrunedInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fleettest.Batches{}
		log, _ := logtest.NewNullLogger()
		agents, err := registry.Open(t.Context(), store, fleettest.NoPlan(), registry.Options{PruneAfter: time.Hour}, log)
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
			t.Errorf("agents removed at once, -want +got:\n%s", diff)
		}
	})
}

// slowRemovals is a store whose removals wait for a permit each.
type slowRemovals struct {
	fleettest.Batches
	permits chan struct{}
	removed int
}

func (s *slowRemovals) DeleteAgents(context.Context, []string, models.Entry) error {
	<-s.permits
	s.removed++
	return nil
}

func TestDecommission_TwiceWithARegistrationBetween_RemovesOneAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowRemovals{permits: make(chan struct{}, 2)}
		agents, _ := fleettest.OpenAgents(t, store)
		fleettest.Register(t, agents, "a1")
		var group sync.WaitGroup
		var first, second error
		group.Go(func() { first = agents.Decommission(t.Context(), "a1", fleettest.ByAdmin) })
		synctest.Wait()
		group.Go(func() { fleettest.Register(t, agents, "a1") })
		synctest.Wait()
		group.Go(func() { second = agents.Decommission(t.Context(), "a1", fleettest.ByAdmin) })
		synctest.Wait()
		store.permits <- struct{}{}
		store.permits <- struct{}{}
		group.Wait()
		if first != nil || !errors.Is(second, models.ErrNotFound) || store.removed != 1 {
			t.Errorf("got %v, %v, %d removals, want one, and ErrNotFound", first, second, store.removed)
		}
		_, err := agents.Agent("a1")
		if page := agents.List(registry.Query{Limit: 10}, fleettest.Newest(0), time.Now()); err != nil || page.Total != 1 {
			t.Errorf("the new agent: got %v, %d listed, want it to stay", err, page.Total)
		}
	})
}

func TestRun_PollAfterPruneScan_AgentStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pruneAfter = 24 * time.Hour
		store := &slowRemovals{permits: make(chan struct{}, 2)}
		log, _ := logtest.NewNullLogger()
		agents, err := registry.Open(t.Context(), store, fleettest.NoPlan(), registry.Options{PruneAfter: pruneAfter}, log)
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
		time.Sleep(2 * time.Second) // the scan is over, the removal waits
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
