package publish_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
)

func TestPublish_NewContent_NextVersion(t *testing.T) {
	publisher := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	if publisher.Plan().Config() != nil || publisher.Plan().PollInterval() != fleettest.DefaultInterval {
		t.Errorf("before the first publish: got %v, %v", publisher.Plan().Config(), publisher.Plan().PollInterval())
	}
	for version := int64(1); version <= 3; version++ {
		outcome, err := publisher.Publish(t.Context(), fleettest.Draft(fmt.Sprintf("http://target/%d", version)))
		cfg, changed := outcome.Config, outcome.Changed
		if err != nil || !changed || cfg.Version != version {
			t.Fatalf("publish %d: got %+v, %v, %v", version, cfg, changed, err)
		}
		if got := publisher.Plan().Config(); got != cfg {
			t.Errorf("current after publish %d: got %v, want %v", version, got, cfg)
		}
	}
	history, err := publisher.History(t.Context(), 1<<62, 10)
	if err != nil || len(history) != 3 || history[0].Version != 3 || history[2].Version != 1 {
		t.Errorf("history: got %v, %v, want 3, 2, 1", history, err)
	}
	first, err := publisher.Version(t.Context(), 1)
	if err != nil || first.URL != "http://target/1" {
		t.Errorf("version 1: got %v, %v", first, err)
	}
	if _, err := publisher.Version(t.Context(), 4); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("version 4: got %v, want ErrNotFound", err)
	}
}

func TestPublish_FieldsLeftOut_Kept(t *testing.T) {
	publisher := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	fleettest.Publish(t, publisher, fleettest.Draft("http://a/"))
	interval := 5 * time.Second
	cfg := fleettest.Publish(t, publisher, models.Draft{PollInterval: &interval})
	if want := (models.Content{URL: "http://a/", PollInterval: interval}); cfg.Content != want || cfg.Version != 2 {
		t.Errorf("interval alone: got %+v, want %+v as version 2", cfg, want)
	}
	cfg = fleettest.Publish(t, publisher, fleettest.Draft("http://b/"))
	if want := (models.Content{URL: "http://b/", PollInterval: interval}); cfg.Content != want ||
		publisher.Plan().PollInterval() != interval {
		t.Errorf("URL alone: got %+v, want %+v", cfg.Content, want)
	}
}

func TestPublish_SameContent_Unchanged(t *testing.T) {
	publisher := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	first := fleettest.Publish(t, publisher, fleettest.Draft("http://a/"))
	again := fleettest.Draft("http://a/")
	again.Message = "the message is not part of the content"
	outcome, err := publisher.Publish(t.Context(), again)
	cfg, changed := outcome.Config, outcome.Changed
	if err != nil || changed || cfg.Version != 1 || cfg.ETag != first.ETag || cfg.Message != "" {
		t.Errorf("got %+v, %v, %v, want version 1 as it was", cfg, changed, err)
	}
	if publisher.Plan().Config() != first {
		t.Error("the newest version was replaced, which wakes the whole fleet")
	}
}

func TestPublish_FirstWithoutURL_Invalid(t *testing.T) {
	publisher := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	interval := 5 * time.Second
	_, err := publisher.Publish(t.Context(), models.Draft{PollInterval: &interval})
	var bad *models.InvalidError
	if !errors.As(err, &bad) || bad.Field != "url" || publisher.Plan().Config() != nil {
		t.Errorf("got %v, %v, want an error that names url, and nothing current", err, publisher.Plan().Config())
	}
}

func TestPublish_Precondition_Checked(t *testing.T) {
	publisher := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	asked := []string{}
	d := fleettest.Draft("http://a/")
	d.Allowed = func(etag string) bool { asked = append(asked, etag); return etag == "" }
	first := fleettest.Publish(t, publisher, d)
	d.URL = new(string)
	*d.URL = "http://b/"
	if _, err := publisher.Publish(t.Context(), d); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("got %v, want ErrPrecondition", err)
	}
	if diff := cmp.Diff([]string{"", first.ETag}, asked); diff != "" {
		t.Errorf("asked about, -want +got:\n%s", diff)
	}
	if publisher.Plan().Config() != first {
		t.Errorf("current: got %v, want %v", publisher.Plan().Config(), first)
	}
}

func TestPublish_Restart_Kept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	want := fleettest.Publish(t, fleettest.OpenPublisher(t, db, db.Tags()), fleettest.Draft("http://a/"))
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	publisher := fleettest.OpenPublisher(t, db, db.Tags())
	if diff := cmp.Diff(want, publisher.Plan().Config()); diff != "" {
		t.Errorf("current after a restart, -want +got:\n%s", diff)
	}
	if next := fleettest.Publish(t, publisher, fleettest.Draft("http://b/")); next.Version != 2 {
		t.Errorf("the next version: got %d, want 2", next.Version)
	}
}

// slow is a store whose transactions wait for finish to be closed.
type slow struct {
	*sqlite.DB
	begun, finish chan struct{}
}

func (s *slow) Append(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) (*models.Plan, error) {
	s.begun <- struct{}{}
	<-s.finish
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.DB.Append(ctx, rule)
}

// observed is a store that calls beforeCommit before each commit.
type observed struct {
	*sqlite.DB
	beforeCommit func()
}

func (o *observed) Append(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) (*models.Plan, error) {
	return o.DB.Append(ctx, func(plan *models.Plan) (*models.Change, error) {
		change, err := rule(plan)
		o.beforeCommit()
		return change, err
	})
}

// Law 2: no version is served before its commit.
func TestPublish_BeforeTheCommit_NotCurrent(t *testing.T) {
	store := &observed{DB: fleettest.NewStore(t)}
	publisher := fleettest.OpenPublisher(t, store, models.Tags{Epoch: "epoch"})
	for i := range int64(3) {
		store.beforeCommit = func() {
			got := publisher.Plan().Config()
			if got == nil && i == 0 || got != nil && got.Version == i {
				return
			}
			t.Errorf("before the commit of version %d: got %+v current", i+1, got)
		}
		fleettest.Publish(t, publisher, fleettest.Draft(fmt.Sprint("http://target/", i)))
	}
}

func TestPublish_ClientDisconnects_NothingStored(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		store := &slow{DB: db, begun: make(chan struct{}), finish: make(chan struct{})}
		publisher := fleettest.OpenPublisher(t, store, models.Tags{Epoch: "epoch"})
		ctx, leave := context.WithCancel(t.Context())
		outcome := make(chan error, 2)
		send := func(url string) {
			_, err := publisher.Publish(ctx, fleettest.Draft(url))
			outcome <- err
		}
		go send("http://begun/")
		<-store.begun
		go send("http://waits/")
		synctest.Wait()
		leave()
		if err := <-outcome; !errors.Is(err, context.Canceled) {
			t.Errorf("the publish that was queued: got %v, want it canceled", err)
		}
		close(store.finish)
		if err := <-outcome; err != nil {
			t.Errorf("the publish that had begun: got %v, want it finished", err)
		}
		for range 20 {
			if _, err := publisher.Publish(ctx, fleettest.Draft("http://late/")); !errors.Is(err, context.Canceled) {
				t.Errorf("a publish after the disconnect: got %v, want it canceled", err)
			}
		}
		if got := publisher.Plan().Config(); got == nil || got.URL != "http://begun/" || got.Version != 1 {
			t.Errorf("current: got %+v", got)
		}
	})
}

func TestPublish_StoreHangs_Busy(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		store := &slow{DB: db, begun: make(chan struct{}), finish: make(chan struct{})}
		publisher := fleettest.OpenPublisher(t, store, models.Tags{Epoch: "epoch"})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = publisher.Publish(context.Background(), fleettest.Draft("http://hangs/"))
		}()
		<-store.begun
		if _, err := publisher.Publish(
			t.Context(), fleettest.Draft("http://waits/"),
		); !errors.Is(err, database.ErrBusy) {
			t.Errorf("got %v, want ErrBusy", err)
		}
		close(store.finish)
		<-done
	})
}

func TestPublish_Concurrent_NoGaps(t *testing.T) {
	const publishers, each = 8, 10
	publisher := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	var group sync.WaitGroup
	for p := range publishers {
		group.Go(func() {
			last := int64(0)
			for n := range each {
				outcome, err := publisher.Publish(
					t.Context(), fleettest.Draft(fmt.Sprintf("http://target/%d/%d", p, n)),
				)
				if err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				cfg := outcome.Config
				if current := publisher.Plan().Config().Version; cfg.Version <= last || current < cfg.Version {
					t.Errorf("publish gave version %d after %d, current is %d", cfg.Version, last, current)
				}
				last = cfg.Version
			}
		})
	}
	group.Wait()
	history, err := publisher.History(t.Context(), 1<<62, 1000)
	if err != nil || len(history) != publishers*each {
		t.Fatalf("history: got %d entries, %v, want %d", len(history), err, publishers*each)
	}
	for i, cfg := range history {
		if want := int64(len(history) - i); cfg.Version != want {
			t.Fatalf("history[%d]: got version %d, want %d", i, cfg.Version, want)
		}
	}
}

func TestPublish_CommitFails_FollowsTheStore(t *testing.T) {
	for name, row := range map[string]struct {
		stored bool
		want   int64
	}{
		"nothing stored": {false, 1},
		"stored":         {true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			store := &fleettest.Lossy{DB: fleettest.NewStore(t), Stores: true}
			publisher := fleettest.OpenPublisher(t, store, models.Tags{Epoch: "epoch"})
			fleettest.Publish(t, publisher, fleettest.Draft("http://a/"))
			before := publisher.Plan().Config()
			store.Stores = row.stored
			store.Fails.Store(true)
			if _, err := publisher.Publish(
				t.Context(), fleettest.Draft("http://b/"),
			); !errors.Is(err, fleettest.ErrDisk) {
				t.Errorf("got %v, want the error of the disk", err)
			}
			if got := publisher.Plan().Config(); got.Version != row.want || (got == before) == row.stored {
				t.Errorf(
					"current: got version %d, want %d; the same pointer unless stored", got.Version, row.want,
				)
			}
		})
	}
}

func TestPublishFirst_NothingPublished_Publishes(t *testing.T) {
	publisher := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	if cfg, published, err := publisher.PublishFirst(t.Context(), "http://a/"); err != nil || !published ||
		cfg.Version != 1 {
		t.Errorf("on an empty store: got %v, %v, %v", cfg, published, err)
	}
	if cfg, published, err := publisher.PublishFirst(t.Context(), "http://b/"); err != nil || published ||
		cfg.URL != "http://a/" {
		t.Errorf("on a store with a version: got %v, %v, %v", cfg, published, err)
	}
}

func TestPublish_WindowFollowsFleetSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := fleettest.NewStore(t)
		agents, _ := fleettest.OpenAgents(t, db)
		publisher := publish.New(db, fleettest.LoadPlan(t, db), agents, publish.Options{Pace: 100}, logrus.New())
		for i := range 50 {
			fleettest.Register(t, agents, fmt.Sprint("a", i))
		}
		for after, want := range []time.Duration{2 * time.Second, 2 * time.Second, 0} { // 1.2 s apart
			if after == 0 {
				fleettest.Publish(t, publisher, fleettest.Draft("http://a/"))
			}
			if got := publisher.Plan().SpreadAt(time.Now()); got != want {
				t.Errorf("%d ms after a publish: got a window of %s, want %s for 50 agents at 100 a second",
					1200*after, got, want)
			}
			time.Sleep(1200 * time.Millisecond)
		}
	})
}

// The rules decide on the state of the store, even if another controller has written to it.
func TestWrites_StoreChangedByAnother_DecideOnTheStore(t *testing.T) {
	f := fleettest.Open(t)
	log, _ := logtest.NewNullLogger()
	other := publish.New(
		f.DB, fleettest.LoadPlan(t, f.DB), fleettest.NoAgents{}, publish.Options{Tags: f.DB.Tags()}, log,
	)
	equals := func(etag string) func(string) bool { return func(current string) bool { return current == etag } }

	first := fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	second := fleettest.Publish(t, other, fleettest.Draft("http://b/"))
	if second.Version != 2 || second.RestoredFrom != 0 {
		t.Errorf("the other's publish: got %+v, want version 2", second)
	}
	stale := fleettest.Draft("http://c/")
	stale.Allowed = equals(first.ETag)
	if _, err := f.Publisher.Publish(t.Context(), stale); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("a publish with the previous ETag: got %v, want ErrPrecondition", err)
	}
	if outcome, err := f.Publisher.Publish(t.Context(), fleettest.Draft("http://b/")); err != nil || outcome.Changed ||
		outcome.Config.Version != 2 {
		t.Errorf("a publish of the other's content: got %+v, %v, want no change", outcome, err)
	}
	if got := f.Publisher.Plan().Version(); got != 2 {
		t.Errorf("after it: got version %d in memory, want 2", got)
	}

	if err := other.Freeze(t.Context(), models.Freeze{Reason: "sale"}, fleettest.ByAdmin, always); err != nil {
		t.Fatal(err)
	}
	var frozen *models.FrozenError
	if _, err := f.Publisher.Publish(t.Context(), fleettest.Draft("http://c/")); !errors.As(err, &frozen) {
		t.Errorf("a publish during the other's freeze: got %v, want a FrozenError", err)
	}
	if _, err := f.Publisher.PreviewPublish(t.Context(), fleettest.Draft("http://c/")); !errors.As(err, &frozen) {
		t.Errorf("a preview: got %v, want a FrozenError", err)
	}
	never := func(f *models.Freeze) bool { return f == nil }
	if _, err := f.Publisher.Unfreeze(t.Context(), fleettest.ByAdmin, never); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("unfreeze if there is no freeze: got %v, want ErrPrecondition", err)
	}
	if _, err := f.Publisher.Unfreeze(t.Context(), fleettest.ByAdmin, always); err != nil {
		t.Fatal(err)
	}
	third := fleettest.Publish(t, other, fleettest.Draft("http://c/"))

	resume := func() error {
		_, err := f.Publisher.Resume(t.Context(), fleettest.ByAdmin, equals(second.ETag))
		return err
	}
	if err := resume(); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("a resume with the previous ETag: got %v, want ErrPrecondition", err)
	}
	if third.Version != 3 {
		t.Errorf("the other's publish after the freeze: got version %d, want 3", third.Version)
	}
	stored, err := f.DB.Plan(t.Context())
	if err != nil || stored.Revision != 5 {
		t.Errorf("got revision %d, %v, want one for each of 5 changes", stored.Revision, err)
	}
}
