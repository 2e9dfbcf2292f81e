package publish_test

import (
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

func always(*models.Freeze) bool { return true }

func TestFreeze_Restart_StillInForce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	f := fleettest.New(t, db, db)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	if err := f.Publisher.Freeze(t.Context(), models.Freeze{Reason: "sale"}, fleettest.ByAdmin, always); err != nil {
		t.Fatal(err)
	}
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	f = fleettest.New(t, db, db)

	var frozen *models.FrozenError
	if _, err := f.Publisher.Publish(t.Context(), fleettest.Draft("http://b/")); !errors.As(err, &frozen) ||
		frozen.Freeze.Reason != "sale" || frozen.Freeze.By != "admin" {
		t.Errorf("a publish: got %v, want a FrozenError with the reason", err)
	}
	if _, err := f.Publisher.Rollback(t.Context(), 1, models.Terms{}); !errors.As(err, &frozen) {
		t.Errorf("a rollback: got %v, want a FrozenError", err)
	}
	if _, err := f.Publisher.Unfreeze(
		t.Context(), fleettest.ByAdmin, func(is *models.Freeze) bool { return is.Reason != "sale" },
	); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	d := fleettest.Draft("http://b/")
	d.Override = true
	if cfg := fleettest.Publish(t, f.Publisher, d); cfg.Version != 2 {
		t.Errorf("with override: got version %d, want 2", cfg.Version)
	}
	for i := range 2 { // the second changes nothing
		lifted, err := f.Publisher.Unfreeze(t.Context(), fleettest.ByAdmin, always)
		if err != nil || lifted != (i == 0) {
			t.Fatalf("unfreeze %d: got %v, %v, want lifted only by the first", i, lifted, err)
		}
	}
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://c/"))
	want := []models.Action{
		models.ActionPublish, models.ActionUnfreeze, models.ActionPublish, models.ActionOverride, models.ActionFreeze,
		models.ActionPublish,
	}
	if diff := cmp.Diff(want, fleettest.Actions(t, db)); diff != "" {
		t.Errorf("audit log, -want +got:\n%s", diff)
	}
}

func TestFreeze_UntilReached_Ends(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		f := fleettest.New(t, db, db)
		if err := f.Publisher.Freeze(
			t.Context(), models.Freeze{Reason: "lunch", Until: time.Now().Add(time.Hour)}, fleettest.ByAdmin, always,
		); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Publisher.Publish(t.Context(), fleettest.Draft("http://a/")); err == nil ||
			f.Publisher.Plan().FrozenAt(time.Now()) == nil {
			t.Errorf("immediately: got %v, want it frozen", err)
		}
		time.Sleep(time.Hour)
		fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
		if f.Publisher.Plan().FrozenAt(time.Now()) != nil {
			t.Error("after its end: still in force")
		}
	})
}
