package pace

import (
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

// Outcome is what became of a hint.
type Outcome string

// The outcomes of a hint.
const (
	HintFollowed Outcome = "followed"
	HintDelayed  Outcome = "delayed" // followed later, because earlier hints were unfounded
	HintOld      Outcome = "old"     // names what the agent has, or an older version
	HintIgnored  Outcome = "ignored" // repeats the last unfounded hint
	HintInvalid  Outcome = "invalid"
)

// hints decides which hints are followed, and when. A hint is unfounded if the fetch
// that follows it brings nothing new. After one, the next is delayed, and each
// further one doubles the delay, up to a poll interval: a client that can write
// to the broker cannot make a fleet fetch much more often than polling would.
type hints struct {
	due         time.Time // of the fetch; zero: none. It is only ever brought forward
	last        notify.Hint
	ignoreUntil time.Time
	ignoreFor   *backoff.Backoff
	unfounded   notify.Hint // the last one
}

func newHints() hints { return hints{ignoreFor: backoff.New(RetryFirst, wire.MaxPollInterval)} }

// fetchBy brings the next fetch forward to at.
func (h *hints) fetchBy(at time.Time) {
	if h.due.IsZero() || at.Before(h.due) {
		h.due = at
	}
}

// Hint handles a hint and returns its outcome. has is what the agent has; a release may be
// nil. The fetch is at a random time within the spread of the hint.
func (p *Pace) Hint(now time.Time, hint notify.Hint, has ...*protocol.Release) Outcome {
	h := &p.hints
	if last := h.unfounded; hint.Version == last.Version && hint.ETag == last.ETag {
		return HintIgnored
	}
	for _, r := range has {
		if r != nil && (hint.Version < r.Config.Version || hint.Version == r.Config.Version && hint.ETag == r.ETag) {
			return HintOld
		}
	}
	at, outcome := now.Add(jitter(hint.Spread())), HintFollowed
	if at.Before(h.ignoreUntil) {
		at, outcome = h.ignoreUntil, HintDelayed
	}
	h.fetchBy(at)
	h.last = hint
	return outcome
}

// TakeHint returns the hint that the next fetch follows, the zero Hint if there is
// none, and forgets it.
func (p *Pace) TakeHint() (hint notify.Hint) {
	hint, p.hints.last, p.hints.due = p.hints.last, notify.Hint{}, time.Time{}
	return hint
}

// HintResult records whether the fetch that followed a hint brought something new.
func (p *Pace) HintResult(now time.Time, hint notify.Hint, founded bool) {
	h := &p.hints
	switch {
	case hint == notify.Hint{}:
		return
	case founded:
		h.ignoreFor.Reset()
		h.ignoreUntil = time.Time{}
		return
	}
	h.unfounded = hint
	h.ignoreUntil = now.Add(min(h.ignoreFor.Next(0), p.interval))
	// A hint that came during the fetch is delayed too. Other reasons to fetch are
	// met by the fetch itself.
	if !h.due.IsZero() && h.due.Before(h.ignoreUntil) {
		h.due = h.ignoreUntil
	}
}
