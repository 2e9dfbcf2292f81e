package service

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/auth"
)

// FlushInterval is how often presence goes to the store, in one batch. What a
// crash loses of it, the next polls bring back.
const FlushInterval = 5 * time.Second

// AgentStore keeps the agents.
type AgentStore interface {
	// Agents returns every agent in the order of registration.
	Agents(ctx context.Context) ([]models.Agent, error)
	// SaveAgent stores a new agent, or the known one of that id anew, and
	// returns its place in the order of registration.
	SaveAgent(ctx context.Context, a models.Agent) (seq int64, err error)
	// DeleteAgent removes an agent.
	DeleteAgent(ctx context.Context, id string) error
	// SavePresence stores the presence of agents in one transaction. One that
	// is unknown by now is passed over.
	SavePresence(ctx context.Context, batch map[string]models.Presence) error
}

// Agents knows every agent. All of it is in memory, so that neither a poll nor
// a list reads the database; the store has it for the next start.
type Agents struct {
	store    AgentStore
	configs  *Configs
	reserved []string // user names that no agent may take for its id
	log      logrus.FieldLogger

	saving turn // one registration or removal at a time, memory and store together

	mu    sync.RWMutex // guards byID and order
	byID  map[string]*Agent
	order []*Agent // by Seq

	dirtyMu sync.Mutex // guards dirty
	dirty   []*Agent   // presence that the store has not seen yet

	failing error // why the last flush failed; Run's alone
}

// Agent is one known agent, live.
type Agent struct {
	id  string
	seq int64

	mu    sync.Mutex // guards the rest
	agent models.Agent
	dirty bool // stands in Agents.dirty
	gone  bool // was removed
	// Which of its tokens were used since the last registration. An agent that
	// has used its new one never goes back; if the one before is used after
	// that, somebody else has the same id.
	usedToken, sawTwin bool
}

// OpenAgents reads every agent from store. No agent may register under a
// reserved name.
func OpenAgents(ctx context.Context, store AgentStore, configs *Configs, reserved []string, log logrus.FieldLogger) (*Agents, error) {
	stored, err := store.Agents(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the agents: %w", err)
	}
	s := &Agents{
		store: store, configs: configs, reserved: reserved, log: log, saving: newTurn(),
		byID: make(map[string]*Agent, len(stored)), order: make([]*Agent, 0, len(stored)),
	}
	for _, a := range stored {
		live := newAgent(a)
		s.byID[a.ID] = live
		s.order = append(s.order, live)
	}
	return s, nil
}

// Registration is what an agent says of itself. An empty ID asks for a new one.
type Registration struct {
	ID, Hostname string
	Metadata     []byte // a JSON object
}

// Register makes an agent known, or a known one known again, and returns its
// id and the token that it authenticates with from now on. The token is kept
// only as a hash. The token before it stays good until the next registration.
func (s *Agents) Register(ctx context.Context, r Registration) (id, token string, isNew bool, err error) {
	if slices.Contains(s.reserved, r.ID) {
		return "", "", false, &models.InvalidError{Field: "agent_id", Detail: "is the name of an account; choose another, or leave it out"}
	}
	if r.ID == "" {
		r.ID = uuid.Must(uuid.NewV7()).String() // fails only without randomness
	}
	token = auth.NewToken()
	now := time.Now().UTC().Truncate(time.Microsecond)

	if err := s.saving.take(ctx); err != nil {
		return "", "", false, err
	}
	defer s.saving.give()
	ctx = context.WithoutCancel(ctx) // what is stored is also remembered
	live := s.find(r.ID)
	isNew = live == nil
	agent := models.Agent{ID: r.ID, RegisteredAt: now}
	if !isNew {
		agent = live.snapshot()
	}
	agent.Hostname, agent.Metadata = r.Hostname, r.Metadata
	agent.PreviousToken, agent.Token = agent.Token, auth.DigestOf(token)
	agent.PollInterval = s.configs.PollInterval()
	if agent.Seq, err = s.store.SaveAgent(ctx, agent); err != nil {
		return "", "", false, fmt.Errorf("register agent: %w", err)
	}
	if isNew {
		s.add(newAgent(agent))
	} else {
		live.reregister(agent)
	}
	return agent.ID, token, isNew, nil
}

func (s *Agents) add(live *Agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[live.id] = live
	s.order = append(s.order, live)
}

func (s *Agents) find(id string) *Agent {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byID[id]
}

// Authenticate returns the agent whose id and token these are, nil if there is
// none.
func (s *Agents) Authenticate(id, token []byte) *Agent {
	s.mu.RLock()
	live := s.byID[string(id)]
	s.mu.RUnlock()
	if live == nil {
		return nil
	}
	digest := auth.DigestOf(token)
	live.mu.Lock()
	defer live.mu.Unlock()
	switch {
	case digest.Equal(live.agent.Token):
		live.usedToken = true
	case digest.Equal(live.agent.PreviousToken):
		s.warnOfTwins(live)
	default:
		return nil
	}
	return live
}

// warnOfTwins tells of an id that two agents use at once, as a copied cache
// file or a cloned disk makes them. The caller holds the agent's lock.
func (s *Agents) warnOfTwins(live *Agent) {
	if !live.usedToken || live.sawTwin {
		return
	}
	live.sawTwin = true
	s.log.WithFields(logrus.Fields{"agent": live.id, "hostname": live.agent.Hostname}).
		Warn("Agent id is used by two agents; delete the copied cache file of one of them")
}

// Poll remembers that an agent was here, was told interval and, where runs is
// not zero, that it runs that version. It reports whether the agent should be
// offered desired: not a version that its worker refused.
func (s *Agents) Poll(live *Agent, now time.Time, interval time.Duration, desired, runs int64) (offer bool) {
	live.mu.Lock()
	defer live.mu.Unlock()
	live.agent.Polled(now, interval, runs)
	s.markDirty(live)
	return !live.agent.Refuses(desired)
}

// Report remembers the outcome of an agent's last attempt.
func (s *Agents) Report(live *Agent, attempt models.Attempt) {
	live.mu.Lock()
	defer live.mu.Unlock()
	changed := live.agent.Attempt.Version != attempt.Version || live.agent.Attempt.Status != attempt.Status
	live.agent.Report(attempt)
	s.markDirty(live)
	if changed && attempt.Status == models.Failed {
		s.log.WithFields(logrus.Fields{"agent": live.id, "version": attempt.Version, "error": attempt.Error}).
			Warn("Worker refused a version")
	}
}

// markDirty puts an agent on the list of the next flush. The caller holds its lock.
func (s *Agents) markDirty(live *Agent) {
	if live.dirty || live.gone {
		return
	}
	live.dirty = true
	s.dirtyMu.Lock()
	defer s.dirtyMu.Unlock()
	s.dirty = append(s.dirty, live)
}

// Run flushes presence to the store every FlushInterval until ctx ends, and
// once more then.
func (s *Agents) Run(ctx context.Context) error {
	tick := time.NewTicker(FlushInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.flush(ctx)
		case <-ctx.Done():
			s.flush(context.WithoutCancel(ctx))
			return nil
		}
	}
}

func (s *Agents) flush(ctx context.Context) {
	s.dirtyMu.Lock()
	agents := s.dirty
	s.dirty = nil
	s.dirtyMu.Unlock()
	if len(agents) == 0 {
		return
	}
	batch := make(map[string]models.Presence, len(agents))
	for _, live := range agents {
		live.mu.Lock()
		if live.dirty = false; !live.gone {
			batch[live.id] = live.agent.Presence
		}
		live.mu.Unlock()
	}
	err := s.store.SavePresence(ctx, batch)
	if err != nil {
		for _, live := range agents {
			live.mu.Lock()
			s.markDirty(live)
			live.mu.Unlock()
		}
	}
	before := s.failing
	s.failing = err
	switch {
	case err != nil && before == nil:
		s.log.WithError(err).Warn("Presence could not be stored; it stays in memory")
	case err == nil && before != nil:
		s.log.Info("Presence is stored again")
	}
}

// Agent returns one agent, or models.ErrNotFound.
func (s *Agents) Agent(id string) (models.Agent, error) {
	if live := s.find(id); live != nil {
		return live.snapshot(), nil
	}
	return models.Agent{}, fmt.Errorf("agent %s: %w", id, models.ErrNotFound)
}

// Decommission forgets an agent and revokes its tokens. It returns
// models.ErrNotFound if there is none of that id.
func (s *Agents) Decommission(ctx context.Context, id string) error {
	if err := s.saving.take(ctx); err != nil {
		return err
	}
	defer s.saving.give()
	live := s.find(id)
	if live == nil {
		return fmt.Errorf("agent %s: %w", id, models.ErrNotFound)
	}
	if err := s.store.DeleteAgent(context.WithoutCancel(ctx), id); err != nil {
		return fmt.Errorf("decommission agent %s: %w", id, err)
	}
	live.mu.Lock()
	live.gone = true
	live.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
	if i, found := slices.BinarySearchFunc(s.order, live.seq, bySeq); found {
		s.order = slices.Delete(s.order, i, i+1)
	}
	return nil
}

func bySeq(live *Agent, seq int64) int { return cmp.Compare(live.seq, seq) }

// Query asks for a page of the agents. Zero values ask for everything.
type Query struct {
	Status  models.Status
	Applied int64
	After   int64 // Seq of the last agent of the page before
	Limit   int
}

// Page is some of the agents, in the order of registration.
type Page struct {
	Agents []models.Agent
	Total  int  // how many there are on all pages
	More   bool // there is a page after this one
}

// List returns a page of the agents as they are now.
func (s *Agents) List(q Query, now time.Time, desired int64) Page {
	s.mu.RLock()
	defer s.mu.RUnlock()
	page := Page{}
	start, found := slices.BinarySearchFunc(s.order, q.After, bySeq)
	if found {
		start++
	}
	if q.Status == "" && q.Applied == 0 {
		end := min(start+q.Limit, len(s.order))
		for _, live := range s.order[start:end] {
			page.Agents = append(page.Agents, live.snapshot())
		}
		page.Total, page.More = len(s.order), end < len(s.order)
		return page
	}
	for i, live := range s.order {
		agent := live.snapshot()
		if q.Status != "" && agent.StatusAt(now, desired) != q.Status || q.Applied != 0 && agent.Applied != q.Applied {
			continue
		}
		page.Total++
		switch {
		case i < start:
		case len(page.Agents) < q.Limit:
			page.Agents = append(page.Agents, agent)
		default:
			page.More = true
		}
	}
	return page
}

// ID is the agent's id.
func (a *Agent) ID() string { return a.id }

func newAgent(a models.Agent) *Agent { return &Agent{id: a.ID, seq: a.Seq, agent: a} }

func (a *Agent) snapshot() models.Agent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.agent
}

// reregister takes over what a registration changes, and leaves the presence
// that polls may have brought in the meantime.
func (a *Agent) reregister(fresh models.Agent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fresh.Presence = a.agent.Presence
	a.agent = fresh
	a.usedToken, a.sawTwin = false, false
}
