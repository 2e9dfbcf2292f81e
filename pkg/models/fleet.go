package models

import (
	"strings"
	"time"
)

// Documents of the admin's API about the fleet.

// More limits of the contract.
const (
	MaxReasonBytes = 1024            // the reason of a freeze
	MaxWait        = 5 * time.Minute // the longest long poll
)

// AgentStatus is the status of an agent, computed from its last poll and what its worker runs
// and refuses.
type AgentStatus string

// The statuses of an agent.
const (
	Online   AgentStatus = "online"   // seen within three of its own intervals
	Stale    AgentStatus = "stale"    // missed three polls
	Offline  AgentStatus = "offline"  // missed ten polls, or never seen
	Inactive AgentStatus = "inactive" // unseen for INACTIVE_AFTER
	Refused  AgentStatus = "failed"   // seen, but its worker refused the desired version
	Conflict AgentStatus = "conflict" // seen, but it runs a version that is not in the store
	Degraded AgentStatus = "degraded" // seen, but it cannot reach or configure its worker
)

// AgentStatuses are all of them.
var AgentStatuses = []AgentStatus{Online, Stale, Offline, Inactive, Refused, Conflict, Degraded}

// AgentSummary counts the agents.
type AgentSummary struct {
	Total            int                 `json:"total" example:"20"`
	DesiredVersion   *int64              `json:"desired_version"`    // null until something is published
	ByStatus         map[AgentStatus]int `json:"by_status"`          // has every status
	ByAppliedVersion []VersionCount      `json:"by_applied_version"` // highest first; without inactive agents
	ByTransport      map[Transport]int   `json:"by_transport"`       // how they learn of a newer version; without inactive agents
}

// VersionCount is how many agents run a version.
type VersionCount struct {
	Version *int64 `json:"version" example:"8"` // null: none yet
	Count   int    `json:"count" example:"19"`
}

// Rollout is the progress of a version. Applied, Failed, Pending and Offline add up to Targets.
type Rollout struct {
	Version        int64            `json:"version" example:"8"`
	PublishedAt    time.Time        `json:"published_at"`
	SupersededBy   *int64           `json:"superseded_by"`        // null while it is current; else the figures are its last
	Targets        int              `json:"targets" example:"20"` // the agents that should run it: all but the inactive ones
	Applied        int              `json:"applied" example:"19"`
	Degraded       int              `json:"degraded" example:"0"` // of applied; these cannot reach their workers now
	Failed         int              `json:"failed" example:"1"`
	Pending        int              `json:"pending" example:"0"`
	Offline        int              `json:"offline" example:"0"`
	FirstAppliedAt *time.Time       `json:"first_applied_at"` // null while none has
	LatencyMS      Latency          `json:"latency_ms"`
	Failures       []RolloutFailure `json:"failures"`   // by error message, the most frequent first; at most 20
	Stragglers     []Straggler      `json:"stragglers"` // at most 20: pending agents, then offline ones
}

// Latency is the time in milliseconds from the commit of a version until the controller
// received that a worker runs it, over the agents that were registered at the commit; null
// while there is none.
type Latency struct {
	P50 *float64 `json:"p50" example:"812.4"`
	P90 *float64 `json:"p90" example:"1430.1"`
	P99 *float64 `json:"p99" example:"1871.9"`
	Max *float64 `json:"max" example:"1902.3"`
}

// RolloutFailure is an error message of workers, and their agents.
type RolloutFailure struct {
	Error        string   `json:"error" example:"the host example.com is not one of this worker's ALLOW_HOSTS"`
	Count        int      `json:"count" example:"1"`
	SampleAgents []string `json:"sample_agents"` // the ids of at most 5
}

// Straggler is an agent that has not applied a version yet.
type Straggler struct {
	ID             string      `json:"id"`
	Hostname       string      `json:"hostname" example:"web-17"`
	Status         AgentStatus `json:"status" enums:"online,stale,offline,failed,conflict,degraded"`
	AppliedVersion *int64      `json:"applied_version"`
	LastPoll       *time.Time  `json:"last_poll"`
}

// RollbackRequest is the optional body of a rollback.
type RollbackRequest struct {
	Message *string `json:"message,omitempty" example:"the new site is slow"`
}

// Difference is a field that differs between two configurations.
type Difference struct {
	Field string `json:"field" example:"data.url"`
	From  any    `json:"from"` // null for the first version
	To    any    `json:"to"`
}

// FreezeRequest freezes publishing.
type FreezeRequest struct {
	Reason string     `json:"reason" example:"sale until Monday"`
	Until  *time.Time `json:"until,omitempty"` // RFC 3339; omitted: until it is lifted
}

// Freeze is the state of publishing.
type Freeze struct {
	Frozen   bool       `json:"frozen"`
	Reason   string     `json:"reason,omitempty" example:"sale until Monday"`
	Until    *time.Time `json:"until,omitempty"`
	FrozenBy string     `json:"frozen_by,omitempty" example:"admin"`
	FrozenAt *time.Time `json:"frozen_at,omitempty"`
}

// AuditEntry is an entry of the audit log.
type AuditEntry struct {
	ID       int64     `json:"id" example:"17"` // increases; for before=
	At       time.Time `json:"at"`
	Actor    string    `json:"actor" example:"admin"`
	SourceIP string    `json:"source_ip" example:"127.0.0.1"`
	Action   string    `json:"action" enums:"publish,rollback,decommission,retry,freeze,unfreeze,override,resume,login_failed,register,reregister,reset,certificate"`
	Version  *int64    `json:"version" example:"8"` // null if it concerns none
	Detail   string    `json:"detail" example:"move to the new site"`
}

// Validate returns an *Invalid that names every bad field, or nil.
func (r RollbackRequest) Validate() error {
	var f faults
	if r.Message != nil {
		f.text("message", *r.Message, MaxMessageBytes)
	}
	return f.err()
}

// Validate returns an *Invalid that names every bad field, or nil. Until must be after now.
func (r FreezeRequest) Validate(now time.Time) error {
	var f faults
	f.require(strings.TrimSpace(r.Reason) != "", "reason", "is missing: say why publishing is frozen")
	f.text("reason", r.Reason, MaxReasonBytes)
	f.require(r.Until == nil || r.Until.After(now), "until", "is in the past")
	return f.err()
}
