package service_test

import (
	"errors"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
)

// The rules decide on what the store has, also where another wrote to it since.
func TestWrites_StoreChangedByAnother_DecideOnTheStore(t *testing.T) {
	f := openFleet(t)
	log, _ := logtest.NewNullLogger()
	other := service.NewConfigs(f.db, loadPlan(t, f.db), nobody{}, service.ConfigOptions{Tags: f.db.Tags()}, log)
	is := func(etag string) func(string) bool { return func(current string) bool { return current == etag } }

	first := publish(t, f.configs, draft("http://a/"))
	second := publish(t, other, draft("http://b/"))
	if second.Version != 2 || second.RestoredFrom != 0 {
		t.Errorf("the other's publish: got %+v, want version 2", second)
	}
	stale := draft("http://c/")
	stale.Allowed = is(first.ETag)
	if _, err := f.configs.Publish(t.Context(), stale); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("a publish with the ETag of before: got %v, want ErrPrecondition", err)
	}
	if outcome, err := f.configs.Publish(t.Context(), draft("http://b/")); err != nil || outcome.Changed || outcome.Config.Version != 2 {
		t.Errorf("a publish of the other's content: got %+v, %v, want no change", outcome, err)
	}
	if got := f.configs.Plan().Version(); got != 2 {
		t.Errorf("after it: got version %d in memory, want 2", got)
	}

	if err := other.Freeze(t.Context(), models.Freeze{Reason: "sale"}, byAdmin, always); err != nil {
		t.Fatal(err)
	}
	var frozen *models.FrozenError
	if _, err := f.configs.Publish(t.Context(), draft("http://c/")); !errors.As(err, &frozen) {
		t.Errorf("a publish while the other's freeze holds: got %v, want a FrozenError", err)
	}
	if _, err := f.configs.PreviewPublish(t.Context(), draft("http://c/")); !errors.As(err, &frozen) {
		t.Errorf("a preview: got %v, want a FrozenError", err)
	}
	never := func(f *models.Freeze) bool { return f == nil }
	if err := f.configs.Unfreeze(t.Context(), byAdmin, never); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("unfreeze if there is no freeze: got %v, want ErrPrecondition", err)
	}
	if err := f.configs.Unfreeze(t.Context(), byAdmin, always); err != nil {
		t.Fatal(err)
	}
	third := publish(t, other, draft("http://c/"))

	resume := func() error {
		_, err := f.configs.Resume(t.Context(), byAdmin, is(second.ETag))
		return err
	}
	if err := resume(); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("a resume with the ETag of before: got %v, want ErrPrecondition", err)
	}
	if third.Version != 3 {
		t.Errorf("the other's publish after the freeze: got version %d, want 3", third.Version)
	}
	stored, err := f.db.Plan(t.Context())
	if err != nil || stored.Revision != 5 {
		t.Errorf("got revision %d, %v, want one for each of 5 changes", stored.Revision, err)
	}
}
