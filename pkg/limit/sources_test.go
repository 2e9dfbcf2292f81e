package limit_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleetconf/fleetconf/pkg/limit"
)

func TestSource_PrefixLengths(t *testing.T) {
	for addr, want := range map[string]string{
		"198.51.100.7": "198.51.100.0/24", "::ffff:198.51.100.7": "198.51.100.0/24",
		"2001:db8:1:2::3": "2001:db8:1::/48", "::1": "::/48",
	} {
		if got := limit.Source(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
	if got := limit.Source(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("an unknown address: got %s, want the zero prefix", got)
	}
}

func TestTable_Take(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, bucket := limit.NewTable(), limit.Bucket{Burst: 20, Each: 3 * time.Second}
		source := netip.MustParsePrefix("198.51.100.0/24")
		key := table.Key("admin", source)
		for _, row := range []struct {
			after time.Duration
			want  int // tokens there are
		}{{0, 20}, {0, 0}, {3 * time.Second, 1}, {7 * time.Second, 2}, {time.Hour, 20}} {
			time.Sleep(row.after)
			for i := range row.want {
				if table.Wait(key, bucket) != 0 || table.Take(key, bucket) != 0 {
					t.Errorf("%s later: token %d of %d is not there", row.after, i, row.want)
				}
			}
			if wait := table.Take(key, bucket); wait <= 0 || wait > bucket.Each || table.Wait(key, bucket) != wait {
				t.Errorf("%s later: without a token got %s to wait, want up to %s", row.after, wait, bucket.Each)
			}
			for _, other := range []uint64{table.Key("agent", source),
				table.Key("admin", netip.MustParsePrefix("198.51.101.0/24"))} {
				if table.Wait(other, bucket) != 0 {
					t.Errorf("%s later: another bucket is empty too", row.after)
				}
			}
		}
	})
}

// Whatever else is counted, no bucket has more tokens for it, and few have less.
func TestTable_ManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, bucket := limit.NewTable(), limit.Bucket{Burst: 20, Each: 3 * time.Second}
		source := netip.MustParsePrefix("198.51.100.0/24")
		key := table.Key("admin", source)
		for range 20 {
			table.Take(key, bucket)
		}
		for i := range 20_000 {
			table.Take(table.Key(fmt.Sprint(i%1000), source), bucket)
		}
		if table.Wait(key, bucket) == 0 {
			t.Error("a bucket was filled by what was taken from others")
		}
		empty := 0
		for i := range 1000 {
			if table.Wait(table.Key(fmt.Sprint("other", i), source), bucket) > 0 {
				empty++
			}
		}
		if empty > 10 { // (1000/8192)⁴ of them: none
			t.Errorf("%d of 1000 other buckets are empty, want them full", empty)
		}
	})
}

// A key that shares a cell with another gives it no token back.
func TestTable_SharedCell_GivesNoTokenBack(t *testing.T) {
	table, bucket := limit.NewTable(), limit.Bucket{Burst: 2, Each: time.Hour}
	const key, other = 0, 1 << 13 // they differ in one of the four cells
	for range 2 {
		table.Take(key, bucket)
	}
	if table.Take(other, bucket) != 0 {
		t.Error("the other bucket is empty too")
	}
	if table.Wait(key, bucket) == 0 {
		t.Error("a token is back that was taken")
	}
}

func TestBucket_Take(t *testing.T) {
	bucket := limit.Bucket{Burst: 2, Each: time.Second}
	var full time.Duration
	for i, row := range []struct{ now, want time.Duration }{
		{0, 0}, {0, 0}, {0, time.Second}, {0, time.Second}, {time.Second, 0}, {time.Second, time.Second},
		{time.Hour, 0}, {time.Hour, 0}, {time.Hour, time.Second},
	} {
		if got := bucket.Take(&full, row.now); got != row.want {
			t.Errorf("take %d, at %s: got %s to wait, want %s", i, row.now, got, row.want)
		}
	}
}

func TestGuesses(t *testing.T) {
	source := netip.MustParsePrefix("198.51.100.0/24")
	for name, test := range map[string]func(*testing.T, *limit.Guesses){
		"the right password costs nothing": func(t *testing.T, g *limit.Guesses) {
			for i := range 5000 {
				if g.Right("admin", source) != 0 {
					t.Fatalf("rejected the time %d", i)
				}
			}
		},
		"over the limit the right one is rejected too, and makes no difference": func(t *testing.T, g *limit.Guesses) {
			wrong(t, g, source, 20)
			for range 2 {
				if g.Right("admin", source) == 0 {
					t.Error("the right password was accepted")
				}
			}
			if g.Wrong("admin", source) == 0 {
				t.Error("the next guess is not over the limit")
			}
			time.Sleep(3 * time.Second)
			if g.Right("admin", source) != 0 {
				t.Error("the right password is rejected when there is a guess again")
			}
		},
		"where it was used before it is accepted for longer": func(t *testing.T, g *limit.Guesses) {
			g.Right("admin", source)
			wrong(t, g, source, 20)
			for range 979 {
				if g.Wrong("admin", source) == 0 {
					t.Fatal("a guess beyond the limit")
				}
			}
			if g.Right("admin", source) != 0 {
				t.Error("rejected after 999 guesses")
			}
			g.Wrong("admin", source)
			if g.Right("admin", source) == 0 {
				t.Error("accepted after 1000 guesses")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, limit.NewGuesses()) })
		})
	}
}

// wrong makes n guesses, none of them one too many.
func wrong(t *testing.T, g *limit.Guesses, source netip.Prefix, n int) {
	t.Helper()
	for i := range n {
		if g.Wrong("admin", source) != 0 {
			t.Fatalf("guess %d is over the limit", i)
		}
	}
}

// Guessers that are rejected together do not come back together.
func TestTooManyGuesses_RetryAfter_Randomized(t *testing.T) {
	guessed, seen := limit.TooManyGuesses{Wait: 3 * time.Second}, map[time.Duration]bool{}
	for range 1000 {
		after := guessed.RetryAfter()
		if after < guessed.Wait || after > limit.MaxRetryAfter {
			t.Fatalf("got %s, want %s to %s", after, guessed.Wait, limit.MaxRetryAfter)
		}
		seen[after.Truncate(time.Second)] = true
	}
	if len(seen) < 50 {
		t.Errorf("got %d different seconds of 1000, want nearly all of 57", len(seen))
	}
}

func BenchmarkGuesses_Wrong(b *testing.B) {
	g, source := limit.NewGuesses(), netip.MustParsePrefix("198.51.100.0/24")
	b.ReportAllocs()
	for b.Loop() {
		g.Wrong("admin", source)
	}
}
