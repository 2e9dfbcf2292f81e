package access_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/access"
)

func TestCaller_HeldPoll_ReleasesSlot(t *testing.T) {
	got := access.InFlightWhileHeld()
	if diff := cmp.Diff([]int64{1, 0, 1, 0}, got); diff != "" {
		t.Errorf("in flight before, during and after the hold, and after the release, -want +got:\n%s", diff)
	}
	if got := access.InFlightAfterAbandonedHold(); got != 0 {
		t.Errorf("%d in flight after the release of a held request, want 0", got)
	}
}
