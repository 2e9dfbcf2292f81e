package census

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Limits of the lists in the figures.
const (
	maxFailures   = 20 // error messages
	maxSamples    = 5  // agents for each error message
	maxStragglers = 20
)

// part is the part of a rollout that an agent counts in.
type part int

const (
	none part = iota // not a target
	applied
	failed
	pending
	offline
)

func partOf(k groupKey, version int64) part {
	switch {
	case k.Age == models.AgeInactive:
		return none
	case k.Applied == version && !k.mismatch: // an agent with a mismatch is offered the version again
		return applied
	case k.Refused.Version == version:
		return failed
	case k.Age == models.AgeOffline:
		return offline
	}
	return pending
}

// Count returns the figures of a version, but only Targets, Applied, Failed, Pending and
// Offline.
func (c *Census) Count(version int64, now time.Time) (f models.Figures) {
	c.index.each(now, func(g *group) { tally(&f, partOf(g.groupKey, version), g.count) })
	return f
}

// Targets returns the number of agents that should run the newest version: all but the
// inactive ones.
func (c *Census) Targets(now time.Time) int { return c.Count(0, now).Targets }

func tally(f *models.Figures, p part, n int) {
	switch p {
	case none:
		return
	case applied:
		f.Applied += n
	case failed:
		f.Failed += n
	case pending:
		f.Pending += n
	case offline:
		f.Offline += n
	}
	f.Targets += n
}

// Figures returns the figures of the plan's newest version.
func (c *Census) Figures(plan *models.Plan, now time.Time) (f models.Figures) {
	var (
		version    = plan.Version()
		failures   = map[string]*failure{}
		late, away []*Member
	)
	c.index.each(now, func(g *group) {
		p := partOf(g.groupKey, version)
		tally(&f, p, g.count)
		switch p {
		case applied:
			if plan.Status(g.Health) == wire.Degraded {
				f.Degraded += g.count
			}
		case failed:
			addFailure(failures, g)
		case pending:
			late = append(late, g.some(maxStragglers)...)
		case offline:
			away = append(away, g.some(maxStragglers)...)
		case none:
		}
	})
	f.FirstAppliedAt, f.Latency = c.spread.figures(version)
	f.Failures = mostFrequent(failures)
	for _, m := range append(earliest(late, maxStragglers), earliest(away, maxStragglers)...) {
		if len(f.Stragglers) < maxStragglers {
			f.Stragglers = append(f.Stragglers, c.straggler(m, plan, now))
		}
	}
	return f
}

// failure is an error message of workers, with a sample of the agents that reported it.
type failure struct {
	wire.RolloutFailure
	agents []*Member
}

func addFailure(failures map[string]*failure, g *group) {
	f := failures[g.Refused.Error]
	if f == nil {
		f = &failure{RolloutFailure: wire.RolloutFailure{Error: g.Refused.Error}}
		failures[g.Refused.Error] = f
	}
	f.Count += g.count
	f.agents = append(f.agents, g.some(maxSamples)...)
}

func mostFrequent(failures map[string]*failure) []wire.RolloutFailure {
	sorted := slices.SortedFunc(maps.Values(failures), func(a, b *failure) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Error, b.Error))
	})
	all := make([]wire.RolloutFailure, 0, min(len(sorted), maxFailures))
	for _, f := range sorted[:min(len(sorted), maxFailures)] {
		for _, m := range earliest(f.agents, maxSamples) {
			f.SampleAgents = append(f.SampleAgents, m.ID)
		}
		all = append(all, f.RolloutFailure)
	}
	return all
}

func (c *Census) straggler(m *Member, plan *models.Plan, now time.Time) models.Straggler {
	a := m.agent.Snapshot()
	return models.Straggler{
		ID: a.ID, Hostname: a.Hostname, Status: c.StatusOf(&a, plan, now), Applied: a.Applied, LastPoll: a.LastPoll,
	}
}

// Summary counts the agents. ByApplied and ByTransport exclude the inactive ones.
type Summary struct {
	Total       int
	ByStatus    map[wire.AgentStatus]int
	ByApplied   map[int64]int          // by the version that their worker runs; 0 for none
	ByTransport map[wire.Transport]int // by how they receive hints; empty for unknown
}

// Summary returns the numbers of agents at a time.
func (c *Census) Summary(plan *models.Plan, now time.Time) Summary {
	out := Summary{
		ByStatus: map[wire.AgentStatus]int{}, ByApplied: map[int64]int{}, ByTransport: map[wire.Transport]int{},
	}
	c.index.each(now, func(g *group) {
		status := plan.Status(g.Health)
		out.Total += g.count
		out.ByStatus[status] += g.count
		if status != wire.Inactive {
			out.ByApplied[g.Applied] += g.count
			out.ByTransport[g.transport] += g.count
		}
	})
	return out
}
