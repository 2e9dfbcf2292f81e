// Package census counts and lists the agents without visiting each of them. Agents that
// are alike in everything that counts depend on form a group; a count adds up groups.
package census

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Census has every agent as counts and lists see it. Its methods may be called
// concurrently. Locks are acquired in this order: table.mu, the agent's, index.mu.
type Census struct {
	plan          *atomic.Pointer[models.Plan]
	inactiveAfter time.Duration

	table  table
	index  index
	spread spread
}

// Agent is what the census needs of an agent. Its lock guards its record.
type Agent interface {
	sync.Locker
	Snapshot() models.Agent // acquires the lock
}

// Member is an agent's place in the census.
type Member struct {
	ID  string
	Seq int64 // its place in the order of registration

	agent   Agent
	row     *row // its row in the table; the agent's lock guards it
	removed bool // the agent's lock guards it

	group          atomic.Pointer[group] // index.mu guards changes
	previous, next *Member               // in the group; index.mu guards them
	due            atomic.Int64          // the second in which the index updates its age; index.mu guards changes
	seen           atomic.Int64          // when it was last seen, in microseconds since 1970 UTC
	interval       atomic.Int64          // its poll interval in nanoseconds
}

// New returns a census of no agents. An agent that is unseen for inactiveAfter is inactive.
func New(plan *atomic.Pointer[models.Plan], inactiveAfter time.Duration, now time.Time) *Census {
	return &Census{plan: plan, inactiveAfter: inactiveAfter, index: newIndex(inactiveAfter, now)}
}

// Load counts the agents that had applied the newest version before the controller started.
func (c *Census) Load(agents []models.Agent) {
	if release := c.plan.Load().Newest; release != nil {
		c.spread.load(release, agents)
	}
}

// Add adds an agent, whose record is a copy of its own, at the place m. The caller does not
// hold the agent's lock.
func (c *Census) Add(m *Member, agent Agent, record models.Agent, now time.Time) {
	m.ID, m.Seq, m.agent = record.ID, record.Seq, agent
	m.due.Store(never)
	c.table.add(m, record.Hostname)
	agent.Lock()
	defer agent.Unlock()
	c.Update(m, &record, now)
}

// Update takes over a changed record. The caller holds the agent's lock.
func (c *Census) Update(m *Member, record *models.Agent, now time.Time) {
	if m.removed {
		return
	}
	set(&m.seen, record.Seen().UnixMicro())
	set(&m.interval, int64(record.PollInterval))
	m.row.show(record.Hostname)
	c.index.place(m, record, now)
}

// Remove removes an agent. The caller does not hold the agent's lock.
func (c *Census) Remove(m *Member) {
	c.table.remove(m)
	c.index.remove(m)
}

// Applied counts that an agent runs a release for the first time.
func (c *Census) Applied(release *models.Release, record *models.Agent) {
	c.spread.add(release, record)
}

// UpdateAges updates the ages that have changed by now, so that requests find few left.
func (c *Census) UpdateAges(now time.Time) { c.index.age(now) }

// Agent returns the agent at the place.
func (m *Member) Agent() Agent { return m.agent }

// Each calls visit for each agent with the time when it was last seen.
func (c *Census) Each(visit func(m *Member, seen time.Time)) {
	for row := range c.table.after(0) {
		visit(row.member, time.UnixMicro(row.member.seen.Load()))
	}
}

// StatusOf returns the status of an agent under a plan.
func (c *Census) StatusOf(a *models.Agent, plan *models.Plan, now time.Time) wire.AgentStatus {
	return plan.Status(a.Health(models.AgeOf(now.Sub(a.Seen()), a.PollInterval, c.inactiveAfter)))
}

// Held returns the number of agents that keep a version which this store did not make,
// while its newest version is newest.
func (c *Census) Held(newest int64, now time.Time) (n int) {
	c.index.each(now, func(g *group) {
		if g.Held > newest {
			n += g.count
		}
	})
	return n
}

// AllHeld returns the agents that ever were, and are not released.
func (c *Census) AllHeld(now time.Time) (held []*Member) {
	c.index.each(now, func(g *group) {
		if g.Held > 0 {
			held = append(held, g.some(g.count)...)
		}
	})
	return held
}
