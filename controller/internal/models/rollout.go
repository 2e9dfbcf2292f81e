package models

import (
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Figures tell how far a version has spread. Applied, Failed, Pending and Offline add
// up to Targets. The store and the archive keep them as JSON, under these names.
type Figures struct {
	Targets  int `json:"targets"`  // the agents that should run it: all but the inactive ones
	Applied  int `json:"applied"`  // their worker accepted it
	Failed   int `json:"failed"`   // their worker refused it
	Pending  int `json:"pending"`  // neither yet
	Offline  int `json:"offline"`  // neither, and offline
	Degraded int `json:"degraded"` // those of Applied whose agents cannot reach their workers now

	FirstAppliedAt time.Time             `json:"first_applied_at,omitzero"` // zero while none has
	Latency        Latency               `json:"latency"`
	Failures       []wire.RolloutFailure `json:"failures"`   // the most frequent first
	Stragglers     []Straggler           `json:"stragglers"` // some of the pending, then some of the offline
}

// Share is the part of the targets that has applied the version, 0 where there
// is no target.
func (f *Figures) Share() float64 {
	if f.Targets == 0 {
		return 0
	}
	return float64(f.Applied) / float64(f.Targets)
}

// Latency is the time from the commit of a version until the controller learns that an
// agent's worker runs it: of half of the agents, of 90 %, of 99 %, of the last. Agents
// that registered after the commit do not count.
type Latency struct {
	Agents int           `json:"agents"` // how many were measured
	P50    time.Duration `json:"p50_ns"`
	P90    time.Duration `json:"p90_ns"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
}

// Straggler is an agent that has not applied the version yet.
type Straggler struct {
	ID       string           `json:"id"`
	Hostname string           `json:"hostname"`
	Status   wire.AgentStatus `json:"status"`
	Applied  int64            `json:"applied_version"`
	LastPoll time.Time        `json:"last_poll,omitzero"` // zero before the first poll
}

// Rollout is a version and how far it has spread.
type Rollout struct {
	Config       *Config
	SupersededBy int64 // the version after it, whose publish ended this rollout; 0 while it is current
	Figures
}

// Closed is the last figures of a version that was superseded.
type Closed struct {
	Version, SupersededBy int64
	Figures               Figures
}
