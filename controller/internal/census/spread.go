package census

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

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
	if release.Version < s.version {
		return // superseded since the caller read the plan
	}
	if s.version != release.Version {
		s.version, s.first, s.latencies = release.Version, time.Time{}, nil
	}
	if s.first.IsZero() || a.AppliedAt.Before(s.first) {
		s.first = a.AppliedAt
	}
	if took, counts := LatencyOf(release, a); counts {
		at, _ := slices.BinarySearch(s.latencies, took) // usually the end
		s.latencies = slices.Insert(s.latencies, at, took)
	}
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
		if took, counts := LatencyOf(release, a); counts {
			s.latencies = append(s.latencies, took)
		}
	}
	s.version = release.Version
	slices.Sort(s.latencies)
}

// LatencyOf returns how long a release took from its commit to an agent that runs it, in
// whole microseconds. It counts only for an agent that was registered by then.
func LatencyOf(release *models.Release, a *models.Agent) (took time.Duration, counts bool) {
	took = max(0, a.AppliedAt.Sub(release.PublishedAt)).Truncate(time.Microsecond)
	return took, !a.RegisteredAt.After(release.PublishedAt)
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
