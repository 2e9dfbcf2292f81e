package models

import "time"

// Status is how an agent is, as far as the controller can tell.
type Status string

// The states of an agent.
const (
	Online   Status = "online"
	Stale    Status = "stale"
	Offline  Status = "offline"
	Inactive Status = "inactive" // offline for so long that it may be gone for good
	Refused  Status = "failed"   // heard of, but its worker refused the desired version
	Ahead    Status = "conflict" // heard of, but it runs a version that this store does not have
	Degraded Status = "degraded" // heard of, but it cannot reach or feed its worker
)

// Statuses are all of them.
var Statuses = []Status{Online, Stale, Offline, Inactive, Refused, Ahead, Degraded}

// Missed intervals after which an agent is no longer online, then offline.
const (
	onlineIntervals = 3
	staleIntervals  = 10
)

// Health are what the status of an agent is computed from.
type Health struct {
	Unseen   time.Duration // since its last poll, or its registration before that
	Interval time.Duration
	Applied  int64
	Refused  int64 // the version that its worker refused last; 0 for none
	Held     int64 // as Agent.Held
	Degraded bool  // it said last that it cannot reach or feed its worker
	Mismatch bool  // as Agent.Mismatch; the status does not depend on it
}

// Seen is when the agent was here last: its last poll, or its registration
// before that.
func (a *Agent) Seen() time.Time {
	if a.LastPoll.IsZero() {
		return a.RegisteredAt
	}
	return a.LastPoll
}

// StatusOf tells how an agent is.
func (o Outlook) StatusOf(a *Agent) Status {
	return o.Status(Health{
		Unseen: o.Now.Sub(a.Seen()), Interval: a.PollInterval, Applied: a.Applied,
		Refused: a.Refused.Version, Held: a.Held, Degraded: a.Degraded != "",
	})
}

// Outlook is what agents are judged against at a moment.
type Outlook struct {
	Now           time.Time
	Desired       int64         // the version that they should run; 0 while nothing was published
	Conflict      bool          // some run versions above the store's, and no admin has decided yet
	InactiveAfter time.Duration // how long an agent is unseen before it counts as inactive
}

// Status tells how an agent is. Polls on time never make it inactive, however
// long its interval.
func (o Outlook) Status(v Health) Status {
	switch unseen := v.Unseen; {
	case unseen > o.InactiveAfter && unseen > onlineIntervals*v.Interval:
		return Inactive
	case unseen > staleIntervals*v.Interval:
		return Offline
	case v.Applied > o.Desired && (o.Conflict || v.Held > o.Desired):
		return Ahead
	case o.Desired != 0 && v.Refused == o.Desired:
		return Refused
	case unseen > onlineIntervals*v.Interval:
		return Stale
	case v.Degraded:
		return Degraded
	}
	return Online
}
