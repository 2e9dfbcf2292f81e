package poller

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// A disk that hangs delays nothing: the status is available, releases are pushed and
// reported, and a restarted worker is configured.
func TestRun_CacheHangs_DelaysNothing(t *testing.T) {
	const hangs = 45 * time.Second
	cache := &fakeCache{hanging: []span{{hangs, forever}}}
	play(t, scenario{
		controller: &fakeController{publications: []publication{
			published(0, 1), published(hangs, 2), published(10*time.Minute, 3),
		}},
		worker: &fakeWorker{restarts: []time.Duration{5 * time.Minute}},
		cache:  cache,
	}, func(t *testing.T, w *world) {
		pass(hangs)
		w.runs(t, 1)
		pass(time.Minute)
		w.runs(t, 2)
		reports := w.controller.reports()
		if last := reports[len(reports)-1]; last != (wire.Report{Version: 2, Status: wire.Applied}) {
			t.Errorf("the last report is %+v, want version 2 applied", last)
		}
		s := w.Status()
		if s.Cache.Writable || *s.AppliedVersion != 2 ||
			!strings.Contains(s.LastError, "the disk did not answer within 2s") {
			t.Errorf("status is %+v, want version 2 and a cache that hangs", s)
		}
		pass(5*time.Minute - w.worker.now() + 5*time.Second)
		w.runs(t, 2)
		pass(10*time.Minute - w.worker.now())
		pass(34 * time.Second) // a poll interval and its jitter
		w.runs(t, 3)
		if n := w.logged(logrus.WarnLevel, "Cache unwritable"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
		if held := w.cache.content(); held.LastGood.Config.Version != 1 {
			t.Errorf("the cache holds version %d while it hangs, want 1", held.LastGood.Config.Version)
		}

		close(cache.proceed)
		pass(0)
		if held := w.cache.content(); held.LastGood.Config.Version != 3 || held.Candidate != nil {
			t.Errorf("the cache holds %+v when it is back, want version 3", held)
		}
		if s := w.Status(); !s.Cache.Writable {
			t.Errorf("status is %+v, want a cache that is well", s)
		}
	})
}

// A disk that hangs from the start delays an agent a little, and does not keep it from
// stopping.
func TestRun_CacheHangsFromStart_RunsAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scenario{
			controller: &fakeController{publications: []publication{published(0, 1)}},
			cache:      &fakeCache{hanging: always},
		}.world()
		defer close(w.cache.proceed)
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		go func() { stopped <- w.Run(ctx) }() // ends with cancel
		pass(5 * time.Second)
		w.runs(t, 1)
		cancel()
		began := time.Now()
		if err := <-stopped; err != nil || time.Since(began) > saveTimeout {
			t.Errorf("Run returned %v after %s, want nil within %s", err, time.Since(began), saveTimeout)
		}
	})
}

// A write that fails, and then hangs when it is retried, delays nothing either.
func TestPersist_RetryHangs_DoesNotWait(t *testing.T) {
	cache := &fakeCache{unwritable: []span{{0, time.Second}}, hanging: []span{{time.Second, forever}}}
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1), published(time.Minute, 2)}},
		cache:      cache,
	}, func(t *testing.T, w *world) {
		defer close(cache.proceed)
		pass(time.Minute + 40*time.Second)
		w.runs(t, 2)
		if s := w.Status(); !strings.Contains(s.LastError, "did not answer") {
			t.Errorf("status says %q, want that the disk does not answer", s.LastError)
		}
	})
}

// Each step waits until the state that it depends on is saved: the id and the secret, the
// token, the candidate, and what the worker accepted.
func TestRun_SlowCache_IsSavedBeforeEachStep(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}},
		cache:      &fakeCache{slow: time.Second},
	}, func(t *testing.T, w *world) {
		pass(10 * time.Second)
		c := w.controller
		got := slices.Concat(c.times("register"), c.times("fetch"), w.worker.pushTimes(), c.times("report"))
		want := []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("registered, fetched, pushed and reported at (-want +got):\n%s", diff)
		}
	})
}

// State that could not be saved is saved once more when the agent stops.
func TestRun_CacheWritableAtEnd_SavesOnceMore(t *testing.T) {
	cache := &fakeCache{unwritable: []span{{0, 10 * time.Minute}}}
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1)}}, cache: cache,
	}, func(*testing.T, *world) { pass(10 * time.Minute) })
	if held := cache.content(); held.LastGood == nil || held.LastGood.Config.Version != 1 {
		t.Errorf("the cache holds %+v, want version 1", held)
	}
}
