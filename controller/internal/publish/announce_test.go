package publish_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
)

func TestAnnouncements_BrokerFails_AnnouncedAgain(t *testing.T) {
	for name, row := range map[string]struct {
		broker *fleettest.Broker
		want   []int64       // announced versions, with the repetitions after a failure
		lost   string        // after the second publish
		after  time.Duration // when all are announced
	}{
		"healthy broker": {&fleettest.Broker{}, []int64{1, 2, 3}, "", 0},
		"broker down": {
			&fleettest.Broker{Down: time.Minute}, []int64{3, 3, 3, 3, 3, 3, 3}, fleettest.ErrDown.Error(),
			time.Minute + 65*time.Second,
		},
		"unresponsive broker": {
			&fleettest.Broker{Hanging: time.Minute}, []int64{3, 3, 3, 3, 3, 3, 3},
			"the broker did not answer within 5s", time.Minute + 70*time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := fleettest.Open(t)
				f.Join(t, 50)
				log, hook := logtest.NewNullLogger()
				row.broker.Began = time.Now()
				announcements := publish.NewAnnouncements(f.Publisher, row.broker, 10, log)
				fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/")) // not announced, as before a crash
				ctx, stop := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() { _ = announcements.Run(ctx) })
				began := time.Now()
				for _, url := range []string{"http://b/", "http://c/"} {
					time.Sleep(10 * time.Second)
					synctest.Wait()
					at := time.Now()
					fleettest.Publish(t, f.Publisher, fleettest.Draft(url))
					if took := time.Since(at); took != 0 {
						t.Errorf("a publish took %s, want no wait for the broker", took)
					}
				}
				synctest.Wait()
				lost := ""
				if err := announcements.Lost(); err != nil {
					lost = err.Error()
				}
				if lost != row.lost {
					t.Errorf("lost because %q, want %q", lost, row.lost)
				}
				time.Sleep(row.after - time.Since(began))
				synctest.Wait()
				if diff := cmp.Diff(row.want, row.broker.Versions()); diff != "" || announcements.Lost() != nil {
					t.Errorf("%v; announced, -want +got:\n%s", announcements.Lost(), diff)
				}
				if last := row.broker.Taken[len(row.broker.Taken)-1]; last.Spread != 5*time.Second ||
					last.ETag != f.Publisher.Plan().Config().ETag {
					t.Errorf("announced %+v, want 50 agents at 10 a second spread over 5 s, and the ETag", last)
				}
				warnings, infos := 0, 0
				for _, e := range hook.AllEntries() {
					switch e.Level {
					case logrus.WarnLevel:
						warnings++
					case logrus.InfoLevel:
						infos++
					}
				}
				if troubled := min(1, len(row.lost)); warnings != troubled || infos != troubled {
					t.Errorf(
						"got %d warnings and %d log entries of a recovery, want %d of each", warnings, infos, troubled,
					)
				}
				calls := row.broker.Calls
				time.Sleep(time.Hour)
				if row.broker.Calls != calls {
					t.Errorf("%d more calls in an hour without a publish, want none", row.broker.Calls-calls)
				}
				stop()
				running.Wait()
			})
		})
	}
}
