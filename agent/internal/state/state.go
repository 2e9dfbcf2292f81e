// Package state decides what an agent does. Machine takes events, such as the answer to
// a poll or the outcome of a push, and returns what to do next: which request to send,
// what to save, what to log. It promises that
//
//   - the worker is pushed only what the controller offered, and a candidate only after
//     it could be saved,
//   - If-None-Match names only what the worker accepted,
//   - the last good configuration is kept until the worker has accepted another,
//   - an older version is applied only with a reason from the controller,
//   - each outcome is reported until the controller has taken it, or a newer one
//     replaces it.
//
// It is pure but for the jitter of waits: it has no clock, no goroutine, no lock, no I/O
// and no logger, and each event brings the time that it happens at. The loops of package
// poller do the rest.
package state

import "github.com/fleetconf/fleetconf/agent/internal/protocol"

// Stored is what an agent remembers over a restart.
type Stored struct {
	Identity protocol.Identity `json:"identity"`
	// Registered is the protocol.Digest of the last registration; "" if that is not known.
	Registered string            `json:"registered,omitempty"`
	Fleet      string            `json:"fleet,omitempty"`     // the id that the controller named last
	Candidate  *protocol.Release `json:"candidate,omitempty"` // fetched, and neither accepted nor refused by the worker
	LastGood   *protocol.Release `json:"last_good,omitempty"` // accepted last by the worker: the applied one
}

// Desired returns what the worker should run, nil if nothing was ever fetched.
func (s Stored) Desired() *protocol.Release {
	if s.Candidate != nil {
		return s.Candidate
	}
	return s.LastGood
}
