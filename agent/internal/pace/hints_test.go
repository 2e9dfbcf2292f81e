package pace

import (
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

// The next fetch is only ever brought forward.
func TestFetchBy_Later_ChangesNothing(t *testing.T) {
	var h hints
	for _, row := range [][2]time.Duration{{10, 10}, {20, 10}, {5, 5}} {
		if h.fetchBy(start.Add(row[0])); !h.due.Equal(start.Add(row[1])) {
			t.Errorf("by %d: due in %d, want %d", row[0], h.due.Sub(start), row[1])
		}
	}
}

// A hint after a new version is followed immediately, however many false ones came
// before it.
func TestHintResult_News_EndsIgnoringHints(t *testing.T) {
	p := New(wire.NATS)
	for i := range 20 {
		p.HintResult(start, notify.Hint{Version: int64(100 + i)}, false)
	}
	p.hints.fetchBy(start) // a hint that came during the fetch for a false one
	p.HintResult(start, notify.Hint{Version: 120}, false)
	if !p.hints.due.Equal(p.hints.ignoreUntil) {
		t.Errorf("the next fetch is due at %s, want %s", p.hints.due, p.hints.ignoreUntil)
	}
	if got := p.Hint(start, notify.Hint{Version: 5}); got != HintDelayed {
		t.Errorf("after 20 false hints: got %s, want %s", got, HintDelayed)
	}
	if got := p.Hint(start, notify.Hint{Version: 120}); got != HintIgnored {
		t.Errorf("the last false hint again: got %s, want %s", got, HintIgnored)
	}
	p.HintResult(start, notify.Hint{Version: 4}, true)
	if got := p.Hint(start, notify.Hint{Version: 5}); got != HintFollowed {
		t.Errorf("after a new version: got %s, want %s", got, HintFollowed)
	}
	p.HintResult(start, notify.Hint{Version: 121}, false)
	if wait := p.hints.ignoreUntil.Sub(start); wait > RetryFirst {
		t.Errorf("after the next false hint: hints are ignored for %s, want %s at most", wait, RetryFirst)
	}
}

// A hint that names what the agent has, or an older version, is not followed.
func TestHint_Old_NotFollowed(t *testing.T) {
	two := &protocol.Release{ETag: `"two"`, Config: wire.Config{Version: 2}}
	for hint, want := range map[notify.Hint]Outcome{
		{Version: 1}: HintOld, {Version: 2, ETag: two.ETag}: HintOld, {Version: 2, ETag: "another"}: HintFollowed,
		{Version: 3}: HintFollowed,
	} {
		p := New(wire.NATS)
		if got := p.Hint(start, hint, nil, two); got != want || p.hints.due.IsZero() != (want == HintOld) {
			t.Errorf("%+v: got %s, want %s", hint, got, want)
		}
	}
	p := New(wire.NATS)
	p.HintResult(start, notify.Hint{}, false) // a fetch that followed no hint
	if got := p.Hint(start, notify.Hint{Version: 1}); got != HintFollowed {
		t.Errorf("after a fetch without a hint: got %s, want %s", got, HintFollowed)
	}
}

// A hint brings the next fetch forward, and the fetch forgets it.
func TestTakeHint_Taken_Forgotten(t *testing.T) {
	p := New(wire.Redis)
	rest := Rest{Until: start.Add(time.Hour), OnHint: true}
	hint := notify.Hint{Version: 5}
	p.Hint(start, hint)
	if got := p.RestUntil(rest); !got.Equal(start) {
		t.Errorf("a rest of an hour ends at %s, want immediately", got)
	}
	if got := p.RestUntil(Rest{Until: rest.Until}); !got.Equal(rest.Until) {
		t.Errorf("a rest that ignores hints ends at %s, want %s", got, rest.Until)
	}
	if got := p.TakeHint(); got != hint {
		t.Errorf("got %+v, want %+v", got, hint)
	}
	if got := p.TakeHint(); got != (notify.Hint{}) || !p.RestUntil(rest).Equal(rest.Until) {
		t.Errorf("got %+v until %s, want no hint any more", got, p.RestUntil(rest))
	}
}
