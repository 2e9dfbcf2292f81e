package limit_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleetconf/fleetconf/pkg/limit"
)

func TestSource_OfAnAddress(t *testing.T) {
	for addr, want := range map[string]string{
		"198.51.100.7": "198.51.100.0/24", "::ffff:198.51.100.7": "198.51.100.0/24", "2001:db8:1:2::3": "2001:db8:1::/48", "::1": "::/48",
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
			for _, other := range []uint64{table.Key("agent", source), table.Key("admin", netip.MustParsePrefix("198.51.101.0/24"))} {
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

func BenchmarkGuesses_Wrong(b *testing.B) {
	g, source := limit.NewGuesses(), netip.MustParsePrefix("198.51.100.0/24")
	b.ReportAllocs()
	for b.Loop() {
		g.Wrong("admin", source)
	}
}
