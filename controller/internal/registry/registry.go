// Package registry knows every agent: who it is, what it runs, and when it was here
// last. All of it is in memory, so that neither a poll nor a list reads the database;
// the store has it for the next start.
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
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/auth"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Registry knows every agent. All of it is in memory, so that neither a poll nor
// a list reads the database; the store has it for the next start.
type Registry struct {
	store         database.Store
	plan          *atomic.Pointer[models.Plan]
	reserved      []string // names that no agent may take for its id
	inactiveAfter time.Duration
	pruneAfter    time.Duration // 0: never
	maxAgents     int           // 0: any number
	metrics       *Metrics
	log           logrus.FieldLogger
	began         time.Time
	downtime      time.Duration // how long before began no agent was seen: the controller did not run

	saving   database.Lock // one registration or removal at a time, memory and store together
	settling database.Lock // one batch of reports at a time
	table    table
	index    index // its lock is taken after that of an agent
	spread   spread
	changes  broadcast.Signal // an agent runs, or refuses, another version than before; or has gone

	polled, reported batch

	rejecting rate.Sometimes // how often an agent beyond maxAgents is worth a warning
	holding   rate.Sometimes // how often an agent that Holds keeps is worth a warning

	failing error // why the last flush failed; Run's alone
}

// Agent is one known agent, live.
type Agent struct {
	id  string
	seq int64

	offers broadcast.Signal // it is offered another version than before, though none was published; or was removed

	// index reads and writes these without the lock of the agent.
	group          atomic.Pointer[group] // index.mu guards changes
	previous, next *Agent                // in the group; index.mu guards them
	due            atomic.Int64          // the second in which index looks at its age; index.mu guards changes
	seen           atomic.Int64          // when it was here last, in microseconds since 1970 UTC
	interval       atomic.Int64          // its poll interval in nanoseconds

	mu           sync.Mutex // guards the rest
	agent        models.Agent
	row          *row // shows what it is to who looks at all agents
	deregistered bool // was removed
	// Which of its tokens were used since the last registration. An agent that
	// has used its new one never goes back; if the one before is used after
	// that, somebody else has the same id.
	tokenUsed, duplicateSeen bool

	used [len(allowances)]time.Duration // when each allowance is whole again, since began of Registry

	sawMismatch bool // was logged with a content that is not that of its version

	inPolled, inReported bool                           // stands in that batch
	reportUnsaved        bool                           // the store may not have what reports say
	measured             int64                          // the version whose way to this agent was measured last
	checked              weak.Pointer[x509.Certificate] // has the name that the agent registered with
}

// Options are the settings of Registry.
type Options struct {
	Reserved      []string      // names that no agent may take for its id
	InactiveAfter time.Duration // how long an agent is unseen before it counts as inactive
	PruneAfter    time.Duration // how long before it is removed; 0 for never
	MaxAgents     int           // how many there may be before no new one is registered; 0 for any number
	Metrics       *Metrics      // nil: measured for nobody
}

// Open reads every agent from store. The agents follow plan, which holds one.
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
		store: store, plan: plan, reserved: o.Reserved, inactiveAfter: o.InactiveAfter, pruneAfter: o.PruneAfter, maxAgents: o.MaxAgents,
		metrics: o.Metrics, log: log, began: now, saving: database.NewLock(), settling: database.NewLock(), table: newTable(len(stored)), index: newIndex(o.InactiveAfter, now),
		holding:   rate.Sometimes{First: 1, Interval: time.Minute},
		rejecting: rate.Sometimes{First: 1, Interval: time.Minute},
		polled: batch{
			mark: func(a *Agent) *bool { return &a.inPolled },
			save: func(ctx context.Context, presence []database.Presence) error {
				return store.SavePresence(ctx, presence)
			},
		},
		reported: batch{mark: func(a *Agent) *bool { return &a.inReported }, save: store.SaveReports},
	}
	if release := plan.Load().Newest; release != nil {
		r.spread.load(release, stored)
	}
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

// Authenticate returns the agent whose id and token these are, nil if there is
// none.
func (r *Registry) Authenticate(id, token []byte) *Agent {
	live := r.table.find(id)
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

// warnOfDuplicate tells of an id that two agents use at once, as a copied cache
// file or a cloned disk makes them. The caller holds the agent's lock.
func (r *Registry) warnOfDuplicate(live *Agent) {
	if !live.tokenUsed || live.duplicateSeen {
		return
	}
	live.duplicateSeen = true
	r.log.WithFields(logrus.Fields{"agent": live.id, "hostname": live.agent.Hostname}).
		Warn("Agent id is used by two agents; delete the copied cache file of one of them")
}

// Agent returns one agent, or models.ErrNotFound.
func (r *Registry) Agent(id string) (models.Agent, error) {
	live, err := r.known(id)
	if err != nil {
		return models.Agent{}, err
	}
	return live.snapshot(), nil
}

func (r *Registry) known(id string) (*Agent, error) {
	if live := r.table.find([]byte(id)); live != nil {
		return live, nil
	}
	return nil, fmt.Errorf("agent %s: %w", id, models.ErrNotFound)
}

// StatusOf returns how an agent is.
func (r *Registry) StatusOf(a *models.Agent, plan *models.Plan, now time.Time) wire.AgentStatus {
	return plan.Status(a.Health(models.AgeOf(now.Sub(a.Seen()), a.PollInterval, r.inactiveAfter)))
}

// Changed returns a channel that is closed when an agent runs or refuses another
// version, or is removed.
func (r *Registry) Changed() <-chan struct{} { return r.changes.Next() }

// OnOffer has f called, which must not block, whenever the agent is offered another
// version than before though none was published, or is removed, until stop is called.
func (a *Agent) OnOffer(f func()) (stop func()) { return a.offers.Notify(f) }

// ID is the agent's id.
func (a *Agent) ID() string { return a.id }

// Deregistered reports whether the agent was decommissioned since it authenticated.
func (a *Agent) Deregistered() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.deregistered
}

func newAgent(a models.Agent) *Agent {
	live := &Agent{id: a.ID, seq: a.Seq, agent: a, measured: a.Applied}
	live.due.Store(never)
	return live
}

func (a *Agent) snapshot() models.Agent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.agent
}

// add makes a new agent known to all.
func (r *Registry) add(live *Agent, now time.Time) {
	r.table.add(live)
	live.mu.Lock()
	defer live.mu.Unlock()
	r.index.place(live, now)
}

// show brings what counts and lists read of an agent up to date. The caller holds the
// agent's lock.
func (r *Registry) show(live *Agent, now time.Time) {
	live.show()
	r.index.place(live, now)
}
