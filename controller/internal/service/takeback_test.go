package service_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

func actions(t *testing.T, db *database.DB) (actions []models.Action) {
	t.Helper()
	entries, err := db.Audit(t.Context(), "", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		actions = append(actions, e.Action)
	}
	return actions
}

func rollback(t *testing.T, f *fleet, version int64) *models.Config {
	t.Helper()
	outcome, err := f.configs.Rollback(t.Context(), version, models.Terms{Origin: byAdmin, Message: "why"})
	if err != nil {
		t.Fatalf("Rollback: %v", err)
	}
	return outcome.Config
}

func TestRollback_PublishesTheContentAgain(t *testing.T) {
	f := openFleet(t)
	interval, probe := 5*time.Second, true
	d := draft("http://a/")
	d.PollInterval, d.Probe = &interval, &probe
	first := publish(t, f.configs, d)
	interval, probe = 10*time.Second, false
	second := publish(t, f.configs, models.Draft{URL: draft("http://b/").URL, PollInterval: &interval, Probe: &probe})

	third := rollback(t, f, 1)
	if third.Content != first.Content || third.Version != 3 || third.RestoredFrom != 1 || third.Message != "why" || third.PublishedBy != "admin" || third.ETag == first.ETag {
		t.Errorf("got %+v, want the content of %+v as version 3", third, first)
	}
	fourth := rollback(t, f, 2)
	if fourth.Content != second.Content || fourth.Version != 4 || fourth.RestoredFrom != 2 {
		t.Errorf("the rollback rolled back: got %+v, want the content of %+v as version 4", fourth, second)
	}
	if again := rollback(t, f, 2); again.Version != 4 {
		t.Errorf("to what is current: got version %d, want no change", again.Version)
	}
	if _, err := f.configs.Rollback(t.Context(), 5, models.Terms{}); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("to a version that is none: got %v, want ErrNotFound", err)
	}
	if _, err := f.configs.Rollback(t.Context(), 1, models.Terms{Allowed: func(string) bool { return false }}); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	want := []models.Action{models.ActionRollback, models.ActionRollback, models.ActionPublish, models.ActionPublish}
	if diff := cmp.Diff(want, actions(t, f.db)); diff != "" {
		t.Errorf("the audit trail, -want +got:\n%s", diff)
	}
}

func TestPreview_StoresNothing(t *testing.T) {
	f := openFleet(t)
	f.join(t, 3)
	publish(t, f.configs, draft("http://a/"))
	publish(t, f.configs, draft("http://b/"))
	outcome, err := f.configs.PreviewPublish(draft("http://c/"))
	if err != nil || !outcome.Changed || outcome.Config.Version != 3 || outcome.Before.Version != 2 || outcome.Targets != 3 {
		t.Errorf("a publish: got %+v, %v", outcome, err)
	}
	outcome, err = f.configs.PreviewRollback(t.Context(), 1, models.Terms{})
	if err != nil || !outcome.Changed || outcome.Config.URL != "http://a/" || outcome.Targets != 3 {
		t.Errorf("a rollback: got %+v, %v", outcome, err)
	}
	if outcome, err = f.configs.PreviewPublish(draft("http://b/")); err != nil || outcome.Changed || outcome.Config.Version != 2 || outcome.Targets != 3 {
		t.Errorf("the same again: got %+v, %v", outcome, err)
	}
	if _, err = f.configs.PreviewPublish(models.Draft{Terms: models.Terms{Allowed: func(string) bool { return false }}}); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	if newest, err := f.db.Newest(t.Context()); err != nil || newest.Version != 2 || f.configs.Current().Version != 2 {
		t.Errorf("the store has version %+v, %v, want 2", newest, err)
	}
	if n := len(actions(t, f.db)); n != 3+2 {
		t.Errorf("got %d entries in the audit trail, want the registrations and the two publishes", n)
	}
}

func always(*models.Freeze) bool { return true }

func TestFreeze(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := openStore(t, path)
	f := newFleet(t, db, db)
	publish(t, f.configs, draft("http://a/"))
	if err := f.configs.Freeze(t.Context(), models.Freeze{Reason: "sale"}, byAdmin, always); err != nil {
		t.Fatal(err)
	}
	closeDB()
	db, _ = openStore(t, path)
	f = newFleet(t, db, db)

	var frozen *models.FrozenError
	if _, err := f.configs.Publish(t.Context(), draft("http://b/")); !errors.As(err, &frozen) || frozen.Freeze.Reason != "sale" || frozen.Freeze.By != "admin" {
		t.Errorf("a publish: got %v, want it refused with the reason", err)
	}
	if _, err := f.configs.Rollback(t.Context(), 1, models.Terms{}); !errors.As(err, &frozen) {
		t.Errorf("a rollback: got %v, want it refused", err)
	}
	if err := f.configs.Unfreeze(t.Context(), byAdmin, func(is *models.Freeze) bool { return is.Reason != "sale" }); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	d := draft("http://b/")
	d.Override = true
	if cfg := publish(t, f.configs, d); cfg.Version != 2 {
		t.Errorf("with override: got version %d, want 2", cfg.Version)
	}
	for range 2 { // the second changes nothing
		if err := f.configs.Unfreeze(t.Context(), byAdmin, always); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, f.configs, draft("http://c/"))
	want := []models.Action{models.ActionPublish, models.ActionUnfreeze, models.ActionPublish, models.ActionOverride, models.ActionFreeze, models.ActionPublish}
	if diff := cmp.Diff(want, actions(t, db)); diff != "" {
		t.Errorf("the audit trail, -want +got:\n%s", diff)
	}
}

func TestFreeze_EndsByItself(t *testing.T) {
	db := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, db, db)
		if err := f.configs.Freeze(t.Context(), models.Freeze{Reason: "lunch", Until: time.Now().Add(time.Hour)}, byAdmin, always); err != nil {
			t.Fatal(err)
		}
		if _, err := f.configs.Publish(t.Context(), draft("http://a/")); err == nil || f.configs.Frozen() == nil {
			t.Errorf("at once: got %v, want it frozen", err)
		}
		time.Sleep(time.Hour)
		publish(t, f.configs, draft("http://a/"))
		if f.configs.Frozen() != nil {
			t.Error("after its end it is still told of")
		}
	})
}

// A store that was restored knows versions up to 2; the fleet runs 9.
func TestConflict_HoldsUntilAnAdminDecides(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := openStore(t, path)
	f := newFleet(t, db, db)
	publish(t, f.configs, draft("http://a/"))
	publish(t, f.configs, draft("http://b/"))
	if f.configs.Witness(2 + 1_000_001) {
		t.Error("a version from nowhere is believed")
	}
	if !f.configs.Witness(1) || !f.configs.Witness(2) {
		t.Error("the store's own versions are not believed")
	}
	if _, conflict := f.configs.Conflict(); conflict {
		t.Error("there is a conflict over nothing")
	}
	if !f.configs.Witness(8) || !f.configs.Witness(9) || !f.configs.Witness(7) {
		t.Error("later versions are not believed")
	}
	run := func() {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.configs.Run(ctx) }()
		for {
			r, err := f.db.Reported(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if r.Highest == 9 {
				break
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	run()
	if last := f.logged.LastEntry(); last == nil || last.Data["highest_reported"] != int64(9) || last.Data["version"] != int64(2) {
		t.Errorf("logged %v, want the store's version and the highest", last)
	}
	closeDB()
	db, _ = openStore(t, path)
	f = newFleet(t, db, db)
	if highest, conflict := f.configs.Conflict(); !conflict || highest != 9 {
		t.Errorf("after a restart: got %d, %v, want a conflict up to 9", highest, conflict)
	}

	if _, err := f.configs.Resume(t.Context(), byAdmin, func(string) bool { return false }); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	allow := func(string) bool { return true }
	if resumed, err := f.configs.Resume(t.Context(), byAdmin, allow); !resumed || err != nil {
		t.Errorf("resume: got %v, %v", resumed, err)
	}
	if resumed, err := f.configs.Resume(t.Context(), byAdmin, allow); resumed || err != nil {
		t.Errorf("once more: got %v, %v, want nothing to resume", resumed, err)
	}
	f.configs.Witness(9) // an agent that has not followed yet
	if _, conflict := f.configs.Conflict(); conflict {
		t.Error("what was resumed is a conflict again")
	}
	f.configs.Witness(11)
	if highest, conflict := f.configs.Conflict(); !conflict || highest != 11 {
		t.Errorf("a later one still: got %d, %v, want a conflict up to 11", highest, conflict)
	}

	// To publish what is current is to decide, too.
	outcome, err := f.configs.Publish(t.Context(), draft("http://b/"))
	if err != nil || !outcome.Changed || outcome.Config.Version != 12 {
		t.Errorf("publish: got %+v, %v, want version 12", outcome, err)
	}
	if _, conflict := f.configs.Conflict(); conflict {
		t.Error("after the publish there is still a conflict")
	}
	if next := publish(t, f.configs, draft("http://c/")); next.Version != 13 {
		t.Errorf("the next: got version %d, want 13", next.Version)
	}
}

func TestVersionOf_AnETag(t *testing.T) {
	tag := models.ETagOf("epoch", 42, models.Content{URL: "http://a/"})
	for tag, want := range map[string]int64{
		tag: 42, "W/" + tag: 42, `"pXq3nYk0m1Zr7tQe5uWc2A"`: 0, `"12-q3nYk0m1Zr7tQe5uWc2"`: 0, `"-1-AAAAAAAAAAAAAAAAAAAAAA"`: 0, "*": 0, "": 0, `"x-AAAAAAAAAAAAAAAAAAAAAA"`: 0,
	} {
		if got := models.VersionOf(tag); got != want {
			t.Errorf("%s: got %d, want %d", tag, got, want)
		}
	}
}
