package protocol

import (
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Status is the body of GET /status. Times and texts are empty, and numbers null, until
// they are known.
type Status struct {
	AgentID             string         `json:"agent_id"`
	Registered          bool           `json:"registered"` // the controller has accepted the token since this process started
	DesiredVersion      *int64         `json:"desired_version"`
	AppliedVersion      *int64         `json:"applied_version"` // the version that the worker accepted last
	Transport           wire.Transport `json:"transport"`       // how the agent learns of newer versions now
	Push                PushStatus     `json:"push"`
	PollIntervalSeconds int            `json:"poll_interval_seconds"`
	LastFetch           *time.Time     `json:"last_fetch"` // last answer to a poll, a 304 too
	LastError           string         `json:"last_error"` // "" while all is well
	CacheAgeSeconds     *int64         `json:"cache_age_seconds"`
	Worker              WorkerStatus   `json:"worker"`
	Cache               CacheStatus    `json:"cache"`

	ControllerError string `json:"-"` // LastError holds it too
	InSync          bool   `json:"-"` // the worker runs the last good configuration, or the candidate
}

// PushStatus says whether the agent learns of newer versions between two polls.
type PushStatus struct {
	Transport wire.Transport `json:"transport"` // what PUSH asks for; poll for none
	Healthy   bool           `json:"healthy"`
	Error     string         `json:"error"`
}

// CacheStatus says whether a restarted agent would find the current state.
type CacheStatus struct {
	Writable bool   `json:"writable"`
	Error    string `json:"error"`
}

// WorkerStatus is the worker's last answer.
type WorkerStatus struct {
	Reachable bool   `json:"reachable"`
	Version   *int64 `json:"version"` // null while it runs nothing
	Instance  string `json:"instance"`
	Error     string `json:"error"`
}
