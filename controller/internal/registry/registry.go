// Package registry has the record of every agent: its identity, the version that it runs
// and when it was last seen. All records are in memory, so that neither a poll nor a list
// reads the database. Registrations and reports are written through to the store, presence
// is flushed in batches.
package registry

import (
	"context"
	"crypto/x509"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/fleetconf/fleetconf/controller/internal/broadcast"
	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/auth"
)

// Registry has every agent. Its methods may be called concurrently.
type Registry struct {
	store      database.Store
	plan       *atomic.Pointer[models.Plan]
	reserved   []string      // ids that no agent may have
	pruneAfter time.Duration // 0: never
	maxAgents  int           // 0: any number
	metrics    *Metrics
	log        logrus.FieldLogger
	began      time.Time     // when the registry was opened
	downtime   time.Duration // how long the controller did not run before that

	// Locks are acquired in this order: recordWrites or reportWrites, those of the census
	// and of an agent.
	recordWrites database.Lock // guards the set of agents in memory and store, and writes of whole records
	reportWrites database.Lock // held while presence is read and written

	*census.Census // counts and lists

	mu   sync.RWMutex // guards byID
	byID map[string]*Agent

	changes broadcast.Signal // sent when an agent runs or refuses another version, or is removed

	polled   batch // agents that Run flushes
	reported batch // agents with a report that is not stored yet

	fullWarnings rate.Sometimes // limits warnings about agents beyond maxAgents
	heldWarnings rate.Sometimes // limits warnings about held agents

	flushErr error // of the last flush; used by Run only
}

// Agent is a registered agent. It stays usable after the agent was removed.
type Agent struct {
	place census.Member

	offers broadcast.Signal // sent when this agent alone is offered another version, or is removed

	mu           sync.Mutex // guards the rest
	agent        models.Agent
	deregistered bool // was removed
	// tokenUsed means that the token of the last registration was used. An agent does not
	// return to its previous token after that: if that is used, two agents have the id.
	// duplicateSeen means that this was logged.
	tokenUsed, duplicateSeen bool

	used [len(allowances)]time.Duration // when each allowance is full again, since Registry.began

	sawMismatch bool // a content mismatch was logged

	inPolled, inReported bool                           // is in that batch
	reportUnsaved        bool                           // fields that reports set may differ from the store
	measured             int64                          // the version that was measured last
	checked              weak.Pointer[x509.Certificate] // the last certificate that passed CheckCertificate
}

// Options are the settings of a Registry.
type Options struct {
	Reserved      []string      // ids that no agent may have
	InactiveAfter time.Duration // after which an unseen agent is inactive
	PruneAfter    time.Duration // after which an unseen agent is removed; 0 for never
	MaxAgents     int           // the most agents; 0 for no limit
	Metrics       *Metrics      // nil: not exported
}

// Open reads every agent from store. plan must hold a plan.
func Open(
	ctx context.Context, store database.Store, plan *atomic.Pointer[models.Plan], o Options, log logrus.FieldLogger,
) (*Registry, error) {
	stored, err := store.Agents(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the agents: %w", err)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	now := time.Now()
	r := &Registry{
		store: store, plan: plan, reserved: o.Reserved, pruneAfter: o.PruneAfter,
		maxAgents: o.MaxAgents,
		metrics:   o.Metrics, log: log, began: now, recordWrites: database.NewLock(), reportWrites: database.NewLock(),
		Census: census.New(plan, o.InactiveAfter, now), byID: make(map[string]*Agent, len(stored)),
		heldWarnings: rate.Sometimes{First: 1, Interval: time.Minute},
		fullWarnings: rate.Sometimes{First: 1, Interval: time.Minute},
		polled: batch{
			mark: func(a *Agent) *bool { return &a.inPolled },
			save: func(ctx context.Context, presence []database.Presence) error {
				return store.SavePresence(ctx, presence)
			},
		},
		reported: batch{mark: func(a *Agent) *bool { return &a.inReported }, save: store.SaveReports},
	}
	r.polled.lock = &r.reportWrites
	r.Load(stored)
	var newest time.Time
	for i := range stored {
		r.add(newAgent(stored[i]), now)
		if seen := stored[i].Seen(); seen.After(newest) {
			newest = seen
		}
	}
	r.downtime = max(0, r.began.Sub(newest))
	r.metrics.stored()
	return r, nil
}

// Authenticate returns the agent with that id and token, or nil.
func (r *Registry) Authenticate(id, token []byte) *Agent {
	live := r.find(id)
	if live == nil {
		return nil
	}
	digest := auth.DigestOf(token)
	live.mu.Lock()
	defer live.mu.Unlock()
	switch {
	case digest.Equal(live.agent.Token):
		live.tokenUsed = true
	case digest.Equal(live.agent.PreviousToken):
		r.warnOfDuplicate(live)
	default:
		return nil
	}
	return live
}

// warnOfDuplicate logs once that two agents use the same id, for example after the
// agent's cache file or disk was copied. The caller holds the agent's lock.
func (r *Registry) warnOfDuplicate(live *Agent) {
	if !live.tokenUsed || live.duplicateSeen {
		return
	}
	live.duplicateSeen = true
	r.log.WithFields(logrus.Fields{"agent": live.id(), "hostname": live.agent.Hostname}).
		WithField("advice", "delete the copied cache file of one of them").
		Warn("Agent id used by two agents")
}

// Agent returns the record of an agent, or models.ErrNotFound.
func (r *Registry) Agent(id string) (models.Agent, error) {
	live, err := r.known(id)
	if err != nil {
		return models.Agent{}, err
	}
	return live.Snapshot(), nil
}

func (r *Registry) known(id string) (*Agent, error) {
	if live := r.find([]byte(id)); live != nil {
		return live, nil
	}
	return nil, fmt.Errorf("agent %s: %w", id, models.ErrNotFound)
}

// Changed returns a channel that is closed when an agent runs or refuses another
// version, or is removed.
func (r *Registry) Changed() <-chan struct{} { return r.changes.Next() }

// OnOffer calls f, which must not block, when this agent alone is offered another version
// and when it is removed, until stop is called.
func (a *Agent) OnOffer(f func()) (stop func()) { return a.offers.Notify(f) }

// ID returns the agent's id.
func (a *Agent) ID() string { return a.place.ID }

// Deregistered reports whether the agent was removed.
func (a *Agent) Deregistered() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.deregistered
}

func newAgent(a models.Agent) *Agent { return &Agent{agent: a, measured: a.Applied} }

// Snapshot returns a copy of the agent's record.
func (a *Agent) Snapshot() models.Agent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.agent
}

// Lock locks the agent's record, for the census.
func (a *Agent) Lock() { a.mu.Lock() }

// Unlock unlocks the agent's record.
func (a *Agent) Unlock() { a.mu.Unlock() }

func (a *Agent) id() string { return a.place.ID }

func (r *Registry) find(id []byte) *Agent {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byID[string(id)]
}

// count returns the number of agents.
func (r *Registry) count() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.byID)
}

// add makes a new agent known.
func (r *Registry) add(live *Agent, now time.Time) {
	r.Add(&live.place, live, live.agent, now)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byID[live.id()] = live
}

// forget removes an agent.
func (r *Registry) forget(live *Agent) {
	r.mu.Lock()
	delete(r.byID, live.id())
	r.mu.Unlock()
	live.mu.Lock()
	live.deregistered = true
	live.mu.Unlock()
	r.Remove(&live.place)
}

// show updates the agent in the census. The caller holds the agent's lock.
func (r *Registry) show(live *Agent, now time.Time) { r.Update(&live.place, &live.agent, now) }
