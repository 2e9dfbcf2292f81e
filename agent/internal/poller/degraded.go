package poller

import (
	"fmt"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// healthDelay is how long a worker has been away, or back, before the controller is
// told: a restart takes less.
const healthDelay = 5 * time.Second

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
	h, seen := &r.health, string(r.workerErr)
	switch {
	case seen != "" || r.inSync:
	case r.refusedLastGood != nil:
		seen = r.refusal.String()
	case r.lastPushed != nil:
		seen = fmt.Sprintf("the worker accepted version %d and does not run it", r.lastPushed.Config.Version)
	}
	switch {
	case (seen == "") == (h.degraded == ""):
		h.degraded, h.since = seen, time.Time{} // another reason goes along with the next poll
	case h.since.IsZero():
		h.since = time.Now()
	case time.Since(h.since) >= healthDelay:
		h.degraded, h.since = seen, time.Time{}
		r.pollSoon()
	}
}

// pollSoon brings the next poll forward to within half an interval, in which all
// workers of a fleet may fail at once. The caller holds mu.
func (p *Poller) pollSoon() {
	wait := jitter(min(p.interval, rejoinSpread) / 2)
	if p.Transport != wire.LongPoll {
		p.push.pollBy(time.Now().Add(wait))
		wake(p.pollSooner)
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
