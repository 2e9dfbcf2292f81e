package service

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// How many of each the figures name.
const (
	maxFailures   = 20
	maxSamples    = 5
	maxStragglers = 20
)

// part is what an agent is in a rollout.
type part int

const (
	none part = iota // not a target
	applied
	failed
	pending
	offline
)

func partOf(v models.Health, version int64, outlook models.Outlook) part {
	status := outlook.Status(v)
	switch {
	case status == models.Inactive:
		return none
	case v.Applied == version && !v.Mismatch: // a poll brings one with another content back to the version
		return applied
	case v.Refused == version:
		return failed
	case status == models.Offline:
		return offline
	}
	return pending
}

// count counts the parts of a rollout, and nothing else.
func (s *Agents) count(version int64, outlook models.Outlook) (f models.Figures) {
	outlook.InactiveAfter = s.inactiveAfter
	for row := range s.table.all() {
		tally(&f, partOf(row.health(outlook.Now), version, outlook))
	}
	return f
}

// Targets is how many agents should run what is current.
func (s *Agents) Targets(outlook models.Outlook) int {
	return s.count(outlook.Desired, outlook).Targets
}

func tally(f *models.Figures, p part) {
	switch p {
	case none:
		return
	case applied:
		f.Applied++
	case failed:
		f.Failed++
	case pending:
		f.Pending++
	case offline:
		f.Offline++
	}
	f.Targets++
}

// Figures tell how far a configuration has spread among the agents.
func (s *Agents) Figures(cfg *models.Config, outlook models.Outlook) (f models.Figures) {
	outlook.InactiveAfter = s.inactiveAfter
	var (
		committed = cfg.PublishedAt.UnixMicro()
		first     = int64(math.MaxInt64)
		latencies []int64 // microseconds
		failures  = map[string]*models.Failure{}
		downtime  []models.Straggler
	)
	for row := range s.table.all() {
		v := row.health(outlook.Now)
		p := partOf(v, cfg.Version, outlook)
		tally(&f, p)
		switch p {
		case applied:
			if outlook.Status(v) == models.Degraded {
				f.Degraded++
			}
			at := row.appliedAt.Load()
			if at == 0 {
				continue // stored by a controller older than this build
			}
			if first = min(first, at); row.registeredAt.Load() <= committed {
				latencies = append(latencies, max(0, at-committed))
			}
		case failed:
			addFailure(failures, row.live)
		case pending:
			if len(f.Stragglers) < maxStragglers {
				f.Stragglers = append(f.Stragglers, row.straggler(outlook))
			}
		case offline:
			if len(downtime) < maxStragglers {
				downtime = append(downtime, row.straggler(outlook))
			}
		case none:
		}
	}
	if first != math.MaxInt64 {
		f.FirstAppliedAt = time.UnixMicro(first).UTC()
	}
	f.Latency = latency(latencies)
	f.Failures = mostFrequent(failures)
	f.Stragglers = append(f.Stragglers, downtime[:min(len(downtime), maxStragglers-len(f.Stragglers))]...)
	return f
}

func addFailure(failures map[string]*models.Failure, live *Agent) {
	words := live.snapshot().Refused.Error
	f := failures[words]
	if f == nil {
		f = &models.Failure{Error: words}
		failures[words] = f
	}
	if f.Count++; len(f.Samples) < maxSamples {
		f.Samples = append(f.Samples, live.id)
	}
}

func mostFrequent(failures map[string]*models.Failure) []models.Failure {
	all := make([]models.Failure, 0, len(failures))
	for _, f := range failures {
		all = append(all, *f)
	}
	slices.SortFunc(all, func(a, b models.Failure) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Error, b.Error))
	})
	return all[:min(len(all), maxFailures)]
}

func (r *row) straggler(outlook models.Outlook) models.Straggler {
	a := r.live.snapshot()
	return models.Straggler{ID: a.ID, Hostname: a.Hostname, Status: outlook.StatusOf(&a), Applied: a.Applied, LastPoll: a.LastPoll}
}

// latency takes the percentiles by the nearest rank.
func latency(microseconds []int64) (l models.Latency) {
	n := len(microseconds)
	if n == 0 {
		return l
	}
	slices.Sort(microseconds)
	rank := func(share float64) time.Duration {
		return time.Duration(microseconds[max(1, int(math.Ceil(share*float64(n))))-1]) * time.Microsecond
	}
	return models.Latency{Agents: n, P50: rank(0.5), P90: rank(0.9), P99: rank(0.99), Max: rank(1)}
}

// Summary counts the agents.
type Summary struct {
	Total    int
	ByStatus map[models.Status]int
	// The inactive ones are left out of these two.
	ByApplied   map[int64]int            // by the version that they run, 0 for none
	ByTransport map[models.Transport]int // by how they hear of a newer version; empty for unknown
}

// Summary counts the agents by status, by what they run, and by how they hear of
// a newer version.
func (s *Agents) Summary(outlook models.Outlook) Summary {
	outlook.InactiveAfter = s.inactiveAfter
	out := Summary{ByStatus: map[models.Status]int{}, ByApplied: map[int64]int{}, ByTransport: map[models.Transport]int{}}
	for row := range s.table.all() {
		v := row.health(outlook.Now)
		status := outlook.Status(v)
		out.Total++
		out.ByStatus[status]++
		if status != models.Inactive {
			out.ByApplied[v.Applied]++
			out.ByTransport[row.hears()]++
		}
	}
	return out
}
