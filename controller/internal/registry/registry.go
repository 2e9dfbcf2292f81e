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
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/auth"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Registry has every agent. Its methods may be called concurrently.
type Registry struct {
	store         database.Store
	plan          *atomic.Pointer[models.Plan]
	reserved      []string // ids that no agent may have
	inactiveAfter time.Duration
	pruneAfter    time.Duration // 0: never
	maxAgents     int           // 0: any number
	metrics       *Metrics
	log           logrus.FieldLogger
	began         time.Time     // when the registry was opened
	downtime      time.Duration // how long the controller did not run before that

	// Locks are acquired in this order: recordWrites or reportWrites, table.mu, Agent.mu,
	// index.mu.
	recordWrites database.Lock // guards the set of agents in memory and store, and writes of whole records
	reportWrites database.Lock // held while reports or a retry are written
	table        table
	index        index
	spread       spread
	changes      broadcast.Signal // sent when an agent runs or refuses another version, or is removed

	polled   batch // agents that Run flushes
	reported batch // agents with a report that is not stored yet

	fullWarnings rate.Sometimes // limits warnings about agents beyond maxAgents
	heldWarnings rate.Sometimes // limits warnings about held agents

	flushErr error // of the last flush; used by Run only
}

// Agent is a registered agent. It stays usable after the agent was removed.
type Agent struct {
	id  string
	seq int64

	offers broadcast.Signal // sent when this agent alone is offered another version, or is removed

	// The index reads and writes these without the agent's lock.
	group          atomic.Pointer[group] // index.mu guards changes
	previous, next *Agent                // in the group; index.mu guards them
	due            atomic.Int64          // the second in which the index updates its age; index.mu guards changes
	seen           atomic.Int64          // when it was last seen, in microseconds since 1970 UTC
	interval       atomic.Int64          // its poll interval in nanoseconds

	mu           sync.Mutex // guards the rest
	agent        models.Agent
	row          *row // its row in the table
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
		store: store, plan: plan, reserved: o.Reserved, inactiveAfter: o.InactiveAfter, pruneAfter: o.PruneAfter,
		maxAgents: o.MaxAgents,
		metrics:   o.Metrics, log: log, began: now, recordWrites: database.NewLock(), reportWrites: database.NewLock(),
		table: newTable(len(stored)), index: newIndex(o.InactiveAfter, now),
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

// Authenticate returns the agent with that id and token, or nil.
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

// warnOfDuplicate logs once that two agents use the same id, for example after the
// agent's cache file or disk was copied. The caller holds the agent's lock.
func (r *Registry) warnOfDuplicate(live *Agent) {
	if !live.tokenUsed || live.duplicateSeen {
		return
	}
	live.duplicateSeen = true
	r.log.WithFields(logrus.Fields{"agent": live.id, "hostname": live.agent.Hostname}).
		WithField("advice", "delete the copied cache file of one of them").
		Warn("Agent id used by two agents")
}

// Agent returns the record of an agent, or models.ErrNotFound.
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

// StatusOf returns the status of an agent under a plan.
func (r *Registry) StatusOf(a *models.Agent, plan *models.Plan, now time.Time) wire.AgentStatus {
	return plan.Status(a.Health(models.AgeOf(now.Sub(a.Seen()), a.PollInterval, r.inactiveAfter)))
}

// Changed returns a channel that is closed when an agent runs or refuses another
// version, or is removed.
func (r *Registry) Changed() <-chan struct{} { return r.changes.Next() }

// OnOffer calls f, which must not block, when this agent alone is offered another version
// and when it is removed, until stop is called.
func (a *Agent) OnOffer(f func()) (stop func()) { return a.offers.Notify(f) }

// ID returns the agent's id.
func (a *Agent) ID() string { return a.id }

// Deregistered reports whether the agent was removed.
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

// add adds a new agent to the table and the index.
func (r *Registry) add(live *Agent, now time.Time) {
	r.table.add(live)
	live.mu.Lock()
	defer live.mu.Unlock()
	r.index.place(live, now)
}

// show updates the agent's row and its place in the index. The caller holds the agent's
// lock.
func (r *Registry) show(live *Agent, now time.Time) {
	live.show()
	r.index.place(live, now)
}
