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
	growAgain = time.Hour
	waitAgain = 10 * time.Minute
)

// waits decides for how long the controller is asked to hold its answer: longer
// and longer while answers come, for each costs something; and less than what
// something in between has cut.
type waits struct {
	next      time.Duration // what to ask for; 0 for nothing
	completed time.Duration // what came through last; 0 for nothing yet
	again     time.Time     // not before is more asked for than next
	cuts      int           // in a row, with no wait between that came through
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
func (w *waits) through(wait time.Duration) {
	w.cuts, w.completed = 0, wait
	if !time.Now().Before(w.again) {
		w.next = min(2*w.next, maxWait)
	}
}

// cut notes that a wait was cut after a while. A connection that broke says little
// at first: the controller may have been restarted just then. Unless it is certain
// that something in between has no patience, it takes a second time; and a third
// to ask for much less, or to give up waiting. No answer at all, not even an end,
// comes of what forgets connections that are idle: then what came through before
// is what there is.
func (w *waits) cut(after time.Duration, certain bool) {
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
		w.next, w.again = min(w.next, shorter), time.Now().Add(growAgain)
	case w.cuts > 2:
		w.next, w.again = 0, time.Now().Add(waitAgain)
	}
}
