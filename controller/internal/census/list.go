package census

import (
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Query selects a page of the agents. A zero value of a filter selects all.
type Query struct {
	Status    wire.AgentStatus // empty: all but inactive
	All       bool             // with an empty Status: inactive agents too
	Applied   int64            // the version that their worker runs
	Transport wire.Transport
	Hostname  string // a * at its end makes it a prefix; letter case is ignored
	After     int64  // Seq of the last agent of the previous page; 0 for the first page
	Limit     int    // the most agents in the page
}

// matches reports whether the agents of a group match, apart from their hostname.
func (q *Query) matches(k groupKey, plan *models.Plan) bool {
	if q.Applied != 0 && k.Applied != q.Applied || q.Transport != "" && k.transport != q.Transport {
		return false
	}
	status := plan.Status(k.Health)
	if q.Status != "" {
		return status == q.Status
	}
	return q.All || status != wire.Inactive
}

// Page is a page of the agents, in the order of registration.
type Page struct {
	Agents []models.Agent
	Total  int  // the number of agents on all pages
	More   bool // there is another page
}

// fewAgents is the most matching agents that List sorts. If more match, it visits all
// agents in the order of registration.
const fewAgents = 4096

// List returns the page that q selects.
func (c *Census) List(q Query, plan *models.Plan, now time.Time) (page Page) {
	if q.Hostname != "" {
		c.index.age(now)
		return c.listHost(q, plan)
	}
	var few []*Member
	c.index.each(now, func(g *group) {
		if !q.matches(g.groupKey, plan) {
			return
		}
		if page.Total += g.count; page.Total <= fewAgents {
			few = append(few, g.some(g.count)...)
		}
	})
	if page.Total <= fewAgents {
		for _, m := range earliest(few, len(few)) {
			if m.Seq > q.After && !page.add(m, q.Limit) {
				break
			}
		}
		return page
	}
	for row := range c.table.after(q.After) {
		if row.member.matches(&q, plan) && !page.add(row.member, q.Limit) {
			break
		}
	}
	return page
}

// listHost is List for a query with a hostname.
func (c *Census) listHost(q Query, plan *models.Plan) (page Page) {
	pattern := newHostPattern(q.Hostname)
	for row := range c.table.after(0) {
		if !pattern.matches(row) || !row.member.matches(&q, plan) {
			continue
		}
		page.Total++
		if row.seq > q.After && !page.More {
			page.add(row.member, q.Limit)
		}
	}
	return page
}

// add appends an agent to a page. It returns false if the page was full, and sets More.
func (p *Page) add(m *Member, limit int) bool {
	if p.More = len(p.Agents) == limit; p.More {
		return false
	}
	p.Agents = append(p.Agents, m.agent.Snapshot())
	return true
}

func (m *Member) matches(q *Query, plan *models.Plan) bool {
	g := m.group.Load()
	return g != nil && q.matches(g.groupKey, plan) // nil: it was removed meanwhile
}
