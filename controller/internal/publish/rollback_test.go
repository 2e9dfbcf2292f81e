package publish_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

func rollback(t *testing.T, f *fleettest.Fleet, version int64) *models.Config {
	t.Helper()
	outcome, err := f.Publisher.Rollback(t.Context(), version, models.Terms{Origin: fleettest.ByAdmin, Message: "why"})
	if err != nil {
		t.Fatalf("Rollback: %v", err)
	}
	return outcome.Config
}

func TestRollback_PublishesOldContent(t *testing.T) {
	f := fleettest.Open(t)
	interval, probe := 5*time.Second, true
	d := fleettest.Draft("http://a/")
	d.PollInterval, d.Probe = &interval, &probe
	first := fleettest.Publish(t, f.Publisher, d)
	interval, probe = 10*time.Second, false
	second := fleettest.Publish(
		t, f.Publisher, models.Draft{URL: fleettest.Draft("http://b/").URL, PollInterval: &interval, Probe: &probe},
	)

	third := rollback(t, f, 1)
	if third.Content != first.Content || third.Version != 3 || third.RestoredFrom != 1 || third.Message != "why" ||
		third.PublishedBy != "admin" || third.ETag == first.ETag {
		t.Errorf("got %+v, want the content of %+v as version 3", third, first)
	}
	fourth := rollback(t, f, 2)
	if fourth.Content != second.Content || fourth.Version != 4 || fourth.RestoredFrom != 2 {
		t.Errorf("the rollback rolled back: got %+v, want the content of %+v as version 4", fourth, second)
	}
	if again := rollback(t, f, 2); again.Version != 4 {
		t.Errorf("to the current version: got version %d, want no change", again.Version)
	}
	if _, err := f.Publisher.Rollback(t.Context(), 5, models.Terms{}); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("to a version that is none: got %v, want ErrNotFound", err)
	}
	if _, err := f.Publisher.Rollback(
		t.Context(), 1, models.Terms{Allowed: func(string) bool { return false }},
	); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	want := []models.Action{models.ActionRollback, models.ActionRollback, models.ActionPublish, models.ActionPublish}
	if diff := cmp.Diff(want, fleettest.Actions(t, f.DB)); diff != "" {
		t.Errorf("audit log, -want +got:\n%s", diff)
	}
}

func TestPreview_NothingStored(t *testing.T) {
	f := fleettest.Open(t)
	f.Join(t, 3)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://b/"))
	outcome, err := f.Publisher.PreviewPublish(t.Context(), fleettest.Draft("http://c/"))
	if err != nil || !outcome.Changed || outcome.Config.Version != 3 || outcome.Before.Version != 2 ||
		outcome.Targets != 3 {
		t.Errorf("a publish: got %+v, %v", outcome, err)
	}
	outcome, err = f.Publisher.PreviewRollback(t.Context(), 1, models.Terms{})
	if err != nil || !outcome.Changed || outcome.Config.URL != "http://a/" || outcome.Targets != 3 {
		t.Errorf("a rollback: got %+v, %v", outcome, err)
	}
	if outcome, err = f.Publisher.PreviewPublish(t.Context(), fleettest.Draft("http://b/")); err != nil ||
		outcome.Changed || outcome.Config.Version != 2 || outcome.Targets != 3 {
		t.Errorf("the same content: got %+v, %v", outcome, err)
	}
	if _, err = f.Publisher.PreviewPublish(
		t.Context(), models.Draft{Terms: models.Terms{Allowed: func(string) bool { return false }}},
	); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	if stored, err := f.DB.Plan(t.Context()); err != nil || stored.Version() != 2 ||
		f.Publisher.Plan().Config().Version != 2 {
		t.Errorf("the stored version: got %+v, %v, want 2", stored, err)
	}
	if n := len(fleettest.Actions(t, f.DB)); n != 3+2 {
		t.Errorf("got %d audit log entries, want the registrations and the two publishes", n)
	}
}
