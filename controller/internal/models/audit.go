package models

import "time"

// Action is the kind of an audit log entry. The values are stored, and part of the API.
type Action string

// The actions of the audit log.
const (
	ActionPublish      Action = "publish"
	ActionRollback     Action = "rollback"
	ActionDecommission Action = "decommission"
	ActionRetry        Action = "retry"
	ActionFreeze       Action = "freeze"
	ActionUnfreeze     Action = "unfreeze"
	ActionOverride     Action = "override" // a publish or rollback that overrides a freeze
	ActionResume       Action = "resume"
	ActionLoginFailed  Action = "login_failed"
	ActionRegister     Action = "register"    // a registration of an unknown id
	ActionReregister   Action = "reregister"  // a registration of a known id
	ActionReset        Action = "reset"       // the agent may register once with the shared credentials
	ActionCertificate  Action = "certificate" // an agent re-registered over a certificate with another name
)

// Actions lists every action.
var Actions = []Action{
	ActionPublish, ActionRollback, ActionDecommission, ActionRetry, ActionFreeze, ActionUnfreeze, ActionOverride,
	ActionResume, ActionLoginFailed, ActionRegister, ActionReregister, ActionReset, ActionCertificate,
}

// Origin is the account and the address that a request came from.
type Origin struct {
	Actor    string // the account, or the agent's id
	SourceIP string // empty for the controller itself
}

// Entry is one entry of the audit log.
type Entry struct {
	Seq int64 // position in the log, from 1; 0 before it is stored
	At  time.Time
	Origin
	Action  Action
	Version int64 // the version concerned; 0 for none
	Detail  string
}

// NewEntry returns an entry with the current time.
func NewEntry(origin Origin, action Action, version int64, detail string) Entry {
	return origin.entry(Now(), action, version, detail)
}

func (o Origin) entry(at time.Time, action Action, version int64, detail string) Entry {
	return Entry{At: at, Origin: o, Action: action, Version: version, Detail: detail}
}

// Now returns the current time as it is stored: UTC, in whole microseconds.
func Now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
