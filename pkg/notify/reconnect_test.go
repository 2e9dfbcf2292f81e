package notify_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/notify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// record is a Receiver that records its calls.
type record struct{ told []string }

func (r *record) Subscribed()       { r.told = append(r.told, "subscribed") }
func (r *record) Lost(err error)    { r.told = append(r.told, "lost: "+err.Error()) }
func (r *record) Received(m []byte) { r.told = append(r.told, "heard: "+string(m)) }
func (r *record) is(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(r.told, want) {
		t.Errorf("told %q, want %q", r.told, want)
	}
}

func TestReconnect_ReportsEachLossOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, attempts := &record{}, 0
		err := notify.Reconnect(ctx, r, func(_ context.Context, subscribed func()) error {
			attempts++
			switch attempts {
			case 3, 6:
				subscribed()
			case 9:
				cancel()
			}
			return errors.New("refused")
		})
		if err != nil {
			t.Errorf("got %v, want nil", err)
		}
		r.is(t, "lost: refused", "subscribed", "lost: refused", "subscribed", "lost: refused")
	})
}

func TestReconnect_BacksOffUntilAConnectionHolds(t *testing.T) {
	const rounds = 200
	var sums [10]time.Duration
	for range rounds {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			last, attempts := time.Now(), 0
			_ = notify.Reconnect(ctx, &record{}, func(_ context.Context, subscribed func()) error {
				if attempts > 0 {
					sums[attempts-1] += time.Since(last)
				}
				if attempts++; attempts > len(sums) {
					cancel()
				}
				subscribed() // and lost at once: it does not hold
				if attempts == len(sums) {
					time.Sleep(time.Minute) // this one did
				}
				last = time.Now()
				return errors.New("lost")
			})
		})
	}
	for i, sum := range sums {
		mean, want := sum/rounds, min(time.Second<<i, 30*time.Second)/2
		if i == len(sums)-1 {
			want = time.Second / 2
		}
		if mean < want*7/10 || mean > want*13/10 {
			t.Errorf("wait %d is %s on average, want about %s", i, mean, want)
		}
	}
}

func TestReconnect_CanceledDuringBackoff_Returns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- notify.Reconnect(ctx, &record{},
				func(context.Context, func()) error { return errors.New("refused") })
		}()
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v, want nil", err)
		}
	})
}

// The documents say how long a connection that died without a FIN counts as healthy.
func TestIdle_MatchesDocuments(t *testing.T) {
	if got := notify.Idle + notify.Answer; got != 5*time.Minute+10*time.Second {
		t.Errorf("a dead connection is noticed within %s; update README, ADR 8 and docs/architecture.md", got)
	}
}
