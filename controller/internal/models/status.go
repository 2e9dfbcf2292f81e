package models

import (
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Age classifies the time since an agent was last seen, relative to its poll interval.
type Age int32

// The ages, in the order in which an agent that does not poll passes through them.
const (
	AgeOnline Age = iota
	AgeStale
	AgeOffline
	AgeInactive
)

// The poll intervals after which an unseen agent is no longer online, or no longer stale.
const (
	onlineIntervals = 3
	staleIntervals  = 10
)

// AgeOf returns the age of an agent that was last seen unseen ago. An agent that polls in
// time is never inactive, even if its interval is longer than inactiveAfter.
func AgeOf(unseen, interval, inactiveAfter time.Duration) Age {
	switch {
	case unseen > inactiveAfter && unseen > onlineIntervals*interval:
		return AgeInactive
	case unseen > staleIntervals*interval:
		return AgeOffline
	case unseen > onlineIntervals*interval:
		return AgeStale
	}
	return AgeOnline
}

// NextAge returns how long an agent must be unseen to leave an age. leaves is false for
// AgeInactive, which only a poll ends.
func NextAge(age Age, interval, inactiveAfter time.Duration) (unseen time.Duration, leaves bool) {
	inactive := max(inactiveAfter, onlineIntervals*interval)
	switch age {
	case AgeOnline:
		return onlineIntervals * interval, true
	case AgeStale:
		return min(staleIntervals*interval, inactive), true
	case AgeOffline:
		return inactive, true
	case AgeInactive:
	}
	return 0, false
}

// Health has the properties of an agent that its status depends on.
type Health struct {
	Age      Age
	Applied  int64
	Refused  Refusal
	Held     int64 // as Agent.Held
	Degraded bool  // Presence.Degraded is not empty
}

// Status returns the status of an agent.
func (p *Plan) Status(h Health) wire.AgentStatus {
	_, reason := p.For(Traits{Runs: h.Applied, Held: h.Held, Refused: h.Refused})
	switch {
	case h.Age == AgeInactive:
		return wire.Inactive
	case h.Age == AgeOffline:
		return wire.Offline
	case reason.Kind == ReasonNewer, reason.Kind == ReasonForeign:
		return wire.Conflict
	case reason.Kind == ReasonRefused:
		return wire.Refused
	case h.Age == AgeStale:
		return wire.Stale
	case h.Degraded:
		return wire.Degraded
	}
	return wire.Online
}

// Seen returns when the agent was last seen: the time of its last poll, or of its
// registration if it has not polled.
func (a *Agent) Seen() time.Time {
	if a.LastPoll.IsZero() {
		return a.RegisteredAt
	}
	return a.LastPoll
}

// Health returns the health of the agent at an age.
func (a *Agent) Health(age Age) Health {
	return Health{Age: age, Applied: a.Applied, Refused: a.Refused, Held: a.Held, Degraded: a.Degraded != ""}
}

// Traits returns the traits of the agent as of its last poll.
func (a *Agent) Traits() Traits {
	return Traits{Runs: a.Applied, Unknown: a.Unknown, Held: a.Held, Refused: a.Refused}
}
