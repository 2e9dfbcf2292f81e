package poller

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// A gateway that compresses may drop ETags. Long polls still wait, and nothing is pushed
// twice.
func TestRun_ETagsDropped_FollowsAllVersions(t *testing.T) {
	for _, transport := range []wire.Transport{wire.Polling, wire.LongPoll} {
		t.Run(string(transport), func(t *testing.T) {
			play(t, scenario{transport: transport,
				controller: &fakeController{
					dropsETags: true, publications: []publication{published(0, 1), published(time.Hour, 2)},
				},
			}, func(t *testing.T, w *world) {
				pass(time.Hour - time.Second)
				if s := w.Status(); s.Transport != transport || s.LastError != "" ||
					s.Push.Error != "" && transport == wire.LongPoll {
					t.Errorf("after an hour: got %+v", s)
				}
				if n := len(w.fetches(0)); transport == wire.LongPoll && n > 20 {
					t.Errorf("%d fetches within an hour, want long polls", n)
				}
				pass(32 * time.Second)
				w.runs(t, 2)
				pass(10 * time.Minute)
				if got := w.worker.taken(); !slices.Equal(got, []int64{1, 2}) {
					t.Errorf("the worker took %v, want each version once", got)
				}
				if n := len(w.controller.reports()); n != 2 {
					t.Errorf("%d reports, want one of each version", n)
				}
			})
		})
	}
}

// Behind such a gateway an older controller answers long polls immediately. The agent
// polls, and says so.
func TestRun_LongPoll_NeverHeld_Polls(t *testing.T) {
	play(t, scenario{transport: wire.LongPoll,
		controller: &fakeController{
			dropsETags: true, old: true, publications: []publication{published(0, 1), published(time.Hour, 2)},
		},
	}, func(t *testing.T, w *world) {
		pass(20 * time.Minute)
		s := w.Status()
		if s.Transport != wire.Polling || s.Push.Healthy || !strings.Contains(s.Push.Error, "immediately") {
			t.Errorf("got %+v, want poll, and why", s)
		}
		if got := w.controller.pushError; got != s.Push.Error {
			t.Errorf("the last poll said %q, want %q", got, s.Push.Error)
		}
		if n := len(w.fetches(10 * time.Minute)); n < 15 || n > 25 {
			t.Errorf("%d fetches in ten minutes, want one each interval of 30 s", n)
		}
		pass(41 * time.Minute)
		w.runs(t, 2)
		if n := w.logged(logrus.WarnLevel, "Push lost; polling"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
		if got := w.worker.taken(); !slices.Equal(got, []int64{1, 2}) {
			t.Errorf("the worker took %v, want each version once", got)
		}
	})
}

// A refusal is not an error any more once the controller offers the version that runs.
func TestRun_RefusedVersionWithdrawn_ClearsError(t *testing.T) {
	play(t, scenario{worker: &fakeWorker{refuses: refuse(2)}, controller: &fakeController{
		dropsETags: true, old: true,
		publications: []publication{published(0, 1), published(time.Minute, 2), published(2*time.Minute, 1)},
	}}, func(t *testing.T, w *world) {
		pass(2*time.Minute - 1)
		if got := w.Status().LastError; !strings.Contains(got, "refused version 2") {
			t.Errorf("while version 2 is offered: got %q", got)
		}
		pass(34 * time.Second)
		if got := w.Status().LastError; got != "" {
			t.Errorf("while version 1 is offered again: got %q", got)
		}
	})
}

// A version older than the applied one needs a reason.
func TestRun_OlderVersionWithoutReason_Refused(t *testing.T) {
	for because, want := range map[string]int64{"": 5, wire.OlderResume: 3, wire.OlderPublish: 3} {
		for _, transport := range []wire.Transport{wire.Polling, wire.LongPoll} {
			t.Run(string(transport)+" "+because, func(t *testing.T) {
				play(t, scenario{transport: transport,
					controller: &fakeController{because: because, publications: []publication{
						published(0, 5), published(time.Hour, 3), published(3*time.Hour, 6),
					}},
				}, func(t *testing.T, w *world) {
					pass(2 * time.Hour)
					w.runs(t, want)
					s := w.Status()
					if refused := strings.Contains(s.LastError, "older"); refused != (because == "") ||
						*s.AppliedVersion != want || *s.DesiredVersion != want {
						t.Errorf("the status: got %+v", s)
					}
					if n := len(w.fetches(time.Hour + time.Minute)); n > 130 {
						t.Errorf("%d fetches in an hour, want no more than by polling", n)
					}
					pass(time.Hour + 33*time.Second)
					w.runs(t, 6)
					if s := w.Status(); s.LastError != "" {
						t.Errorf("after a newer version: got %q", s.LastError)
					}
				})
			})
		}
	}
}

// A release that lost its ETag in a gateway is recognized by its content.
func TestRun_ETagDroppedLater_KeepsKnownETag(t *testing.T) {
	one := release(1, 30)
	play(t, scenario{
		controller: &fakeController{dropsETags: true, old: true, publications: []publication{{0, one}}},
		cache:      &fakeCache{stored: state.Stored{Identity: known, LastGood: &one}},
	}, func(t *testing.T, w *world) {
		pass(10 * time.Minute)
		if held := w.cache.content(); held.Candidate != nil || held.LastGood.ETag != one.ETag {
			t.Errorf("the cache holds %+v, want the ETag that it had", held.LastGood)
		}
	})
}

func TestRun_Reports_NameTheETag(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 1), published(time.Minute, 2)}},
		worker: &fakeWorker{
			refuses: func(v int64, _ time.Duration) string { return strings.Repeat("no", int(v-1)) },
		},
	}, func(t *testing.T, w *world) {
		pass(2 * time.Minute)
		w.controller.mu.Lock()
		defer w.controller.mu.Unlock()
		if want := []string{release(1, 30).ETag, release(2, 30).ETag}; len(w.controller.outcomeTags) < 2 ||
			!slices.Equal(w.controller.outcomeTags[:2], want) {
			t.Errorf("got %v, want %v", w.controller.outcomeTags, want)
		}
	})
}

// An edited cache holds another configuration under the same ETag. The controller's answer
// replaces it, and the next poll, which follows immediately, says so.
func TestRun_CacheEdited_Replaced(t *testing.T) {
	one := release(1, 3600)
	edited := one
	edited.Config.Data.URL = "http://edited/"
	for _, drops := range []bool{false, true} {
		play(t, scenario{
			transport: wire.LongPoll,
			controller: &fakeController{publications: []publication{{0, one}}, dropsETags: drops, compares: true,
				// the worker is done during a poll
				slowReports: 25 * time.Millisecond, slowFetches: 15 * time.Millisecond},
			cache:  &fakeCache{stored: state.Stored{Identity: known, LastGood: &edited}},
			worker: &fakeWorker{slow: 20 * time.Millisecond},
		}, func(t *testing.T, w *world) {
			pass(time.Minute)
			if got, err := w.worker.state(); err != nil || got.URL != one.Config.Data.URL {
				t.Errorf("the worker runs %+v, %v, want %s", got, err, one.Config.Data.URL)
			}
			if got := w.cache.content().LastGood; got == nil || got.Config != one.Config {
				t.Errorf("the cache holds %+v, want what was published", got)
			}
			w.controller.mu.Lock()
			defer w.controller.mu.Unlock()
			if got := w.controller.applied; got == nil || *got != one.Config {
				t.Errorf("ETags dropped: %v: the last poll says that %+v runs, want what was published", drops, got)
			}
		})
	}
}
