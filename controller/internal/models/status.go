package models

import "time"

// Status is how an agent is, as far as the controller can tell.
type Status string

// The states of an agent.
const (
	Online   Status = "online"
	Stale    Status = "stale"
	Offline  Status = "offline"
	Inactive Status = "inactive" // offline for so long that it may never come back
	Refused  Status = "failed"   // seen, but its worker refused the desired version
	Ahead    Status = "conflict" // seen, but it runs a version that this store does not have
	Degraded Status = "degraded" // seen, but it cannot reach its worker or push to it
)

// Statuses are all of them.
var Statuses = []Status{Online, Stale, Offline, Inactive, Refused, Ahead, Degraded}

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
func (p *Plan) Status(h Health) Status {
	_, reason := p.For(Traits{Runs: h.Applied, Held: h.Held, Refused: h.Refused})
	switch {
	case h.Age == AgeInactive:
		return Inactive
	case h.Age == AgeOffline:
		return Offline
	case reason.Kind == ReasonNewer, reason.Kind == ReasonForeign:
		return Ahead
	case reason.Kind == ReasonRefused:
		return Refused
	case h.Age == AgeStale:
		return Stale
	case h.Degraded:
		return Degraded
	}
	return Online
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
