package poller

import (
	"fmt"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// steady is how long a worker has been away, or back, before the controller is
// told: a restart takes less.
const steady = 5 * time.Second

// health is whether the controller is to be told that the worker cannot be
// reached, or fed. Poller.mu guards it.
type health struct {
	degraded string    // what polls say; "" while all is well
	since    time.Time // when what is seen began to differ from that; zero: it does not
	// interrupt ends the wait that is held by the controller now; nil: there is none.
	interrupt func()
}

// assess compares what is seen of the worker with what the controller was told. A
// change that has lasted for a while is reported before the next poll is due.
func (r *reconciler) assess() {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, seen := &r.health, string(r.workerTrouble)
	switch {
	case seen != "" || r.inSync:
	case r.balked != nil:
		seen = r.refusal.String()
	case r.held != nil:
		seen = fmt.Sprintf("the worker accepted version %d and does not run it", r.held.Config.Version)
	}
	switch {
	case (seen == "") == (h.degraded == ""):
		h.degraded, h.since = seen, time.Time{} // another reason goes along with the next poll
	case h.since.IsZero():
		h.since = time.Now()
	case time.Since(h.since) >= steady:
		h.degraded, h.since = seen, time.Time{}
		r.pollSoon()
	}
}

// pollSoon brings the next poll forward to within half an interval, in which all
// workers of a fleet may fail at once. The caller holds mu.
func (p *Poller) pollSoon() {
	wait := part(min(p.interval, comeBack) / 2)
	if p.Transport != wire.LongPoll {
		p.hearing.by(time.Now().Add(wait))
		wake(p.nudged)
		return
	}
	time.AfterFunc(wait, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.health.interrupt != nil {
			p.health.interrupt()
		}
	})
}
