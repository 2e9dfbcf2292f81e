package limit_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleetconf/fleetconf/pkg/limit"
)

// enter tries n short requests, and returns how many were admitted.
func enter(c *limit.Class, n int) (in int) {
	for range n {
		if c.Enter() {
			c.Leave()
			in++
		}
	}
	return in
}

func TestClass_Enter_LimitsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := limit.New(10, 10)
		for _, row := range []struct {
			after time.Duration
			want  int
		}{{0, 10}, {0, 0}, {100 * time.Millisecond, 1}, {time.Second / 2, 5}, {time.Hour, 10}} {
			time.Sleep(row.after)
			if got := enter(c, 20); got != row.want {
				t.Errorf("%s later: let in %d, want %d", row.after, got, row.want)
			}
		}
		if got := c.InFlight(); got != 0 {
			t.Errorf("after all that %d are in flight, want none", got)
		}
	})
}

func TestClass_Enter_LimitsConcurrency(t *testing.T) {
	c := limit.New(1_000_000, 3)
	for range 3 {
		if !c.Enter() {
			t.Fatal("a request was rejected although there is a free slot")
		}
	}
	if c.Enter() || c.InFlight() != 3 {
		t.Errorf("a fourth request was admitted or counted: %d in flight", c.InFlight())
	}
	c.Leave()
	if !c.Enter() {
		t.Error("a request was rejected although a slot was released")
	}
}

// A request that finds no slot takes no token.
func TestClass_Enter_FullTakesNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := limit.New(10, 1)
		c.Enter()
		enter(c, 1000)
		c.Leave()
		if got := enter(c, 20); got != 9 {
			t.Errorf("let in %d after one left, want the other 9 of the burst", got)
		}
	})
}

func TestClass_Return_FullClass(t *testing.T) {
	c := limit.New(1000, 1)
	c.Enter()
	c.Leave() // to wait
	if !c.Enter() {
		t.Fatal("a request that waits holds a slot")
	}
	c.Return()
	if got := c.InFlight(); got != 2 || c.Enter() {
		t.Errorf("%d in flight, want 2 and no more let in", got)
	}
}

func TestClass_Enter_Concurrent(t *testing.T) {
	c := limit.New(1_000_000, 50)
	var group sync.WaitGroup
	var in atomic.Int64
	for range 1000 {
		group.Go(func() {
			if c.Enter() {
				in.Add(1)
			} else {
				c.Reject()
			}
		})
	}
	group.Wait()
	if in.Load() > 50 || c.InFlight() != in.Load() || in.Load()+c.Rejected() != 1000 {
		t.Errorf("let in %d, %d in flight, turned %d away", in.Load(), c.InFlight(), c.Rejected())
	}
}

// Requests that are rejected together retry at random times, within the time that it takes to serve them.
func TestClass_Reject_SpreadsRetries(t *testing.T) {
	for name, row := range map[string]struct {
		rate, callers int
		window        time.Duration // what is drawn from: 1 s to that
	}{
		"a few":                     {100, 40, 2 * time.Second},
		"ten times the rate":        {100, 1000, 11 * time.Second},
		"more than can be spread":   {100, 20_000, limit.MaxRetryAfter},
		"one a second, as many":     {1, 59, limit.MaxRetryAfter},
		"thousands at a high limit": {1_000_000, 5000, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := limit.New(row.rate, 1)
				for range row.callers - 1 {
					c.Reject()
				}
				if got := c.Rejected(); got != int64(row.callers-1) {
					t.Fatalf("counted %d, want %d", got, row.callers-1)
				}
				// Draw from the window without extending it.
				seen := map[time.Duration]int{}
				for range 4000 {
					seen[c.Reject()]++
					time.Sleep(time.Second / time.Duration(row.rate))
				}
				seconds := int(row.window / time.Second)
				for d, times := range seen {
					if d < time.Second || d > row.window || d%time.Second != 0 {
						t.Errorf("drew %s, want whole seconds, 1s to %s", d, row.window)
					}
					if fair := 4000 / seconds; times < fair/3 || times > fair*3 {
						t.Errorf("drew %s %d times of 4000, want about %d", d, times, fair)
					}
				}
				if len(seen) != seconds {
					t.Errorf("drew %d values, want each of %d", len(seen), seconds)
				}
			})
		})
	}
}

func TestClass_Reject_WindowShrinksWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := limit.New(100, 1)
		for range 100_000 {
			c.Reject()
		}
		time.Sleep(limit.MaxRetryAfter)
		for range 50 {
			if got := c.Reject(); got > 2*time.Second {
				t.Fatalf("a minute after the storm: got %s, want 2s at most", got)
			}
		}
	})
}
