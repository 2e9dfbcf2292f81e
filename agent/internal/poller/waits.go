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
	// waitAgain any wait at all, where less than minWait came through maxShort
	// times in a row.
	growAgain = 6 * time.Hour
	waitAgain = 10 * time.Minute
	maxShort  = 3
)

// waits decides for how long the controller is asked to hold its answer: longer
// and longer while answers come, for each costs something; and less than what
// something in between has cut.
type waits struct {
	next  time.Duration // what to ask for; 0 for nothing
	again time.Time     // not before is more asked for than next
	short int           // waits in a row that were cut before minWait
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
	w.short = 0
	if !time.Now().Before(w.again) {
		w.next = min(2*w.next, maxWait)
	}
}

// cut notes that a wait was cut after a while. Once, soon after it began, says
// little: the controller may have been restarted just then.
func (w *waits) cut(after time.Duration) {
	shorter := after * cutShare / 100
	if shorter >= minWait {
		w.short, w.next, w.again = 0, min(w.next, shorter), time.Now().Add(growAgain)
	} else if w.short++; w.short >= maxShort {
		w.next, w.again = 0, time.Now().Add(waitAgain)
	}
}
