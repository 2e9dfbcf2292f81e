package registry

import (
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Query asks for a page of the agents. Zero values ask for all of them.
type Query struct {
	Status   wire.AgentStatus // empty: all but the inactive ones
	All      bool             // the inactive ones too, where Status is empty
	Applied  int64
	Hears    wire.Transport
	Hostname string // a * at its end stands for anything
	After    int64  // Seq of the last agent of the page before
	Limit    int
}

// matches reports whether agents that are alike are asked for, on any host.
func (q *Query) matches(k groupKey, plan *models.Plan) bool {
	if q.Applied != 0 && k.Applied != q.Applied || q.Hears != "" && k.transport != q.Hears {
		return false
	}
	status := plan.Status(k.Health)
	if q.Status != "" {
		return status == q.Status
	}
	return q.All || status != wire.Inactive
}

// Page is some of the agents, in the order of registration.
type Page struct {
	Agents []models.Agent
	Total  int  // how many there are on all pages
	More   bool // there is a page after this one
}

// fewAgents is how many agents a list sorts, rather than to look for them in the order
// of registration.
const fewAgents = 4096

// List returns a page of the agents as they are now.
func (r *Registry) List(q Query, plan *models.Plan, now time.Time) (page Page) {
	if q.Hostname != "" {
		r.index.age(now)
		return r.listHost(q, plan)
	}
	var few []*Agent
	r.index.each(now, func(g *group) {
		if !q.matches(g.groupKey, plan) {
			return
		}
		if page.Total += g.count; page.Total <= fewAgents {
			few = append(few, g.some(g.count)...)
		}
	})
	if page.Total <= fewAgents {
		for _, live := range earliest(few, len(few)) {
			if live.seq > q.After && !page.add(live, q.Limit) {
				break
			}
		}
		return page
	}
	for row := range r.table.after(q.After) {
		if row.live.matches(&q, plan) && !page.add(row.live, q.Limit) {
			break
		}
	}
	return page
}

// listHost is List of a query for hosts.
func (r *Registry) listHost(q Query, plan *models.Plan) (page Page) {
	pattern := newHostPattern(q.Hostname)
	for row := range r.table.after(0) {
		if !pattern.matches(row) || !row.live.matches(&q, plan) {
			continue
		}
		page.Total++
		if row.seq > q.After && !page.More {
			page.add(row.live, q.Limit)
		}
	}
	return page
}

// add adds an agent to a page, and reports whether there is room for one more.
func (p *Page) add(live *Agent, limit int) bool {
	if p.More = len(p.Agents) == limit; p.More {
		return false
	}
	p.Agents = append(p.Agents, live.snapshot())
	return true
}

func (a *Agent) matches(q *Query, plan *models.Plan) bool {
	g := a.group.Load()
	return g != nil && q.matches(g.groupKey, plan) // nil: it was removed meanwhile
}
