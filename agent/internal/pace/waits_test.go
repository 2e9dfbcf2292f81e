package pace

import (
	"testing"
	"time"
)

// Once nothing cuts any more, waits grow again.
func TestWaits_AfterCut_GrowAgain(t *testing.T) {
	now, w := start, newWaits()
	w.cut(now, 50*time.Second, false)
	if got := w.wait(now); got != firstWait {
		t.Errorf("after a connection that broke: %s, want what it was", got)
	}
	w.cut(now, 50*time.Second, false)
	if got := w.wait(now); got != 37500*time.Millisecond {
		t.Errorf("after a cut at 50 s: %s, want three quarters", got)
	}
	for range 10 {
		now = now.Add(w.wait(now))
		w.complete(now, w.next)
	}
	if got := w.wait(now); got != 37500*time.Millisecond {
		t.Errorf("soon after the cut: %s, want no more than before", got)
	}
	now = now.Add(growAgain)
	for range 10 {
		w.complete(now, w.next)
	}
	if got := w.wait(now); got != maxWait {
		t.Errorf("long after the cut: %s, want %s", got, maxWait)
	}
	w.cut(now, 2*time.Second, true)
	w.cut(now, 2*time.Second, false)
	if got := w.wait(now); got != maxWait {
		t.Errorf("after two cuts at 2 s: %s, want what it was", got)
	}
	w.cut(now, 2*time.Second, false)
	if got := w.wait(now); got != 0 {
		t.Errorf("after three cuts at 2 s: %s, want no wait", got)
	}
	now = now.Add(waitAgain)
	if got := w.wait(now); got != minWait {
		t.Errorf("some time after that: %s, want %s", got, minWait)
	}
}

// A connection that breaks shortens the wait step by step, and never lengthens it.
func TestWaits_BrokenConnections_ShortenTheWait(t *testing.T) {
	w := newWaits()
	for i, want := range []time.Duration{firstWait, firstWait / 2, 7500 * time.Millisecond} {
		if w.cut(start, 10*time.Second, false); w.next != want {
			t.Errorf("after %d cuts at 10 s: got %s, want %s", i+1, w.next, want)
		}
	}
	w.complete(start, w.next)
	w.cut(start, 7*time.Second, false)
	if w.cut(start, 7*time.Second, false); w.next != 7500*time.Millisecond {
		t.Errorf("after two more at 7 s: got %s, want what it was", w.next)
	}
}

// Something that forgets idle connections without resetting them is found after one
// timeout, not waited for again and again.
func TestWaits_IdleTimeoutWithoutReset(t *testing.T) {
	w := newWaits()
	for range 3 {
		w.complete(start, w.next)
	}
	for w.next > 220*time.Second {
		w.cut(start, w.next*17/16+10*time.Second, false)
	}
	if w.next != 220*time.Second || w.cuts != 1 {
		t.Errorf("after %d cuts: %s, want the last completed wait, after one", w.cuts, w.next)
	}
}
