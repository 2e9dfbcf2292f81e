package databasetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func (d Driver) tags(t *testing.T) {
	store := d.Open(t)
	first := store.Tags()
	if first.Epoch == "" || len(first.Key) != models.KeyBytes {
		t.Errorf("got %+v, want an epoch, and a key of %d bytes", first, models.KeyBytes)
	}
	equal(t, "tags after a restart", first, d.Reopen(t, store).Tags())
	other := d.Open(t).Tags()
	if other.Epoch == first.Epoch {
		t.Errorf("two stores share the epoch %q", other.Epoch)
	}
	if bytes.Equal(other.Key, first.Key) {
		t.Errorf("two stores share the key %x", other.Key)
	}
}

func (d Driver) appendDurable(t *testing.T) {
	store := d.Open(t)
	publish(t, store, "http://a/", "http://b/")
	must(t, Append(t.Context(), store, func(*models.Plan) (*models.Change, error) {
		cfg := Config(10, "http://a/")
		cfg.RestoredFrom, cfg.Probe = 1, true
		return &models.Change{
			Config:   cfg,
			Observed: &models.Observed{Highest: 9, ResumedBelow: 8},
			Freeze:   &models.Freeze{Reason: "sale", Until: cfg.PublishedAt, By: "admin", At: cfg.PublishedAt},
		}, nil
	}))
	before := read(t, store)
	want := []*models.Config{Config(10, "http://a/"), Config(2, "http://b/"), Config(1, "http://a/")}
	want[0].RestoredFrom, want[0].Probe = 1, true
	store = d.Reopen(t, store)
	got, err := store.Configs(t.Context(), 1<<62, 10)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("history after a restart (%v), -want +got:\n%s", err, diff)
	}
	equal(t, "after a restart", before, read(t, store))
	one, err := store.Config(t.Context(), 1)
	if diff := cmp.Diff(want[2], one); err != nil || diff != "" {
		t.Errorf("version 1 (%v), -want +got:\n%s", err, diff)
	}
	if _, err := store.Config(t.Context(), 3); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("version 3: got %v, want ErrNotFound", err)
	}
}

func (d Driver) appendRejected(t *testing.T) {
	store := d.Open(t)
	rejection := errors.New("no")
	err := Append(t.Context(), store, func(*models.Plan) (*models.Change, error) {
		return &models.Change{Config: Config(1, "http://a/")}, rejection
	})
	if !errors.Is(err, rejection) {
		t.Errorf("got %v, want the rejection itself", err)
	}
	nothing := func(*models.Plan) (*models.Change, error) { return nil, nil }
	if err := Append(t.Context(), store, nothing); err != nil {
		t.Errorf("the rule returned nothing: got %v", err)
	}
	if _, err := Newest(t.Context(), store); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("newest: got %v, want ErrNotFound", err)
	}
	equal(t, "after both", contents{Plan: &models.Plan{}}, read(t, store))
}

func (d Driver) appendCanceled(t *testing.T) {
	store := d.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := Append(ctx, store, func(*models.Plan) (*models.Change, error) {
		cancel()
		return &models.Change{Config: Config(1, "http://a/")}, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	equal(t, "after it", contents{Plan: &models.Plan{}}, read(t, store))
}

// Each transaction reads what the one before it has stored.
func (d Driver) appendConcurrent(t *testing.T) {
	store := d.Open(t)
	const writers, each = 8, 5
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for range each {
				if err := Publish(store, "http://a/"); err != nil {
					t.Errorf("publish: %v", err)
				}
			}
		})
	}
	group.Wait()
	plan, err := store.Plan(t.Context())
	if err != nil || plan.Version() != writers*each || plan.Revision != writers*each {
		t.Errorf("got %+v, %v, want version and revision %d", plan, err, writers*each)
	}
}

// Reads return what was committed, and do not wait for a write.
func (d Driver) appendReads(t *testing.T) {
	store := d.Open(t)
	publish(t, store, "http://a/")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // ends only if a read waits
	defer cancel()
	if err := Append(t.Context(), store, func(*models.Plan) (*models.Change, error) {
		for name, read := range map[string]func() error{
			"plan":    func() error { _, err := store.Plan(ctx); return err },
			"config":  func() error { _, err := store.Config(ctx, 1); return err },
			"configs": func() error { _, err := store.Configs(ctx, 2, 1); return err },
			"figures": func() error { _, _, err := store.Figures(ctx, 1); return err },
			"audit":   func() error { _, err := store.Audit(ctx, "", 0, 1); return err },
			"agents":  func() error { _, err := store.Agents(ctx); return err },
			"ping":    func() error { return store.Ping(ctx) },
		} {
			if err := read(); err != nil && !errors.Is(err, models.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
		return &models.Change{Config: Config(2, "http://b/")}, nil
	}); err != nil {
		t.Fatal(err)
	}
}

func (d Driver) appendGaps(t *testing.T) {
	store := d.Open(t)
	above := func(version, above int64) error {
		return Append(t.Context(), store, func(plan *models.Plan) (*models.Change, error) {
			return &models.Change{
				Config:   Config(version, fmt.Sprint("http://target/", version)),
				Observed: &models.Observed{Highest: max(above, plan.Observed.Highest)},
			}, nil
		})
	}
	for _, row := range []struct {
		version, above int64
		want           bool
	}{{1, 0, true}, {3, 0, false}, {10, 9, true}, {12, 0, false}, {11, 0, true}, {12, 9, true}} {
		if err := above(row.version, row.above); (err == nil) != row.want {
			t.Errorf("version %d above %d: got %v, want stored %v", row.version, row.above, err, row.want)
		}
	}
	if plan, err := store.Plan(t.Context()); err != nil || plan.Observed.Highest != 9 {
		t.Errorf("got %+v, %v, want 9 kept", plan, err)
	}
}

func (d Driver) revisions(t *testing.T) {
	store := d.Open(t)
	at := time.Date(2026, 11, 24, 2, 0, 0, 123456000, time.UTC)
	for i, change := range []*models.Change{
		{Config: Config(1, "http://a/")},
		{Freeze: &models.Freeze{Reason: "sale", By: "admin", At: at}},
		{Freeze: &models.Freeze{Reason: "outage", Until: at, By: "admin", At: at}},
		{Unfreeze: true},
		{Observed: &models.Observed{Highest: 9, ResumedBelow: 9}},
	} {
		var want *models.Plan
		got, err := store.Append(t.Context(), func(plan *models.Plan) (_ *models.Change, err error) {
			want, err = plan.Apply(change)
			return change, err
		})
		must(t, err)
		equal(t, fmt.Sprintf("change %d: the plan that Append returned", i), want, got)
		stored, err := store.Plan(t.Context())
		must(t, err)
		equal(t, fmt.Sprintf("change %d: the stored plan", i), want, stored)
		if stored.Revision != int64(i+1) {
			t.Errorf("change %d: got revision %d, want %d", i, stored.Revision, i+1)
		}
	}
	before, err := store.Plan(t.Context())
	must(t, err)
	got, err := store.Append(t.Context(), func(*models.Plan) (*models.Change, error) { return nil, nil })
	must(t, err)
	equal(t, "the plan after no change", before, got)
	register(t, store, "a1")
	must(t, store.AppendAudit(t.Context(), models.Entry{Action: models.ActionRegister}))
	got, err = store.Plan(t.Context())
	must(t, err)
	equal(t, "the plan after a registration", before, got)
}

// The parts of a plan are of the same revision.
func (d Driver) planConsistent(t *testing.T) {
	store := d.Open(t)
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		defer close(stop)
		for range 50 {
			if err := Append(t.Context(), store, func(plan *models.Plan) (*models.Change, error) {
				version := plan.Version() + 1
				return &models.Change{
					Config: Config(version, "http://a/"),
					Freeze: &models.Freeze{Reason: fmt.Sprint(version)},
				}, nil
			}); err != nil {
				t.Errorf("append: %v", err)
			}
		}
	})
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		plan, err := store.Plan(t.Context())
		if err != nil {
			t.Errorf("plan: %v", err)
			break
		}
		if plan.Revision == 0 && plan.Newest == nil && plan.Freeze == nil {
			continue
		}
		if plan.Freeze == nil || plan.Version() != plan.Revision || plan.Freeze.Reason != fmt.Sprint(plan.Revision) {
			t.Errorf("got revision %d, version %d and freeze %+v", plan.Revision, plan.Version(), plan.Freeze)
		}
	}
	group.Wait()
}

func (d Driver) configsAppendOnly(t *testing.T) {
	store := d.Open(t)
	publish(t, store, "http://a/")
	const insert = `INSERT INTO configs
		(version, url, poll_interval_seconds, etag, message, published_by, published_at, source_ip) VALUES `
	for _, statement := range []string{
		`UPDATE configs SET url = 'http://evil/'`,
		`DELETE FROM configs`,
		insert + `(7, 'http://gap/', 30, '"x"', '', '', 0, '')`,
		insert + `(2, 'http://text/', 'often', '"x"', '', '', 0, '')`,
	} {
		if err := d.Exec(t, store, statement); err == nil {
			t.Errorf("%s: got no error", statement)
		}
	}
	if newest, err := Newest(t.Context(), store); err != nil || !cmp.Equal(newest, Config(1, "http://a/")) {
		t.Errorf("newest: got %+v, %v, want version 1 as it was", newest, err)
	}
	if err := d.Exec(t, store, insert+`(2, 'http://b/', 30, '"x"', '', '', 0, '')`); err != nil {
		t.Errorf("the next version: %v", err)
	}
}

func (d Driver) configPages(t *testing.T) {
	store := d.Open(t)
	publish(t, store, "http://a/", "http://b/", "http://c/")
	for _, row := range []struct {
		before int64
		limit  int
		want   []int64
	}{
		{1 << 62, 10, []int64{3, 2, 1}}, {1 << 62, 2, []int64{3, 2}},
		{2, 10, []int64{1}}, {3, 1, []int64{2}}, {1, 10, nil},
	} {
		page, err := store.Configs(t.Context(), row.before, row.limit)
		must(t, err)
		var versions []int64
		for _, cfg := range page {
			versions = append(versions, cfg.Version)
		}
		equal(t, fmt.Sprintf("up to %d versions before %d", row.limit, row.before), row.want, versions)
	}
}

func (d Driver) figures(t *testing.T) {
	store := d.Open(t)
	at := time.Date(2026, 11, 24, 2, 0, 0, 123456000, time.UTC)
	want := models.Figures{
		Targets: 9, Applied: 4, Failed: 2, Pending: 2, Offline: 1, Degraded: 3, FirstAppliedAt: at,
		Latency:  models.Latency{Agents: 4, P50: 1, P90: time.Millisecond, P99: time.Second, Max: time.Hour},
		Failures: []wire.RolloutFailure{{Error: "no \"room\" ✓", Count: 2, SampleAgents: []string{"a1", "a2"}}},
		Stragglers: []models.Straggler{
			{ID: "a3", Hostname: "web", Status: wire.Online, Applied: 7, LastPoll: at},
			{ID: "a4", Status: wire.Offline},
		},
	}
	publish(t, store, "http://a/")
	must(t, Append(t.Context(), store, func(*models.Plan) (*models.Change, error) {
		return &models.Change{
			Config: Config(10, "http://b/"), Figures: &want, Observed: &models.Observed{Highest: 9},
		}, nil
	}))
	store = d.Reopen(t, store)
	got, by, err := store.Figures(t.Context(), 1)
	must(t, err)
	equal(t, "figures of version 1", want, got)
	if by != 10 {
		t.Errorf("version 1: got it superseded by %d, want 10", by)
	}
	for _, version := range []int64{2, 10} {
		if _, _, err := store.Figures(t.Context(), version); !errors.Is(err, models.ErrNotFound) {
			t.Errorf("version %d: got %v, want ErrNotFound", version, err)
		}
	}
}
