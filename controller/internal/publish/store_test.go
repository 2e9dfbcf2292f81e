package publish_test

import (
	"errors"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
)

// The rules decide on what the store has, also where another wrote to it since.
func TestWrites_StoreChangedByAnother_DecideOnTheStore(t *testing.T) {
	f := fleettest.Open(t)
	log, _ := logtest.NewNullLogger()
	other := publish.New(f.DB, fleettest.LoadPlan(t, f.DB), fleettest.Nobody{}, publish.Options{Tags: f.DB.Tags()}, log)
	is := func(etag string) func(string) bool { return func(current string) bool { return current == etag } }

	first := fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	second := fleettest.Publish(t, other, fleettest.Draft("http://b/"))
	if second.Version != 2 || second.RestoredFrom != 0 {
		t.Errorf("the other's publish: got %+v, want version 2", second)
	}
	stale := fleettest.Draft("http://c/")
	stale.Allowed = is(first.ETag)
	if _, err := f.Publisher.Publish(t.Context(), stale); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("a publish with the ETag of before: got %v, want ErrPrecondition", err)
	}
	if outcome, err := f.Publisher.Publish(t.Context(), fleettest.Draft("http://b/")); err != nil || outcome.Changed || outcome.Config.Version != 2 {
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
		t.Errorf("a publish while the other's freeze holds: got %v, want a FrozenError", err)
	}
	if _, err := f.Publisher.PreviewPublish(t.Context(), fleettest.Draft("http://c/")); !errors.As(err, &frozen) {
		t.Errorf("a preview: got %v, want a FrozenError", err)
	}
	never := func(f *models.Freeze) bool { return f == nil }
	if err := f.Publisher.Unfreeze(t.Context(), fleettest.ByAdmin, never); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("unfreeze if there is no freeze: got %v, want ErrPrecondition", err)
	}
	if err := f.Publisher.Unfreeze(t.Context(), fleettest.ByAdmin, always); err != nil {
		t.Fatal(err)
	}
	third := fleettest.Publish(t, other, fleettest.Draft("http://c/"))

	resume := func() error {
		_, err := f.Publisher.Resume(t.Context(), fleettest.ByAdmin, is(second.ETag))
		return err
	}
	if err := resume(); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("a resume with the ETag of before: got %v, want ErrPrecondition", err)
	}
	if third.Version != 3 {
		t.Errorf("the other's publish after the freeze: got version %d, want 3", third.Version)
	}
	stored, err := f.DB.Plan(t.Context())
	if err != nil || stored.Revision != 5 {
		t.Errorf("got revision %d, %v, want one for each of 5 changes", stored.Revision, err)
	}
}
