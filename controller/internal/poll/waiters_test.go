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

// lounge is n who wait for a newer version than they have seen.
type lounge struct {
	*fleettest.Fleet
	*poll.Waiters

	mu   sync.Mutex
	left map[int]time.Time // when each was let go, by who came when
	drop sync.WaitGroup
}

// fill lets n wait, one after the other.
func (l *lounge) fill(ctx context.Context, n int, d time.Duration) {
	l.left = map[int]time.Time{}
	seen := l.Publisher.Plan().Config()
	for i := range n {
		l.drop.Go(func() {
			l.Wait(ctx, d, nil, func() bool { return l.Publisher.Plan().Config() != seen })
			l.mu.Lock()
			defer l.mu.Unlock()
			l.left[i] = time.Now()
		})
		synctest.Wait()
	}
}

// after is how long after began each was let go, shortest first.
func (l *lounge) after(began time.Time) (all []time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range l.left {
		all = append(all, at.Sub(began))
	}
	slices.Sort(all)
	return all
}

// inLounge tells a story of waiters in fake time; stop ends the controller.
func inLounge(t *testing.T, pace int, story func(t *testing.T, l *lounge, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fleettest.Open(t)
		l := &lounge{Fleet: f, Waiters: poll.NewWaiters(f.Publisher.Changed, pace, 2000)}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Errorf("Run: got %v, want nil", err)
			}
		})
		story(t, l, stop)
		stop()
		running.Wait()
		l.drop.Wait()
		if got := l.Waiting(); got != 0 {
			t.Errorf("at the end %d wait, want none", got)
		}
	})
}

func TestWaiters_Publish_ReleasedAtThePace(t *testing.T) {
	const n, pace = 1000, 1000
	inLounge(t, pace, func(t *testing.T, l *lounge, _ func()) {
		fleettest.Publish(t, l.Publisher, fleettest.Draft("http://a/"))
		l.fill(t.Context(), n, time.Hour)
		if got := l.Waiting(); got != n {
			t.Fatalf("%d wait, want %d", got, n)
		}
		began := time.Now()
		fleettest.Publish(t, l.Publisher, fleettest.Draft("http://b/"))
		l.drop.Wait()
		all := l.after(began)
		if first := all[0]; first != 0 {
			t.Errorf("the first was let go after %s, want at once", first)
		}
		if last := all[n-1]; last < 900*time.Millisecond || last > time.Second {
			t.Errorf("the last of %d was let go after %s, want about a second", n, last)
		}
		for at := range 9 { // no tenth of a second has more than its share
			from, to := time.Duration(at)*100*time.Millisecond, time.Duration(at+1)*100*time.Millisecond
			in := 0
			for _, d := range all {
				if from <= d && d < to {
					in++
				}
			}
			if in > pace/10+64 {
				t.Errorf("%d were let go between %s and %s, want %d or so", in, from, to, pace/10)
			}
		}
	})
}

// At a slow pace each waiter has a wake-up of its own, after those released immediately.
func TestWaiters_SlowPace_ReleasedOneByOne(t *testing.T) {
	inLounge(t, 100, func(t *testing.T, l *lounge, _ func()) {
		l.fill(t.Context(), 200, time.Hour)
		began := time.Now()
		fleettest.Publish(t, l.Publisher, fleettest.Draft("http://a/"))
		l.drop.Wait()
		if apart := len(slices.Compact(l.after(began)[64:])); apart != 136 {
			t.Errorf("the last 136 were released at %d different times, want each at its own", apart)
		}
	})
}

// A waiter that joins while others are released does not miss the next version.
func TestWaiters_PublishDuringRelease_NotMissed(t *testing.T) {
	inLounge(t, 100, func(t *testing.T, l *lounge, _ func()) {
		l.fill(t.Context(), 200, time.Hour)
		began := time.Now()
		fleettest.Publish(t, l.Publisher, fleettest.Draft("http://a/"))
		time.Sleep(time.Second / 2)
		seen := l.Publisher.Plan().Config()
		l.drop.Go(func() {
			l.Wait(t.Context(), time.Hour, nil, func() bool { return l.Publisher.Plan().Config() != seen })
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it was released after %s, want when the others were", took)
			}
		})
		synctest.Wait()
		fleettest.Publish(t, l.Publisher, fleettest.Draft("http://b/"))
		l.drop.Wait()
	})
}

// Waits that end by themselves leave nothing behind, however long nothing is published.
func TestWaiters_WaitsEnd_NoCohortsKept(t *testing.T) {
	inLounge(t, 1000, func(t *testing.T, l *lounge, _ func()) {
		for range 5 {
			l.fill(t.Context(), 100, time.Minute)
			l.drop.Wait()
		}
		if got := poll.Cohorts(l.Waiters); got > 1 { // the open one
			t.Errorf("%d cohorts are kept of 500 waits that are over, want the open one", got)
		}
	})
}

func TestWaiters_AtTheLimit_Full(t *testing.T) {
	inLounge(t, 1000, func(t *testing.T, l *lounge, _ func()) {
		ctx, leave := context.WithCancel(t.Context())
		l.fill(ctx, 1999, time.Hour)
		if l.Full() {
			t.Error("1999 of 2000 wait: got full, want room for one")
		}
		l.drop.Go(func() { l.Wait(ctx, time.Hour, nil, func() bool { return false }) })
		synctest.Wait()
		if !l.Full() {
			t.Error("2000 of 2000 wait: got room, want full")
		}
		leave()
	})
}

// Who came first is not always the first.
func TestWaiters_ManyReleases_OrderIsFair(t *testing.T) {
	const n, rounds = 200, 40
	inLounge(t, 1000, func(t *testing.T, l *lounge, _ func()) {
		var place [n]time.Duration
		for i := range rounds {
			l.fill(t.Context(), n, time.Hour)
			began := time.Now()
			fleettest.Publish(t, l.Publisher, fleettest.Draft(fmt.Sprint("http://", i, "/")))
			l.drop.Wait()
			for who, at := range l.left {
				place[who] += at.Sub(began)
			}
		}
		low, high := slices.Min(place[:])/rounds, slices.Max(place[:])/rounds
		if low < 25*time.Millisecond || high > 80*time.Millisecond {
			t.Errorf("on average waiters are let go after %s to %s, want each after about 46 ms", low, high)
		}
	})
}

func TestWaiters_SameWait_EndsAreSpread(t *testing.T) {
	const n = 300
	inLounge(t, 1000, func(t *testing.T, l *lounge, _ func()) {
		began := time.Now()
		l.fill(t.Context(), n, 160*time.Second)
		l.drop.Wait()
		all := l.after(began)
		if all[0] < 160*time.Second || all[n-1] > 170*time.Second || all[n-1]-all[0] < 8*time.Second {
			t.Errorf("waits of 160 s ended after %s to %s, want 160 s to 170 s, and spread", all[0], all[n-1])
		}
	})
}

// The retry or the removal of one agent is news for that agent's polls alone.
func TestWaiters_RetryAndRemoval_WakeOneAgent(t *testing.T) {
	inLounge(t, 1000, func(t *testing.T, l *lounge, _ func()) {
		const n = 10
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		var looks [n + 1]atomic.Int64
		for i, self := range append(l.Join(t, n), nil) { // the last is no agent
			l.drop.Go(func() {
				l.Wait(ctx, time.Hour, self, func() bool { looks[i].Add(1); return self != nil && self.Deregistered() })
			})
		}
		synctest.Wait()
		if err := l.Agents.Retry(t.Context(), "a3", fleettest.ByAdmin); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := l.Agents.Decommission(t.Context(), "a5", fleettest.ByAdmin); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for i := range looks {
			want := int64(1)
			if i == 3 || i == 5 {
				want = 2
			}
			if got := looks[i].Load(); got != want {
				t.Errorf("waiter %d looked %d times, want %d", i, got, want)
			}
		}
		if got := l.Waiting(); got != n {
			t.Errorf("%d wait, want %d: all but the one that was removed", got, n)
		}
	})
}

func TestWaiters_ClientDisconnects_Removed(t *testing.T) {
	inLounge(t, 1000, func(t *testing.T, l *lounge, _ func()) {
		ctx, leave := context.WithCancel(t.Context())
		began := time.Now()
		l.fill(ctx, 100, time.Hour)
		time.Sleep(time.Minute)
		leave()
		l.drop.Wait()
		if all := l.after(began); all[99] != time.Minute || l.Waiting() != 0 {
			t.Errorf("the last left after %s and %d wait, want all gone after a minute", all[99], l.Waiting())
		}
	})
}

// What is published between the look and the wait wakes all the same.
func TestWaiters_PublishBetweenLookAndWait_NotMissed(t *testing.T) {
	inLounge(t, 1000, func(t *testing.T, l *lounge, _ func()) {
		for i := range 50 {
			seen, began, looks := l.Publisher.Plan().Config(), time.Now(), 0
			l.Wait(t.Context(), time.Hour, nil, func() bool {
				newer := l.Publisher.Plan().Config() != seen
				if looks++; looks == 1 {
					fleettest.Publish(t, l.Publisher, fleettest.Draft(fmt.Sprint("http://", i, "/")))
				}
				return newer
			})
			if took := time.Since(began); took != 0 || looks != 2 {
				t.Fatalf(
					"a version published meanwhile was seen after %s and %d looks, want at once with the second", took,
					looks,
				)
			}
		}
	})
}

// A commit that failed and reached the disk all the same is a publish too.
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
			t.Errorf("%d wait, want none: the version is current", waiters.Waiting())
		}
		stop()
		running.Wait()
	})
}

func TestWaiters_Drain_ReleasedOverItsTime(t *testing.T) {
	for name, row := range map[string]struct {
		n           int
		least, most time.Duration
	}{
		"a large fleet": {1600, 6 * time.Second, 8 * time.Second},
		"a small fleet": {164, 900 * time.Millisecond, time.Second},
		"a few":         {3, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inLounge(t, 100_000, func(t *testing.T, l *lounge, stop func()) {
				l.fill(t.Context(), row.n, time.Hour)
				began := time.Now()
				stop()
				l.drop.Wait()
				all := l.after(began)
				if last := all[row.n-1]; last < row.least || last > row.most {
					t.Errorf("the last of %d was let go after %s, want %s to %s", row.n, last, row.least, row.most)
				}
				began = time.Now()
				l.Wait(t.Context(), time.Hour, nil, func() bool { return false })
				if took := time.Since(began); took != 0 {
					t.Errorf("after the end a wait took %s, want none", took)
				}
			})
		})
	}
}
