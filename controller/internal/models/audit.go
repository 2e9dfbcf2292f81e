package models

import "time"

// Action is what an entry of the audit trail is about.
type Action string

// The actions.
const (
	ActionPublish      Action = "publish"
	ActionRollback     Action = "rollback"
	ActionDecommission Action = "decommission"
	ActionRetry        Action = "retry"
	ActionFreeze       Action = "freeze"
	ActionUnfreeze     Action = "unfreeze"
	ActionOverride     Action = "override" // a publish or rollback in spite of a freeze
	ActionResume       Action = "resume"
	ActionLoginFailed  Action = "login_failed"
	ActionRegister     Action = "register"    // of an id that was not known
	ActionReregister   Action = "reregister"  // of a known one
	ActionReset        Action = "reset"       // an agent's row accepts one registration again
	ActionCertificate  Action = "certificate" // an agent re-registered over a certificate with another name
)

// Actions are all of them.
var Actions = []Action{
	ActionPublish, ActionRollback, ActionDecommission, ActionRetry, ActionFreeze, ActionUnfreeze, ActionOverride, ActionResume, ActionLoginFailed,
	ActionRegister, ActionReregister, ActionReset, ActionCertificate,
}

// Origin is who asks for something, and from where.
type Origin struct {
	Actor    string
	SourceIP string
}

// Entry is one line of the audit trail.
type Entry struct {
	Seq int64 // its place in the trail, from 1; 0 before it is stored
	At  time.Time
	Origin
	Action  Action
	Version int64 // the version that it was about; 0 for none
	Detail  string
}

// NewEntry returns the entry of what origin does now.
func NewEntry(origin Origin, action Action, version int64, detail string) Entry {
	return origin.entry(Now(), action, version, detail)
}

func (o Origin) entry(at time.Time, action Action, version int64, detail string) Entry {
	return Entry{At: at, Origin: o, Action: action, Version: version, Detail: detail}
}

// Now is the present as it is stored: UTC, in whole microseconds.
func Now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
