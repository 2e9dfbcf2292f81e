package pace

import (
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const (
	firstWait = 55 * time.Second // survives proxies that cut after a minute
	maxWait   = wire.MaxWait
	minWait   = 5 * time.Second // a shorter long poll is no better than polling
	// cutShare is the part, in percent, of the time after which a long poll was cut
	// that the next one asks for. The controller may take a sixteenth longer than
	// it was asked to.
	cutShare = 75
	// growAgain is the time after a cut until a longer wait is tried again, and
	// waitAgain the time until any is, if not even minWait came through.
	growAgain = time.Hour
	waitAgain = 10 * time.Minute
)

// waits decides how long the controller is asked to delay its answer. The wait
// doubles while answers arrive in time, and falls below the time after which a proxy
// cuts connections.
type waits struct {
	next      time.Duration // to ask for; 0: do not wait
	completed time.Duration // the last wait that was not cut; 0: none yet
	again     time.Time     // no longer wait than next before this
	cuts      int           // since the last completed wait
}

func newWaits() waits { return waits{next: firstWait} }

// wait returns the wait to ask for now; 0 means none.
func (w *waits) wait(now time.Time) time.Duration {
	if w.next == 0 && !now.Before(w.again) {
		w.next = minWait
	}
	return w.next
}

// complete records that the answer arrived when its wait was over.
func (w *waits) complete(now time.Time, wait time.Duration) {
	w.cuts, w.completed = 0, wait
	if !now.Before(w.again) {
		w.next = min(2*w.next, maxWait)
	}
}

// cut records that a wait ended without an answer. certain says that a proxy has
// ended it. Otherwise the controller may just have restarted, so that the first broken
// connection changes nothing, the second halves the wait at most, and only the third
// may end waiting. A wait that ends by its timeout, without any sign, was dropped by
// something that forgets idle connections: then the last completed wait is used.
func (w *waits) cut(now time.Time, after time.Duration, certain bool) {
	w.cuts++
	shorter := after * cutShare / 100
	switch silent := after > w.next; {
	case silent && w.completed > 0 && w.completed < w.next:
		shorter = w.completed
	case silent:
		shorter = w.next / 2
	case !certain && w.cuts == 1:
		return
	case !certain && w.cuts == 2 && shorter >= minWait:
		shorter = max(shorter, firstWait/2)
	}
	switch {
	case shorter >= minWait:
		w.next, w.again = min(w.next, shorter), now.Add(growAgain)
	case w.cuts > 2:
		w.next, w.again = 0, now.Add(waitAgain)
	}
}
