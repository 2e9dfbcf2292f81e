package poller

import (
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const (
	firstWait = 55 * time.Second // comes through what cuts after a minute
	maxWait   = wire.MaxWait
	minWait   = 5 * time.Second // below it, to wait is no better than to poll
	// cutShare is the part of what was cut that is asked for next, in percent: the
	// controller may hold an answer for a sixteenth longer than it was asked to.
	cutShare = 75
	// growAgain is how long after a cut a longer wait is tried again, and
	// waitAgain any wait at all, where not even minWait came through.
	growAgain = 6 * time.Hour
	waitAgain = 10 * time.Minute
)

// waits decides for how long the controller is asked to hold its answer: longer
// and longer while answers come, for each costs something; and less than what
// something in between has cut.
type waits struct {
	next  time.Duration // what to ask for; 0 for nothing
	again time.Time     // not before is more asked for than next
	cuts  int           // in a row, with no wait between that came through
}

func newWaits() waits { return waits{next: firstWait} }

// wait is what to ask for now; 0 is not to wait.
func (w *waits) wait() time.Duration {
	if w.next == 0 && !time.Now().Before(w.again) {
		w.next = minWait
	}
	return w.next
}

// through notes that an answer came when its wait was over.
func (w *waits) through() {
	w.cuts = 0
	if !time.Now().Before(w.again) {
		w.next = min(2*w.next, maxWait)
	}
}

// cut notes that a wait was cut after a while. A connection that broke says little
// at first: the controller may have been restarted just then. Unless it is certain
// that something in between has no patience, it takes a second time; and a third
// to give up waiting.
func (w *waits) cut(after time.Duration, certain bool) {
	w.cuts++
	switch shorter := after * cutShare / 100; {
	case shorter < minWait && w.cuts > 2:
		w.next, w.again = 0, time.Now().Add(waitAgain)
	case shorter >= minWait && (certain || w.cuts > 1):
		w.next, w.again = min(w.next, shorter), time.Now().Add(growAgain)
	}
}
