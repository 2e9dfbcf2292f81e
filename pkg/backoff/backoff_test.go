package backoff

import (
	"testing"
	"time"
)

func TestNext_Failures_DoubleUpToTheLimit(t *testing.T) {
	const first, limit, rounds = time.Second, 5 * time.Minute, 4000
	sums := make([]time.Duration, 12)
	for range rounds {
		b := New(first, limit)
		for i := range sums {
			most := min(first<<i, limit)
			wait := b.Next(0)
			if wait < 0 || wait > most {
				t.Fatalf("wait %d is %s, want 0 to %s", i, wait, most)
			}
			sums[i] += wait
		}
	}
	for i, sum := range sums {
		mean, want := sum/rounds, min(first<<i, limit)/2
		if mean < want*9/10 || mean > want*11/10 {
			t.Errorf("wait %d is %s on average, want %s: half of what the growth has reached", i, mean, want)
		}
	}
}

func TestNext_ManyFailures_StaysWithinLimit(t *testing.T) {
	b := New(time.Second, 5*time.Minute)
	for i := range 100_000 { // most of a year
		if wait := b.Next(0); wait < 0 || wait > 5*time.Minute {
			t.Fatalf("wait %d is %s", i, wait)
		}
	}
}

func TestNext_Floor_KeptAndJittered(t *testing.T) {
	const floor = time.Minute
	low, high := time.Hour, time.Duration(0)
	for range 1000 {
		wait := New(time.Second, 5*time.Minute).Next(floor)
		low, high = min(low, wait), max(high, wait)
	}
	if low < floor {
		t.Errorf("waited %s, was asked to wait %s", low, floor)
	}
	if high < floor+4*time.Second || high > floor+7*time.Second {
		t.Errorf("waited up to %s, want %s spread by a tenth and a first wait", high, floor)
	}
}

func TestReset_AfterFailures_StartsAtFirst(t *testing.T) {
	b := New(time.Second, 5*time.Minute)
	for range 20 {
		b.Next(0)
	}
	b.Reset()
	for i := range 3 {
		if wait, most := b.Next(0), time.Second<<i; wait > most {
			t.Errorf("wait %d after Reset is %s, want at most %s", i, wait, most)
		}
	}
}

// Full jitter: each tenth of the range holds about a tenth of the waits, so that a
// fleet which lost its controller in one instant comes back spread evenly. A
// constant, or jitter around the mean, has the same mean and bounds.
func TestNext_EachFailureCount_IsUniform(t *testing.T) {
	const first, limit, rounds = time.Second, 5 * time.Minute, 4000
	for name, row := range map[string]struct{ failures int }{"first wait": {1}, "growing": {5}, "at the limit": {14}} {
		t.Run(name, func(t *testing.T) {
			most := min(first<<(row.failures-1), limit)
			var tenths [10]int
			for range rounds {
				b := New(first, limit)
				for range row.failures - 1 {
					b.Next(0)
				}
				tenths[min(int(10*b.Next(0)/most), 9)]++
			}
			// 400 each, with a standard deviation of 19.
			for i, n := range tenths {
				if n < 280 || n > 520 {
					t.Errorf("%d of %d waits are in tenth %d of 0 to %s: %v", n, rounds, i, most, tenths)
				}
			}
		})
	}
}
