package models

import (
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Figures describe how far a version has spread. Targets is the sum of Applied, Failed,
// Pending and Offline. The store and the archive keep Figures as JSON with these names.
type Figures struct {
	Targets  int `json:"targets"`  // agents that should run the version: all but the inactive ones
	Applied  int `json:"applied"`  // agents whose worker accepted it
	Failed   int `json:"failed"`   // agents whose worker refused it
	Pending  int `json:"pending"`  // reachable agents without an outcome
	Offline  int `json:"offline"`  // offline agents without an outcome
	Degraded int `json:"degraded"` // agents of Applied that cannot reach their worker now

	FirstAppliedAt time.Time             `json:"first_applied_at,omitzero"` // zero before an agent applied it
	Latency        Latency               `json:"latency"`
	Failures       []wire.RolloutFailure `json:"failures"`   // the most frequent first
	Stragglers     []Straggler           `json:"stragglers"` // a sample: pending agents, then offline ones
}

// Share returns the share of the targets that applied the version, from 0 to 1. It is 0
// if there are no targets.
func (f *Figures) Share() float64 {
	if f.Targets == 0 {
		return 0
	}
	return float64(f.Applied) / float64(f.Targets)
}

// Latency has percentiles of the time from the commit of a version until the controller
// learns that an agent's worker runs it. Agents that registered after the commit do not
// count.
type Latency struct {
	Agents int           `json:"agents"` // number of agents measured
	P50    time.Duration `json:"p50_ns"`
	P90    time.Duration `json:"p90_ns"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
}

// Straggler is an agent without an outcome for the version.
type Straggler struct {
	ID       string           `json:"id"`
	Hostname string           `json:"hostname"`
	Status   wire.AgentStatus `json:"status"`
	Applied  int64            `json:"applied_version"`
	LastPoll time.Time        `json:"last_poll,omitzero"` // zero before the first poll
}

// Rollout is a version and its figures.
type Rollout struct {
	Config       *Config
	SupersededBy int64 // the version whose publish ended this rollout; 0 while it is current
	Figures
}

// Closed has the final figures of a superseded version.
type Closed struct {
	Version, SupersededBy int64
	Figures               Figures
}
