package registry_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
)

func TestRegister_KnownID_SameAgent(t *testing.T) {
	agents := newAgents(t)
	id, token, isNew, err := agents.Register(
		t.Context(), registry.Registration{Hostname: "web-1", Metadata: []byte("{}")},
	)
	if err != nil || !isNew || id == "" || len(token) != 43 {
		t.Fatalf("a new agent: got %q, %q, %v, %v", id, token, isNew, err)
	}
	again, newToken, isNew, err := agents.Register(
		t.Context(), registry.Registration{ID: id, Hostname: "web-2", Metadata: []byte(`{"a":1}`)},
	)
	if err != nil || isNew || again != id || newToken == token {
		t.Errorf("the same agent again: got %q, new %v, %v, want id %q and another token", again, isNew, err, id)
	}
	page := agents.List(census.Query{Limit: 10}, fleettest.Newest(0), time.Now())
	if page.Total != 1 || page.Agents[0].Hostname != "web-2" || string(page.Agents[0].Metadata) != `{"a":1}` {
		t.Errorf("the list: got %+v, want one agent with its new hostname and metadata", page)
	}
}

func TestRegister_UnknownID_Kept(t *testing.T) {
	agents := newAgents(t)
	if id, _ := fleettest.Register(t, agents, "from-a-lost-controller"); id != "from-a-lost-controller" {
		t.Errorf("got %q, want the id that was sent", id)
	}
}

func TestRegister_ReservedID_Invalid(t *testing.T) {
	agents := newAgents(t)
	_, _, _, err := agents.Register(t.Context(), registry.Registration{ID: "admin", Hostname: "h"})
	var bad *models.InvalidError
	if !errors.As(err, &bad) || bad.Field != "agent_id" {
		t.Errorf("got %v, want an error that names agent_id", err)
	}
}

func TestAuthenticate_OnlyItsOwnToken(t *testing.T) {
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
		"an unknown id":    {"unknown", token, false},
		"zeros as a token": {id, string(make([]byte, 32)), false},
		"no id, no token":  {"", "", false},
	} {
		if got := agents.Authenticate([]byte(row.id), []byte(row.token)) != nil; got != row.want {
			t.Errorf("%s: got %v, want %v", name, got, row.want)
		}
	}
}

// Two hosts with one id, from a cloned disk, each register when they start: neither may
// invalidate the other's token, and the duplicate is logged once.
func TestRegister_TwoAgentsWithOneID_BothAuthenticate(t *testing.T) {
	db := fleettest.NewStore(t)
	agents, logged := fleettest.OpenAgents(t, db)
	one := registry.Registration{ID: "duplicate", Hostname: "clone", Metadata: []byte("{}")}
	two := registry.Registration{ID: "duplicate", Hostname: "clone", Metadata: []byte("{}")}
	_, first, _, _ := agents.Register(t.Context(), one)
	_, second, _, _ := agents.Register(t.Context(), two)
	fleettest.Login(t, agents, "duplicate", first)
	if last := logged.LastEntry(); last != nil {
		t.Errorf("logged %v, want nothing before the new token was used", last)
	}
	for range 3 {
		fleettest.Login(t, agents, "duplicate", second)
		fleettest.Login(t, agents, "duplicate", first)
	}
	if n := len(logged.AllEntries()); n != 1 {
		t.Errorf("logged %d lines, want 1", n)
	}
	if last := logged.LastEntry(); last == nil || last.Level != logrus.WarnLevel || last.Data["agent"] != "duplicate" {
		t.Errorf("logged %v, want a warning that names the agent", last)
	}
	fleettest.Register(t, agents, "duplicate")
	if agents.Authenticate([]byte("duplicate"), []byte(first)) != nil {
		t.Error("a token from before the last two registrations is still valid")
	}
}

// An agent may use its previous token until it has received the new one. That is no
// duplicate.
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

// An agent that was removed after it authenticated cannot re-register with its old token.
func TestRegister_DecommissionedMeanwhile_NotFound(t *testing.T) {
	agents := newAgents(t)
	id, token := fleettest.Register(t, agents, "")
	live := fleettest.Login(t, agents, id, token)
	if err := agents.Decommission(t.Context(), id, fleettest.ByAdmin); err != nil {
		t.Fatal(err)
	}
	_, _, _, err := agents.Register(
		t.Context(), registry.Registration{ID: id, Hostname: "h", Metadata: []byte("{}"), Self: live},
	)
	if !errors.Is(err, models.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if _, err := agents.Agent(id); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("the agent: got %v, want ErrNotFound", err)
	}
}

func TestDecommission_KnownAgent_TokenRevoked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	agents, _ := fleettest.OpenAgents(t, db)
	id, token := fleettest.Register(t, agents, "")
	live := fleettest.Login(t, agents, id, token)
	if err := agents.Decommission(t.Context(), id, fleettest.ByAdmin); err != nil {
		t.Fatal(err)
	}
	agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Second}) // a poll in progress
	if agents.Authenticate([]byte(id), []byte(token)) != nil {
		t.Error("the token is still valid")
	}
	if _, err := agents.Agent(id); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("the agent: got %v, want ErrNotFound", err)
	}
	if err := agents.Decommission(t.Context(), id, fleettest.ByAdmin); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("a second time: got %v, want ErrNotFound", err)
	}
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	agents, _ = fleettest.OpenAgents(t, db)
	if page := agents.List(census.Query{Limit: 10}, fleettest.Newest(0), time.Now()); page.Total != 0 {
		t.Errorf("after a restart there are %d agents, want none", page.Total)
	}
	if _, _, isNew, err := agents.Register(
		t.Context(), registry.Registration{ID: id, Hostname: "h", Metadata: []byte("{}")},
	); err != nil || !isNew {
		t.Errorf("registering again: new %v, %v, want a new agent", isNew, err)
	}
}

// slowRemovals is a store whose removals each wait for a permit.
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
		if page := agents.List(census.Query{Limit: 10}, fleettest.Newest(0), time.Now()); err != nil ||
			page.Total != 1 {
			t.Errorf("the new agent: got %v, %d listed, want it to stay", err, page.Total)
		}
	})
}

// A re-registration keeps what a poll records while it is stored.
func TestRegister_PollMeanwhile_Kept(t *testing.T) {
	store := &fleettest.Observed{DB: fleettest.NewStore(t), OnWrite: func() {}}
	agents, _ := fleettest.OpenAgents(t, store)
	id, token := fleettest.Register(t, agents, "a1")
	live := fleettest.Login(t, agents, id, token)
	store.OnWrite = func() {
		agents.Poll(live, models.Poll{
			At: models.Now(), Interval: time.Second, Runs: 9, Foreign: true, Newest: 1, Mismatch: true,
			PushError: "the broker is down",
		})
	}
	fleettest.Register(t, agents, "a1")
	got, err := agents.Agent("a1")
	if err != nil || got.Applied != 9 || got.Held != 2 || !got.Mismatch || got.PushError == "" {
		t.Errorf("got %+v, %v, want what the poll said", got, err)
	}
}
