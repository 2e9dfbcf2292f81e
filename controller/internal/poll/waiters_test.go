package poll_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/poll"
)

// waiterTest is a fleet with waiters. Each waits until another version is the newest.
type waiterTest struct {
	*fleettest.Fleet
	*poll.Waiters

	mu       sync.Mutex
	released map[int]time.Time // when each waiter returned, by its number
	group    sync.WaitGroup
}

// start starts n waiters, one after another, each for up to d.
func (w *waiterTest) start(ctx context.Context, n int, d time.Duration) {
	w.released = map[int]time.Time{}
	seen := w.Publisher.Plan().Config()
	for i := range n {
		w.group.Go(func() {
			w.Wait(ctx, d, nil, func() bool { return w.Publisher.Plan().Config() != seen })
			w.mu.Lock()
			defer w.mu.Unlock()
			w.released[i] = time.Now()
		})
		synctest.Wait()
	}
}

// delays returns the time from began to the release of each waiter, in ascending order.
func (w *waiterTest) delays(began time.Time) (all []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.released {
		all = append(all, at.Sub(began))
	}
	slices.Sort(all)
	return all
}

// testWaiters calls test in fake time, with waiters that are released at a pace. stop stops
// the controller.
func testWaiters(t *testing.T, pace int, test func(t *testing.T, w *waiterTest, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fleettest.Open(t)
		w := &waiterTest{Fleet: f, Waiters: poll.NewWaiters(f.Publisher.Changed, pace, 2000)}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := w.Run(ctx); err != nil {
				t.Errorf("Run: got %v, want nil", err)
			}
		})
		test(t, w, stop)
		stop()
		running.Wait()
		w.group.Wait()
		if got := w.Waiting(); got != 0 {
			t.Errorf("at the end: got %d waiters, want none", got)
		}
	})
}

func TestWaiters_Publish_ReleasedAtThePace(t *testing.T) {
	const n, pace = 1000, 1000
	testWaiters(t, pace, func(t *testing.T, w *waiterTest, _ func()) {
		fleettest.Publish(t, w.Publisher, fleettest.Draft("http://a/"))
		w.start(t.Context(), n, time.Hour)
		if got := w.Waiting(); got != n {
			t.Fatalf("got %d waiters, want %d", got, n)
		}
		began := time.Now()
		fleettest.Publish(t, w.Publisher, fleettest.Draft("http://b/"))
		w.group.Wait()
		all := w.delays(began)
		if first := all[0]; first != 0 {
			t.Errorf("the first was released after %s, want immediately", first)
		}
		if last := all[n-1]; last < 900*time.Millisecond || last > time.Second {
			t.Errorf("the last of %d was released after %s, want about a second", n, last)
		}
		for at := range 9 { // no tenth of a second may have much more than a tenth
			from, to := time.Duration(at)*100*time.Millisecond, time.Duration(at+1)*100*time.Millisecond
			in := 0
			for _, d := range all {
				if from <= d && d < to {
					in++
				}
			}
			if in > pace/10+64 {
				t.Errorf("%d were released between %s and %s, want about %d", in, from, to, pace/10)
			}
		}
	})
}

// At a slow pace each waiter is woken separately, after a first burst.
func TestWaiters_SlowPace_ReleasedOneByOne(t *testing.T) {
	testWaiters(t, 100, func(t *testing.T, w *waiterTest, _ func()) {
		w.start(t.Context(), 200, time.Hour)
		began := time.Now()
		fleettest.Publish(t, w.Publisher, fleettest.Draft("http://a/"))
		w.group.Wait()
		if apart := len(slices.Compact(w.delays(began)[64:])); apart != 136 {
			t.Errorf("the last 136 were released at %d different times, want 136", apart)
		}
	})
}

// A waiter that joins while others are released does not miss the next version.
func TestWaiters_PublishDuringRelease_NotMissed(t *testing.T) {
	testWaiters(t, 100, func(t *testing.T, w *waiterTest, _ func()) {
		w.start(t.Context(), 200, time.Hour)
		began := time.Now()
		fleettest.Publish(t, w.Publisher, fleettest.Draft("http://a/"))
		time.Sleep(time.Second / 2)
		seen := w.Publisher.Plan().Config()
		w.group.Go(func() {
			w.Wait(t.Context(), time.Hour, nil, func() bool { return w.Publisher.Plan().Config() != seen })
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("released after %s, want together with the others", took)
			}
		})
		synctest.Wait()
		fleettest.Publish(t, w.Publisher, fleettest.Draft("http://b/"))
		w.group.Wait()
	})
}

// Waits that time out free their cohorts, even if nothing is ever published.
func TestWaiters_WaitsTimeOut_NoCohortsKept(t *testing.T) {
	testWaiters(t, 1000, func(t *testing.T, w *waiterTest, _ func()) {
		for range 5 {
			w.start(t.Context(), 100, time.Minute)
			w.group.Wait()
		}
		if got := poll.Cohorts(w.Waiters); got > 1 { // the open one
			t.Errorf("after 500 waits: got %d cohorts, want the open one", got)
		}
	})
}

func TestWaiters_AtTheLimit_Full(t *testing.T) {
	testWaiters(t, 1000, func(t *testing.T, w *waiterTest, _ func()) {
		ctx, disconnect := context.WithCancel(t.Context())
		w.start(ctx, 1999, time.Hour)
		if w.Full() {
			t.Error("with 1999 of 2000 waiters: got full, want room for one")
		}
		w.group.Go(func() { w.Wait(ctx, time.Hour, nil, func() bool { return false }) })
		synctest.Wait()
		if !w.Full() {
			t.Error("with 2000 of 2000 waiters: got room, want full")
		}
		disconnect()
	})
}

// The order of the release does not depend on the order of the waiters.
func TestWaiters_ManyReleases_OrderIsFair(t *testing.T) {
	const n, rounds = 200, 40
	testWaiters(t, 1000, func(t *testing.T, w *waiterTest, _ func()) {
		var delay [n]time.Duration
		for round := range rounds {
			w.start(t.Context(), n, time.Hour)
			began := time.Now()
			fleettest.Publish(t, w.Publisher, fleettest.Draft(fmt.Sprint("http://", round, "/")))
			w.group.Wait()
			for i, at := range w.released {
				delay[i] += at.Sub(began)
			}
		}
		low, high := slices.Min(delay[:])/rounds, slices.Max(delay[:])/rounds
		if low < 25*time.Millisecond || high > 80*time.Millisecond {
			t.Errorf("got average delays of %s to %s, want about 46 ms for each waiter", low, high)
		}
	})
}

func TestWaiters_SameWait_EndsAreSpread(t *testing.T) {
	const n = 300
	testWaiters(t, 1000, func(t *testing.T, w *waiterTest, _ func()) {
		began := time.Now()
		w.start(t.Context(), n, 160*time.Second)
		w.group.Wait()
		all := w.delays(began)
		if all[0] < 160*time.Second || all[n-1] > 170*time.Second || all[n-1]-all[0] < 8*time.Second {
			t.Errorf("waits of 160 s ended after %s to %s, want 160 s to 170 s, and spread", all[0], all[n-1])
		}
	})
}

// A retry or removal of an agent wakes only that agent's polls.
func TestWaiters_RetryAndRemoval_WakeOneAgent(t *testing.T) {
	testWaiters(t, 1000, func(t *testing.T, w *waiterTest, _ func()) {
		const n = 10
		ctx, disconnect := context.WithCancel(t.Context())
		defer disconnect()
		var checks [n + 1]atomic.Int64
		for i, self := range append(w.Join(t, n), nil) { // the last is no agent
			w.group.Go(func() {
				w.Wait(ctx, time.Hour, self, func() bool {
					checks[i].Add(1)
					return self != nil && self.Deregistered()
				})
			})
		}
		synctest.Wait()
		if err := w.Agents.Retry(t.Context(), "a3", fleettest.ByAdmin); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := w.Agents.Decommission(t.Context(), "a5", fleettest.ByAdmin); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for i := range checks {
			want := int64(1)
			if i == 3 || i == 5 {
				want = 2
			}
			if got := checks[i].Load(); got != want {
				t.Errorf("waiter %d: got %d checks, want %d", i, got, want)
			}
		}
		if got := w.Waiting(); got != n {
			t.Errorf("got %d waiters, want %d: all but the removed agent", got, n)
		}
	})
}

func TestWaiters_ClientDisconnects_Removed(t *testing.T) {
	testWaiters(t, 1000, func(t *testing.T, w *waiterTest, _ func()) {
		ctx, disconnect := context.WithCancel(t.Context())
		began := time.Now()
		w.start(ctx, 100, time.Hour)
		time.Sleep(time.Minute)
		disconnect()
		w.group.Wait()
		if all := w.delays(began); all[99] != time.Minute || w.Waiting() != 0 {
			t.Errorf("the last returned after %s, %d still wait, want all after a minute", all[99], w.Waiting())
		}
	})
}

// A publish between the check and the wait wakes the waiter.
func TestWaiters_PublishBetweenCheckAndWait_NotMissed(t *testing.T) {
	testWaiters(t, 1000, func(t *testing.T, w *waiterTest, _ func()) {
		for i := range 50 {
			seen, began, checks := w.Publisher.Plan().Config(), time.Now(), 0
			w.Wait(t.Context(), time.Hour, nil, func() bool {
				newer := w.Publisher.Plan().Config() != seen
				if checks++; checks == 1 {
					fleettest.Publish(t, w.Publisher, fleettest.Draft(fmt.Sprint("http://", i, "/")))
				}
				return newer
			})
			if took := time.Since(began); took != 0 || checks != 2 {
				t.Fatalf("the version was seen after %s and %d checks, want immediately, by the second", took, checks)
			}
		}
	})
}

// A commit that reports an error but reached the disk releases the waiters too.
func TestWaiters_CommitInDoubt_Released(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fleettest.Lossy{DB: fleettest.NewStore(t), Stores: true}
		publisher := fleettest.OpenPublisher(t, store, models.Tags{Epoch: "epoch"})
		waiters := poll.NewWaiters(publisher.Changed, 1000, 10)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = waiters.Run(ctx) })
		began := time.Now()
		running.Go(func() {
			waiters.Wait(ctx, time.Hour, nil, func() bool { return publisher.Plan().Config() != nil })
		})
		synctest.Wait()
		store.Fails.Store(true)
		if _, err := publisher.Publish(t.Context(), fleettest.Draft("http://a/")); !errors.Is(err, fleettest.ErrDisk) {
			t.Errorf("got %v, want the error of the disk", err)
		}
		synctest.Wait()
		if waiters.Waiting() != 0 || time.Since(began) != 0 {
			t.Errorf("got %d waiters, want none: the version is current", waiters.Waiting())
		}
		stop()
		running.Wait()
	})
}

func TestWaiters_ControllerStops_ReleasedOverDrainTime(t *testing.T) {
	for name, row := range map[string]struct {
		n           int
		least, most time.Duration
	}{
		"a large fleet": {1600, 6 * time.Second, 8 * time.Second},
		"a small fleet": {164, 900 * time.Millisecond, time.Second},
		"a few":         {3, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			testWaiters(t, 100_000, func(t *testing.T, w *waiterTest, stop func()) {
				w.start(t.Context(), row.n, time.Hour)
				began := time.Now()
				stop()
				w.group.Wait()
				all := w.delays(began)
				if last := all[row.n-1]; last < row.least || last > row.most {
					t.Errorf("the last of %d was released after %s, want %s to %s", row.n, last, row.least, row.most)
				}
				began = time.Now()
				w.Wait(t.Context(), time.Hour, nil, func() bool { return false })
				if took := time.Since(began); took != 0 {
					t.Errorf("a wait after the stop took %s, want it to return immediately", took)
				}
			})
		})
	}
}
