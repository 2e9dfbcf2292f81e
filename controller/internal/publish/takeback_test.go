package publish_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func actions(t *testing.T, db *sqlite.DB) (actions []models.Action) {
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
	second := fleettest.Publish(t, f.Publisher, models.Draft{URL: fleettest.Draft("http://b/").URL, PollInterval: &interval, Probe: &probe})

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
	if _, err := f.Publisher.Rollback(t.Context(), 5, models.Terms{}); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("to a version that is none: got %v, want ErrNotFound", err)
	}
	if _, err := f.Publisher.Rollback(t.Context(), 1, models.Terms{Allowed: func(string) bool { return false }}); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	want := []models.Action{models.ActionRollback, models.ActionRollback, models.ActionPublish, models.ActionPublish}
	if diff := cmp.Diff(want, actions(t, f.DB)); diff != "" {
		t.Errorf("the audit trail, -want +got:\n%s", diff)
	}
}

func TestPreview_NothingStored(t *testing.T) {
	f := fleettest.Open(t)
	f.Join(t, 3)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://b/"))
	outcome, err := f.Publisher.PreviewPublish(t.Context(), fleettest.Draft("http://c/"))
	if err != nil || !outcome.Changed || outcome.Config.Version != 3 || outcome.Before.Version != 2 || outcome.Targets != 3 {
		t.Errorf("a publish: got %+v, %v", outcome, err)
	}
	outcome, err = f.Publisher.PreviewRollback(t.Context(), 1, models.Terms{})
	if err != nil || !outcome.Changed || outcome.Config.URL != "http://a/" || outcome.Targets != 3 {
		t.Errorf("a rollback: got %+v, %v", outcome, err)
	}
	if outcome, err = f.Publisher.PreviewPublish(t.Context(), fleettest.Draft("http://b/")); err != nil || outcome.Changed || outcome.Config.Version != 2 || outcome.Targets != 3 {
		t.Errorf("the same again: got %+v, %v", outcome, err)
	}
	if _, err = f.Publisher.PreviewPublish(t.Context(), models.Draft{Terms: models.Terms{Allowed: func(string) bool { return false }}}); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	if stored, err := f.DB.Plan(t.Context()); err != nil || stored.Version() != 2 || f.Publisher.Plan().Config().Version != 2 {
		t.Errorf("the store has version %+v, %v, want 2", stored, err)
	}
	if n := len(actions(t, f.DB)); n != 3+2 {
		t.Errorf("got %d entries in the audit trail, want the registrations and the two publishes", n)
	}
}

func always(*models.Freeze) bool { return true }

func TestFreeze(t *testing.T) {
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
	if _, err := f.Publisher.Publish(t.Context(), fleettest.Draft("http://b/")); !errors.As(err, &frozen) || frozen.Freeze.Reason != "sale" || frozen.Freeze.By != "admin" {
		t.Errorf("a publish: got %v, want it refused with the reason", err)
	}
	if _, err := f.Publisher.Rollback(t.Context(), 1, models.Terms{}); !errors.As(err, &frozen) {
		t.Errorf("a rollback: got %v, want it refused", err)
	}
	if err := f.Publisher.Unfreeze(t.Context(), fleettest.ByAdmin, func(is *models.Freeze) bool { return is.Reason != "sale" }); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	d := fleettest.Draft("http://b/")
	d.Override = true
	if cfg := fleettest.Publish(t, f.Publisher, d); cfg.Version != 2 {
		t.Errorf("with override: got version %d, want 2", cfg.Version)
	}
	for range 2 { // the second changes nothing
		if err := f.Publisher.Unfreeze(t.Context(), fleettest.ByAdmin, always); err != nil {
			t.Fatal(err)
		}
	}
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://c/"))
	want := []models.Action{models.ActionPublish, models.ActionUnfreeze, models.ActionPublish, models.ActionOverride, models.ActionFreeze, models.ActionPublish}
	if diff := cmp.Diff(want, actions(t, db)); diff != "" {
		t.Errorf("the audit trail, -want +got:\n%s", diff)
	}
}

func TestFreeze_EndsByItself(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		f := fleettest.New(t, db, db)
		if err := f.Publisher.Freeze(t.Context(), models.Freeze{Reason: "lunch", Until: time.Now().Add(time.Hour)}, fleettest.ByAdmin, always); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Publisher.Publish(t.Context(), fleettest.Draft("http://a/")); err == nil || f.Publisher.Plan().FrozenAt(time.Now()) == nil {
			t.Errorf("at once: got %v, want it frozen", err)
		}
		time.Sleep(time.Hour)
		fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
		if f.Publisher.Plan().FrozenAt(time.Now()) != nil {
			t.Error("after its end it is still told of")
		}
	})
}

// A store that was restored knows versions up to 2; the fleet runs 9.
func TestConflict_HoldsUntilAnAdminDecides(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	f := fleettest.New(t, db, db)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://b/"))
	if f.Publisher.ObserveReport(2+1_000_001, "") {
		t.Error("a version from nowhere is believed")
	}
	if _, ahead, _ := f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(2)); ahead != 0 || !f.Publisher.ObserveReport(1, "") || !f.Publisher.ObserveReport(2, f.Later(2)) {
		t.Error("the store's own versions are not believed")
	}
	if f.Publisher.Plan().Conflict() {
		t.Error("there is a conflict over nothing")
	}
	for _, version := range []int64{8, 9, 7} {
		if _, ahead, foreign := f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(version)); ahead != version || foreign {
			t.Errorf("version %d: got %d, foreign %v, want it believed", version, ahead, foreign)
		}
	}
	run := func() {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Publisher.Run(ctx) }()
		for {
			r, err := observed(t.Context(), f.DB)
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
	if last := f.Logged.LastEntry(); last == nil || last.Data["highest_reported"] != int64(9) || last.Data["version"] != int64(2) {
		t.Errorf("logged %v, want the store's version and the highest", last)
	}
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	f = fleettest.New(t, db, db)
	if highest, conflict := conflictOf(f); !conflict || highest != 9 {
		t.Errorf("after a restart: got %d, %v, want a conflict up to 9", highest, conflict)
	}

	if _, err := f.Publisher.Resume(t.Context(), fleettest.ByAdmin, func(string) bool { return false }); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	allow := func(string) bool { return true }
	if resumed, err := f.Publisher.Resume(t.Context(), fleettest.ByAdmin, allow); !resumed || err != nil {
		t.Errorf("resume: got %v, %v", resumed, err)
	}
	if resumed, err := f.Publisher.Resume(t.Context(), fleettest.ByAdmin, allow); resumed || err != nil {
		t.Errorf("once more: got %v, %v, want nothing to resume", resumed, err)
	}
	f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(9)) // an agent that has not followed yet
	if f.Publisher.Plan().Conflict() {
		t.Error("what was resumed is a conflict again")
	}
	f.Publisher.ObserveReport(11, f.Later(11))
	if highest, conflict := conflictOf(f); !conflict || highest != 11 {
		t.Errorf("a later one still: got %d, %v, want a conflict up to 11", highest, conflict)
	}

	// To publish what is current is to decide, too.
	outcome, err := f.Publisher.Publish(t.Context(), fleettest.Draft("http://b/"))
	if err != nil || !outcome.Changed || outcome.Config.Version != 12 {
		t.Errorf("publish: got %+v, %v, want version 12", outcome, err)
	}
	if f.Publisher.Plan().Conflict() {
		t.Error("after the publish there is still a conflict")
	}
	if next := fleettest.Publish(t, f.Publisher, fleettest.Draft("http://c/")); next.Version != 13 {
		t.Errorf("the next: got version %d, want 13", next.Version)
	}
}

// What agents reported is stored as soon as the store can take it.
func TestConflict_StoreFails_SavedLater(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		store := &fleettest.Lossy{DB: db}
		store.Fails.Store(true)
		configs := fleettest.OpenPublisher(t, store, db.Tags())
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- configs.Run(ctx) }()
		configs.ObserveTag(configs.Plan(), db.Tags().Of(9, models.Content{URL: "http://later/"}))
		time.Sleep(2 * registry.FlushInterval)
		synctest.Wait()
		store.Fails.Store(false)
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		if r, err := observed(t.Context(), db); err != nil || r.Highest != 9 {
			t.Errorf("when the store can be written again: got %+v, %v, want up to 9", r, err)
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// keeps reports whether an agent keeps version 9, which the store did not make.
func keeps(f *fleettest.Fleet, live *registry.Agent) bool {
	plan := f.Publisher.Plan()
	traits := live.Traits(true, plan.Version())
	traits.Runs = 9
	release, _ := plan.For(traits)
	return release == nil
}

// conflictOf is whether there is a conflict, and the highest observed version.
func conflictOf(f *fleettest.Fleet) (highest int64, conflict bool) {
	plan := f.Publisher.Plan()
	return plan.Observed.Highest, plan.Conflict()
}

// What this store did not make moves none of the fleet's numbers.
func TestObserve_ForeignTag_NoConflict(t *testing.T) {
	f := fleettest.Open(t)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	other := f.DB.Tags()
	other.Epoch = "other"
	for name, tag := range map[string]string{
		"forged":                  `"900001-AAAAAAAAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAAAAAAAA"`,
		"without a keyed hash":    `"900001-AAAAAAAAAAAAAAAAAAAAAA"`,
		"of another store":        other.Of(900_001, models.Content{URL: "http://later/"}),
		"of another version":      strings.Replace(f.Later(9), `"9-`, `"900001-`, 1),
		"above what can be there": strings.Replace(f.Later(9), `"9-`, `"9000000000000-`, 1),
	} {
		_, ahead, foreign := f.Publisher.ObserveTag(f.Publisher.Plan(), tag)
		if ahead != models.VersionOf(tag) || ahead < 900_001 || !foreign {
			t.Errorf("%s: got %d, %v, want its version, foreign", name, ahead, foreign)
		}
		f.Publisher.ObserveReport(900_001, tag)
	}
	f.Publisher.ObserveReport(900_001, "")
	f.Publisher.ObserveReport(900_001, f.Later(9)) // of another version than the report
	if highest, conflict := conflictOf(f); conflict || highest != 0 {
		t.Errorf("got a conflict up to %d, want none", highest)
	}
	if cfg := fleettest.Publish(t, f.Publisher, fleettest.Draft("http://b/")); cfg.Version != 2 {
		t.Errorf("the next version: got %d, want 2", cfg.Version)
	}
}

func TestTags_Verify(t *testing.T) {
	tags := models.Tags{Epoch: "epoch", Key: []byte("key"), UnkeyedUpTo: 41}
	tag := tags.Of(42, models.Content{URL: "http://a/"})
	bare := strings.Trim(tag, `"`)
	other := tags
	other.Key = []byte("another")
	for tag, want := range map[string]struct {
		version  int64
		verified bool
	}{
		tag: {42, true}, "W/" + tag: {42, true}, `"` + bare + `-gzip"`: {42, true}, `W/"` + bare + `--gzip"`: {42, true}, `"` + bare + `;br"`: {42, true},
		`"` + bare + `-more"`: {0, false}, `"` + bare + `gzip"`: {0, false},
		other.Of(42, models.Content{URL: "http://a/"}): {42, false},
		`"41-AAAAAAAAAAAAAAAAAAAAAA"`:                  {41, true}, `"41-AAAAAAAAAAAAAAAAAAAAAA-gzip"`: {41, true}, `"42-AAAAAAAAAAAAAAAAAAAAAA"`: {42, false},
		`"pXq3nYk0m1Zr7tQe5uWc2A"`: {}, `"12-q3nYk0m1Zr7tQe5uWc2"`: {}, `"-1-AAAAAAAAAAAAAAAAAAAAAA"`: {}, `"0-AAAAAAAAAAAAAAAAAAAAAA"`: {},
		`"+1-AAAAAAAAAAAAAAAAAAAAAA"`: {}, "*": {}, "": {}, `"x-AAAAAAAAAAAAAAAAAAAAAA"`: {}, `"1-AAAAAAAAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAAAAAAA"`: {},
	} {
		if got := models.VersionOf(tag); got != want.version {
			t.Errorf("%s: got version %d, want %d", tag, got, want.version)
		}
		if got := tags.Verify(tag); got != want.verified {
			t.Errorf("%s: verified %v, want %v", tag, got, want.verified)
		}
	}
}

// An agent that runs what this store did not make keeps it until an admin publishes,
// or resumes.
func TestHolds_UntilAnAdminDecides(t *testing.T) {
	f := fleettest.Open(t)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	lives := f.Join(t, 2)
	hold := func(live *registry.Agent, newest int64) bool {
		held := keeps(f, live)
		f.Agents.Poll(live, models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 9, Foreign: true, Newest: newest})
		return held
	}
	status := func() wire.AgentStatus {
		a, err := f.Agents.Agent(lives[0].ID())
		if err != nil {
			t.Fatal(err)
		}
		return f.Agents.StatusOf(&a, f.Publisher.Plan(), time.Now())
	}
	first, again := hold(lives[0], 1), hold(lives[0], 1)
	if !first || !again || f.Agents.Held(1, time.Now()) != 1 || status() != wire.Conflict {
		t.Errorf("at first: %d held, status %s, want one, in conflict", f.Agents.Held(1, time.Now()), status())
	}
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://b/"))
	if hold(lives[0], 2) || f.Agents.Held(2, time.Now()) != 0 || status() == wire.Conflict {
		t.Errorf("after a publish: %d held, status %s", f.Agents.Held(2, time.Now()), status())
	}
	if !hold(lives[1], 2) {
		t.Error("the next, which comes later, is not held")
	}
	resume := func() bool {
		t.Helper()
		resumed, err := f.Publisher.Resume(t.Context(), fleettest.ByAdmin, func(string) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		return resumed
	}
	if !resume() || hold(lives[1], 2) || f.Agents.Held(2, time.Now()) != 0 {
		t.Errorf("after a resume: %d held, want none", f.Agents.Held(2, time.Now()))
	}
	if resume() {
		t.Error("there was something to resume once more")
	}
	if got := actions(t, f.DB); got[0] != models.ActionResume {
		t.Errorf("the audit log: got %v, want the resume", got)
	}
	f.Agents.Poll(lives[1], models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 2})
	if !hold(lives[1], 2) {
		t.Error("one that followed, and claims another version after that, is not held")
	}
}

// In a hold, as in a conflict, to publish the same content is to decide.
func TestHolds_SameContentPublished_Released(t *testing.T) {
	for name, again := range map[string]func(f *fleettest.Fleet) *models.Config{
		"publish": func(f *fleettest.Fleet) *models.Config {
			return fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
		},
		"rollback": func(f *fleettest.Fleet) *models.Config { return rollback(t, f, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			f := fleettest.Open(t)
			fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
			live := f.Join(t, 1)[0]
			f.Agents.Poll(live, models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 9, Foreign: true, Newest: 1})
			if got := again(f); got.Version != 2 || f.Agents.Held(2, time.Now()) != 0 || keeps(f, live) {
				t.Errorf("got version %d, %d held, want version 2 and none", got.Version, f.Agents.Held(2, time.Now()))
			}
			if got := again(f); got.Version != 2 {
				t.Errorf("with none held: got version %d, want no change", got.Version)
			}
		})
	}
}
