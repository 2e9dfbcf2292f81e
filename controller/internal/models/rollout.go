package models

import "time"

// Figures tell how far a version has spread. Applied, Failed, Pending and
// Offline add up to Targets. The store keeps them as JSON, under these names.
type Figures struct {
	Targets int // the agents that should run it: all but the inactive ones
	Applied int // their worker accepted it
	Failed  int // their worker refused it
	Pending int // neither yet
	Offline int // neither, and not heard of for a while

	Degraded int // among those that applied it: their agents cannot reach their workers now

	FirstAppliedAt time.Time // zero while none has
	Latency        Latency
	Failures       []Failure   // the most frequent first
	Stragglers     []Straggler // some of the pending, then some of the offline
}

// Share is the part of the targets that has applied the version, 0 where there
// is no target.
func (f *Figures) Share() float64 {
	if f.Targets == 0 {
		return 0
	}
	return float64(f.Applied) / float64(f.Targets)
}

// Latency is the time from the commit of a version until it was heard that an
// agent's worker runs it: of half of the agents, of 90 %, of 99 %, of the last.
// Agents that registered after the commit do not count.
type Latency struct {
	Agents             int // how many were measured
	P50, P90, P99, Max time.Duration
}

// Failure is a worker's words, and who had it say so.
type Failure struct {
	Error   string
	Count   int
	Samples []string // ids of some of the agents
}

// Straggler is an agent that has not applied the version yet.
type Straggler struct {
	ID       string
	Hostname string
	Status   Status
	Applied  int64
	LastPoll time.Time // zero before the first poll
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
