package models

import (
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Age is how long an agent is unseen, measured by its own poll interval.
type Age int32

// The ages. Without a poll, an agent passes from each to a later one.
const (
	AgeOnline Age = iota
	AgeStale
	AgeOffline
	AgeInactive
)

// Missed intervals after which an agent is no longer online, then offline.
const (
	onlineIntervals = 3
	staleIntervals  = 10
)

// AgeOf returns the age of an agent that is unseen for a time. Polls on time never make
// it inactive, however long its interval.
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

// NextAge returns after how long unseen an agent leaves an age, if it does not poll.
// It returns false for AgeInactive, which it does not leave.
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

// Health is what the status of an agent is computed from.
type Health struct {
	Age      Age
	Applied  int64
	Refused  Refusal
	Held     int64 // as Agent.Held
	Degraded bool  // it said last that it cannot reach its worker or push to it
}

// Status returns how an agent is.
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

// Seen is when the agent was here last: its last poll, or its registration before that.
func (a *Agent) Seen() time.Time {
	if a.LastPoll.IsZero() {
		return a.RegisteredAt
	}
	return a.LastPoll
}

// Health is that of an agent of an age.
func (a *Agent) Health(age Age) Health {
	return Health{Age: age, Applied: a.Applied, Refused: a.Refused, Held: a.Held, Degraded: a.Degraded != ""}
}

// Traits are those of an agent, as it polled last.
func (a *Agent) Traits() Traits {
	return Traits{Runs: a.Applied, Unknown: a.Unknown, Held: a.Held, Refused: a.Refused}
}
