package registry

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
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
func (r *Registry) Count(version int64, now time.Time) (f models.Figures) {
	r.index.each(now, func(g *group) { tally(&f, partOf(g.groupKey, version), g.count) })
	return f
}

// Targets returns the number of agents that should run the newest version: all but the
// inactive ones.
func (r *Registry) Targets(now time.Time) int { return r.Count(0, now).Targets }

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
func (r *Registry) Figures(plan *models.Plan, now time.Time) (f models.Figures) {
	var (
		version    = plan.Version()
		failures   = map[string]*failure{}
		late, away []*Agent
	)
	r.index.each(now, func(g *group) {
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
	f.FirstAppliedAt, f.Latency = r.spread.figures(version)
	f.Failures = mostFrequent(failures)
	for _, live := range append(earliest(late, maxStragglers), earliest(away, maxStragglers)...) {
		if len(f.Stragglers) < maxStragglers {
			f.Stragglers = append(f.Stragglers, r.straggler(live, plan, now))
		}
	}
	return f
}

// failure is an error message of workers, with a sample of the agents that reported it.
type failure struct {
	wire.RolloutFailure
	agents []*Agent
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
		for _, live := range earliest(f.agents, maxSamples) {
			f.SampleAgents = append(f.SampleAgents, live.id)
		}
		all = append(all, f.RolloutFailure)
	}
	return all
}

func (r *Registry) straggler(live *Agent, plan *models.Plan, now time.Time) models.Straggler {
	a := live.snapshot()
	return models.Straggler{
		ID: a.ID, Hostname: a.Hostname, Status: r.StatusOf(&a, plan, now), Applied: a.Applied, LastPoll: a.LastPoll,
	}
}

// spread measures how long the newest version takes to reach the agents. Each agent
// counts once for each version, when it first runs that.
type spread struct {
	mu        sync.Mutex // guards the rest
	version   int64
	first     time.Time       // when the first agent ran it
	latencies []time.Duration // since the commit, in ascending order
}

// add counts an agent that has applied a release.
func (s *spread) add(release *models.Release, a *models.Agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.version != release.Version {
		s.version, s.first, s.latencies = release.Version, time.Time{}, nil
	}
	if s.first.IsZero() || a.AppliedAt.Before(s.first) {
		s.first = a.AppliedAt
	}
	if a.RegisteredAt.After(release.PublishedAt) {
		return
	}
	took := latencyOf(release, a)
	at, _ := slices.BinarySearch(s.latencies, took) // usually the end
	s.latencies = slices.Insert(s.latencies, at, took)
}

// load counts the agents that had applied a release before the controller started.
func (s *spread) load(release *models.Release, agents []models.Agent) {
	for i := range agents {
		a := &agents[i]
		if a.Applied != release.Version || a.AppliedAt.IsZero() { // zero: an older build did not store it
			continue
		}
		if s.first.IsZero() || a.AppliedAt.Before(s.first) {
			s.first = a.AppliedAt
		}
		if !a.RegisteredAt.After(release.PublishedAt) {
			s.latencies = append(s.latencies, latencyOf(release, a))
		}
	}
	s.version = release.Version
	slices.Sort(s.latencies)
}

func latencyOf(release *models.Release, a *models.Agent) time.Duration {
	return max(0, a.AppliedAt.Sub(release.PublishedAt)).Truncate(time.Microsecond)
}

// figures returns when the first agent ran a version, and the percentiles of the
// latency by the nearest-rank method.
func (s *spread) figures(version int64) (first time.Time, l models.Latency) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.latencies)
	if s.version != version {
		return first, l
	}
	if n == 0 {
		return s.first.Truncate(time.Microsecond), l
	}
	rank := func(share float64) time.Duration {
		return s.latencies[max(1, int(math.Ceil(share*float64(n))))-1]
	}
	return s.first.Truncate(time.Microsecond), models.Latency{
		Agents: n, P50: rank(0.5), P90: rank(0.9), P99: rank(0.99), Max: rank(1),
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
func (r *Registry) Summary(plan *models.Plan, now time.Time) Summary {
	out := Summary{
		ByStatus: map[wire.AgentStatus]int{}, ByApplied: map[int64]int{}, ByTransport: map[wire.Transport]int{},
	}
	r.index.each(now, func(g *group) {
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
