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
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/audit"
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// observed is what the store has of versions above its own.
func observed(ctx context.Context, db *sqlite.DB) (models.Observed, error) {
	plan, err := db.Plan(ctx)
	if err != nil {
		return models.Observed{}, err
	}
	return plan.Observed, nil
}

func TestPublish_NewContent_IsTheNextVersion(t *testing.T) {
	configs := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	if configs.Plan().Config() != nil || configs.Plan().PollInterval() != fleettest.DefaultInterval {
		t.Errorf("before the first publish: got %v, %v", configs.Plan().Config(), configs.Plan().PollInterval())
	}
	for version := int64(1); version <= 3; version++ {
		outcome, err := configs.Publish(t.Context(), fleettest.Draft(fmt.Sprintf("http://target/%d", version)))
		cfg, changed := outcome.Config, outcome.Changed
		if err != nil || !changed || cfg.Version != version {
			t.Fatalf("publish %d: got %+v, %v, %v", version, cfg, changed, err)
		}
		if got := configs.Plan().Config(); got != cfg {
			t.Errorf("current after publish %d: got %v, want %v", version, got, cfg)
		}
	}
	history, err := configs.History(t.Context(), 1<<62, 10)
	if err != nil || len(history) != 3 || history[0].Version != 3 || history[2].Version != 1 {
		t.Errorf("history: got %v, %v, want 3, 2, 1", history, err)
	}
	first, err := configs.Version(t.Context(), 1)
	if err != nil || first.URL != "http://target/1" {
		t.Errorf("version 1: got %v, %v", first, err)
	}
	if _, err := configs.Version(t.Context(), 4); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("version 4: got %v, want ErrNotFound", err)
	}
}

func TestPublish_FieldsLeftOut_Kept(t *testing.T) {
	configs := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	fleettest.Publish(t, configs, fleettest.Draft("http://a/"))
	interval := 5 * time.Second
	cfg := fleettest.Publish(t, configs, models.Draft{PollInterval: &interval})
	if want := (models.Content{URL: "http://a/", PollInterval: interval}); cfg.Content != want || cfg.Version != 2 {
		t.Errorf("interval alone: got %+v, want %+v as version 2", cfg, want)
	}
	cfg = fleettest.Publish(t, configs, fleettest.Draft("http://b/"))
	if want := (models.Content{URL: "http://b/", PollInterval: interval}); cfg.Content != want || configs.Plan().PollInterval() != interval {
		t.Errorf("URL alone: got %+v, want %+v", cfg.Content, want)
	}
}

func TestPublish_SameContent_Unchanged(t *testing.T) {
	configs := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	first := fleettest.Publish(t, configs, fleettest.Draft("http://a/"))
	again := fleettest.Draft("http://a/")
	again.Message = "another message is no other content"
	outcome, err := configs.Publish(t.Context(), again)
	cfg, changed := outcome.Config, outcome.Changed
	if err != nil || changed || cfg.Version != 1 || cfg.ETag != first.ETag || cfg.Message != "" {
		t.Errorf("got %+v, %v, %v, want version 1 as it was", cfg, changed, err)
	}
	if configs.Plan().Config() != first {
		t.Error("what is current was replaced, which wakes the whole fleet")
	}
}

func TestPublish_FirstWithoutURL_Invalid(t *testing.T) {
	configs := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	interval := 5 * time.Second
	_, err := configs.Publish(t.Context(), models.Draft{PollInterval: &interval})
	var bad *models.InvalidError
	if !errors.As(err, &bad) || bad.Field != "url" || configs.Plan().Config() != nil {
		t.Errorf("got %v, %v, want an error that names url, and nothing current", err, configs.Plan().Config())
	}
}

func TestPublish_Precondition_Checked(t *testing.T) {
	configs := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	asked := []string{}
	d := fleettest.Draft("http://a/")
	d.Allowed = func(etag string) bool { asked = append(asked, etag); return etag == "" }
	first := fleettest.Publish(t, configs, d)
	d.URL = new(string)
	*d.URL = "http://b/"
	if _, err := configs.Publish(t.Context(), d); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("got %v, want ErrPrecondition", err)
	}
	if diff := cmp.Diff([]string{"", first.ETag}, asked); diff != "" {
		t.Errorf("asked about, -want +got:\n%s", diff)
	}
	if configs.Plan().Config() != first {
		t.Errorf("current: got %v, want %v", configs.Plan().Config(), first)
	}
}

func TestPublish_SurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	want := fleettest.Publish(t, fleettest.OpenPublisher(t, db, db.Tags()), fleettest.Draft("http://a/"))
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	configs := fleettest.OpenPublisher(t, db, db.Tags())
	if diff := cmp.Diff(want, configs.Plan().Config()); diff != "" {
		t.Errorf("current after a restart, -want +got:\n%s", diff)
	}
	if next := fleettest.Publish(t, configs, fleettest.Draft("http://b/")); next.Version != 2 {
		t.Errorf("the next version: got %d, want 2", next.Version)
	}
}

// slow is a store whose transactions take their time.
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

// watched is a store that calls during before each commit.
type watched struct {
	*sqlite.DB
	during func()
}

func (w *watched) Append(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) (*models.Plan, error) {
	return w.DB.Append(ctx, func(plan *models.Plan) (*models.Change, error) {
		change, err := rule(plan)
		w.during()
		return change, err
	})
}

// Law 2: no version is served that is not committed.
func TestPublish_BeforeTheCommit_NotCurrent(t *testing.T) {
	store := &watched{DB: fleettest.NewStore(t)}
	configs := fleettest.OpenPublisher(t, store, models.Tags{Epoch: "epoch"})
	for i := range int64(3) {
		store.during = func() {
			got := configs.Plan().Config()
			if got == nil && i == 0 || got != nil && got.Version == i {
				return
			}
			t.Errorf("before the commit of version %d: got %+v current", i+1, got)
		}
		fleettest.Publish(t, configs, fleettest.Draft(fmt.Sprint("http://target/", i)))
	}
}

func TestPublish_ClientDisconnects_NothingStored(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		store := &slow{DB: db, begun: make(chan struct{}), finish: make(chan struct{})}
		configs := fleettest.OpenPublisher(t, store, models.Tags{Epoch: "epoch"})
		ctx, leave := context.WithCancel(t.Context())
		outcome := make(chan error, 2)
		send := func(url string) {
			_, err := configs.Publish(ctx, fleettest.Draft(url))
			outcome <- err
		}
		go send("http://begun/")
		<-store.begun
		go send("http://waits/")
		synctest.Wait()
		leave()
		if err := <-outcome; !errors.Is(err, context.Canceled) {
			t.Errorf("the one that waited for its turn: got %v, want it given up", err)
		}
		close(store.finish)
		if err := <-outcome; err != nil {
			t.Errorf("the one that had begun: got %v, want it finished", err)
		}
		for range 20 {
			if _, err := configs.Publish(ctx, fleettest.Draft("http://late/")); !errors.Is(err, context.Canceled) {
				t.Errorf("one whose caller had disconnected before: got %v, want it given up", err)
			}
		}
		if got := configs.Plan().Config(); got == nil || got.URL != "http://begun/" || got.Version != 1 {
			t.Errorf("current: got %+v", got)
		}
	})
}

// leaving is a store that calls leave when a write begins.
type leaving struct {
	*sqlite.DB
	leave func()
}

func (l *leaving) Append(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) (*models.Plan, error) {
	l.leave()
	return l.DB.Append(ctx, rule)
}

func (l *leaving) SaveAgent(ctx context.Context, a models.Agent, entries ...models.Entry) (int64, error) {
	l.leave()
	return l.DB.SaveAgent(ctx, a, entries...)
}

func (l *leaving) DeleteAgents(ctx context.Context, ids []string, entry models.Entry) error {
	l.leave()
	return l.DB.DeleteAgents(ctx, ids, entry)
}

func (l *leaving) SavePresence(ctx context.Context, batch []database.Presence, entries ...models.Entry) error {
	l.leave()
	return l.DB.SavePresence(ctx, batch, entries...)
}

func (l *leaving) SaveReports(ctx context.Context, batch []database.Presence) error {
	l.leave()
	return l.DB.SaveReports(ctx, batch)
}

func (l *leaving) AppendAudit(ctx context.Context, entries ...models.Entry) error {
	l.leave()
	return l.DB.AppendAudit(ctx, entries...)
}

// A write that has begun is not broken off when its caller disconnects: others may
// wait for it too, and memory and store must not differ.
func TestWrites_CallerDisconnects_Finished(t *testing.T) {
	for name, write := range map[string]func(context.Context, *fleettest.Fleet, *registry.Agent, *audit.Log) error{
		"publish": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			_, err := f.Publisher.Publish(ctx, fleettest.Draft("http://b/"))
			return err
		},
		"freeze": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			return f.Publisher.Freeze(ctx, models.Freeze{Reason: "sale"}, fleettest.ByAdmin, always)
		},
		"resume": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(9))
			_, err := f.Publisher.Resume(ctx, fleettest.ByAdmin, func(string) bool { return true })
			return err
		},
		"reported versions": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(9))
			if err := f.Publisher.Run(ctx); err != nil {
				return err
			}
			r, err := observed(t.Context(), f.DB)
			if err == nil && r.Highest != 9 {
				return fmt.Errorf("the highest reported version: got %d, want 9", r.Highest)
			}
			return err
		},
		"register": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			_, _, _, err := f.Agents.Register(ctx, registry.Registration{Hostname: "h", Metadata: []byte("{}")})
			return err
		},
		"reset": func(ctx context.Context, f *fleettest.Fleet, live *registry.Agent, _ *audit.Log) error {
			return f.Agents.Reset(ctx, live.ID(), fleettest.ByAdmin)
		},
		"retry": func(ctx context.Context, f *fleettest.Fleet, live *registry.Agent, _ *audit.Log) error {
			return f.Agents.Retry(ctx, live.ID(), fleettest.ByAdmin)
		},
		"decommission": func(ctx context.Context, f *fleettest.Fleet, live *registry.Agent, _ *audit.Log) error {
			return f.Agents.Decommission(ctx, live.ID(), fleettest.ByAdmin)
		},
		"report": func(ctx context.Context, f *fleettest.Fleet, live *registry.Agent, _ *audit.Log) error {
			_, err := f.Agents.Report(ctx, live, wire.Attempt{Version: 1, Status: wire.Applied, At: models.Now()})
			return err
		},
		"refused logins": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, trail *audit.Log) error {
			trail.LoginFailed(fleettest.ByAdmin, "GET /api/v1/agents")
			_, _ = trail.Entries(ctx, "", 0, 1)
			if got := actions(t, f.DB); got[0] != models.ActionLoginFailed {
				return fmt.Errorf("the audit log has %v, want the refused login", got)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := &leaving{DB: fleettest.NewStore(t), leave: func() {}}
			log, _ := logtest.NewNullLogger()
			agents, _ := fleettest.OpenAgents(t, store)
			configs := publish.New(store, fleettest.LoadPlan(t, store), agents, publish.Options{Tags: store.Tags()}, log)
			f := &fleettest.Fleet{DB: store.DB, Agents: agents, Publisher: configs}
			fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
			live := f.Join(t, 1)[0]
			ctx, leave := context.WithCancel(t.Context())
			store.leave = leave
			if err := write(ctx, f, live, audit.New(store, log)); err != nil || ctx.Err() == nil {
				t.Errorf("got %v, want it finished", err)
			}
		})
	}
}

// A registration takes nothing of what a poll says while it is stored.
func TestRegister_PollMeanwhile_Kept(t *testing.T) {
	store := &leaving{DB: fleettest.NewStore(t), leave: func() {}}
	agents, _ := fleettest.OpenAgents(t, store)
	id, token := fleettest.Register(t, agents, "a1")
	live := fleettest.Login(t, agents, id, token)
	store.leave = func() {
		agents.Poll(live, models.Poll{
			At: models.Now(), Interval: time.Second, Runs: 9, Foreign: true, Newest: 1, Mismatch: true, PushError: "the broker is down",
		})
	}
	fleettest.Register(t, agents, "a1")
	got, err := agents.Agent("a1")
	if err != nil || got.Applied != 9 || got.Held != 2 || !got.Mismatch || got.PushError == "" {
		t.Errorf("got %+v, %v, want what the poll said", got, err)
	}
}

func TestPublish_StoreHangs_Busy(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		store := &slow{DB: db, begun: make(chan struct{}), finish: make(chan struct{})}
		configs := fleettest.OpenPublisher(t, store, models.Tags{Epoch: "epoch"})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = configs.Publish(context.Background(), fleettest.Draft("http://hangs/"))
		}()
		<-store.begun
		if _, err := configs.Publish(t.Context(), fleettest.Draft("http://waits/")); !errors.Is(err, database.ErrBusy) {
			t.Errorf("got %v, want ErrBusy", err)
		}
		close(store.finish)
		<-done
	})
}

func TestPublish_Concurrent_NoGaps(t *testing.T) {
	const publishers, each = 8, 10
	configs := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	var group sync.WaitGroup
	for p := range publishers {
		group.Go(func() {
			last := int64(0)
			for n := range each {
				outcome, err := configs.Publish(t.Context(), fleettest.Draft(fmt.Sprintf("http://target/%d/%d", p, n)))
				if err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				cfg := outcome.Config
				if current := configs.Plan().Config().Version; cfg.Version <= last || current < cfg.Version {
					t.Errorf("publish gave version %d after %d, current is %d", cfg.Version, last, current)
				}
				last = cfg.Version
			}
		})
	}
	group.Wait()
	history, err := configs.History(t.Context(), 1<<62, 1000)
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
		"and left nothing":     {false, 1},
		"and was stored still": {true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			store := &fleettest.Lossy{DB: fleettest.NewStore(t), Stores: true}
			configs := fleettest.OpenPublisher(t, store, models.Tags{Epoch: "epoch"})
			fleettest.Publish(t, configs, fleettest.Draft("http://a/"))
			before := configs.Plan().Config()
			store.Stores = row.stored
			store.Fails.Store(true)
			if _, err := configs.Publish(t.Context(), fleettest.Draft("http://b/")); !errors.Is(err, fleettest.ErrDisk) {
				t.Errorf("got %v, want the error of the disk", err)
			}
			if got := configs.Plan().Config(); got.Version != row.want || (got == before) == row.stored {
				t.Errorf("current: got version %d, want %d; the same one unless another was stored", got.Version, row.want)
			}
		})
	}
}

func TestPublishFirst_OnlyWhereNothingWasPublished(t *testing.T) {
	configs := fleettest.OpenPublisher(t, fleettest.NewStore(t), models.Tags{Epoch: "epoch"})
	if cfg, published, err := configs.PublishFirst(t.Context(), "http://a/"); err != nil || !published || cfg.Version != 1 {
		t.Errorf("on an empty store: got %v, %v, %v", cfg, published, err)
	}
	if cfg, published, err := configs.PublishFirst(t.Context(), "http://b/"); err != nil || published || cfg.URL != "http://a/" {
		t.Errorf("on a store with a version: got %v, %v, %v", cfg, published, err)
	}
}

// A restored store reaches the same version again, with other content or in
// another store: the ETag must differ wherever the bytes may.
func TestETag_DiffersIfTheResponseMay(t *testing.T) {
	content := models.Content{URL: "http://a/", PollInterval: fleettest.DefaultInterval}
	of := func(epoch, key string) models.Tags { return models.Tags{Epoch: epoch, Key: []byte(key)} }
	base := of("e1", "k1").Of(1, content)
	if again := of("e1", "k1").Of(1, content); again != base {
		t.Errorf("the same answer: got %s and %s", base, again)
	}
	for name, other := range map[string]string{
		"another epoch":    of("e2", "k1").Of(1, content),
		"another key":      of("e1", "k2").Of(1, content),
		"another version":  of("e1", "k1").Of(2, content),
		"another URL":      of("e1", "k1").Of(1, models.Content{URL: "http://b/", PollInterval: fleettest.DefaultInterval}),
		"to be probed":     of("e1", "k1").Of(1, models.Content{URL: "http://a/", PollInterval: fleettest.DefaultInterval, Probe: true}),
		"another interval": of("e1", "k1").Of(1, models.Content{URL: "http://a/", PollInterval: time.Second}),
	} {
		if other == base {
			t.Errorf("%s: got the same ETag %s", name, other)
		}
	}
}
