package publish_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// The restored store has versions up to 2; the fleet runs version 9.
func TestConflict_UntilAdminDecides(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controller.db")
	db, closeDB := fleettest.OpenStore(t, path)
	f := fleettest.New(t, db, db)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://b/"))
	if f.Publisher.ObserveReport(2+1_000_001, "") {
		t.Error("a report a million versions ahead is credible")
	}
	if _, ahead, _ := f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(2)); ahead != 0 ||
		!f.Publisher.ObserveReport(1, "") || !f.Publisher.ObserveReport(2, f.Later(2)) {
		t.Error("the store's own versions are not credible")
	}
	if f.Publisher.Plan().Conflict() {
		t.Error("conflict before a later version was observed")
	}
	for _, version := range []int64{8, 9, 7} {
		if _, ahead, foreign := f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(version)); ahead != version ||
			foreign {
			t.Errorf("version %d: got %d, foreign %v, want it observed", version, ahead, foreign)
		}
	}
	run := func() {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Publisher.Run(ctx) }()
		for {
			r, err := storedObserved(t.Context(), f.DB)
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
	if last := f.Logged.LastEntry(); last == nil || last.Data["highest_reported"] != int64(9) ||
		last.Data["version"] != int64(2) {
		t.Errorf("logged %v, want the store's version and the highest", last)
	}
	closeDB()
	db, _ = fleettest.OpenStore(t, path)
	f = fleettest.New(t, db, db)
	if highest, conflict := conflictOf(f); !conflict || highest != 9 {
		t.Errorf("after a restart: got %d, %v, want a conflict up to 9", highest, conflict)
	}

	if _, err := f.Publisher.Resume(
		t.Context(), fleettest.ByAdmin, func(string) bool { return false },
	); !errors.Is(err, models.ErrPrecondition) {
		t.Errorf("with a precondition that fails: got %v, want ErrPrecondition", err)
	}
	allow := func(string) bool { return true }
	if resumed, err := f.Publisher.Resume(t.Context(), fleettest.ByAdmin, allow); !resumed || err != nil {
		t.Errorf("resume: got %v, %v", resumed, err)
	}
	if resumed, err := f.Publisher.Resume(t.Context(), fleettest.ByAdmin, allow); resumed || err != nil {
		t.Errorf("a second resume: got %v, %v, want nothing to resume", resumed, err)
	}
	f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(9)) // an agent that has not followed yet
	if f.Publisher.Plan().Conflict() {
		t.Error("a version below the resume is a conflict again")
	}
	f.Publisher.ObserveReport(11, f.Later(11))
	if highest, conflict := conflictOf(f); !conflict || highest != 11 {
		t.Errorf("a version above the resume: got %d, %v, want a conflict up to 11", highest, conflict)
	}

	// Publishing the current content decides too.
	outcome, err := f.Publisher.Publish(t.Context(), fleettest.Draft("http://b/"))
	if err != nil || !outcome.Changed || outcome.Config.Version != 12 {
		t.Errorf("publish: got %+v, %v, want version 12", outcome, err)
	}
	if f.Publisher.Plan().Conflict() {
		t.Error("still in conflict after the publish")
	}
	if next := fleettest.Publish(t, f.Publisher, fleettest.Draft("http://c/")); next.Version != 13 {
		t.Errorf("the next: got version %d, want 13", next.Version)
	}
}

// Observed versions are stored as soon as the store accepts writes.
func TestConflict_StoreFails_SavedLater(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		store := &fleettest.Lossy{DB: db}
		store.Fails.Store(true)
		publisher := fleettest.OpenPublisher(t, store, db.Tags())
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- publisher.Run(ctx) }()
		publisher.ObserveTag(publisher.Plan(), db.Tags().Of(9, models.Content{URL: "http://later/"}))
		time.Sleep(2 * registry.FlushInterval)
		synctest.Wait()
		store.Fails.Store(false)
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		if r, err := storedObserved(t.Context(), db); err != nil || r.Highest != 9 {
			t.Errorf("after the store recovered: got %+v, %v, want up to 9", r, err)
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// keeps reports whether an agent that runs version 9, which the store did not make, keeps it.
func keeps(f *fleettest.Fleet, live *registry.Agent) bool {
	plan := f.Publisher.Plan()
	traits := live.Traits(true, plan.Version())
	traits.Runs = 9
	release, _ := plan.For(traits)
	return release == nil
}

// conflictOf returns the highest observed version, and whether there is a conflict.
func conflictOf(f *fleettest.Fleet) (highest int64, conflict bool) {
	plan := f.Publisher.Plan()
	return plan.Observed.Highest, plan.Conflict()
}

// An ETag that this store did not make changes neither the conflict nor the next version.
func TestObserve_ForeignTag_NoConflict(t *testing.T) {
	f := fleettest.Open(t)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	other := f.DB.Tags()
	other.Epoch = "other"
	for name, tag := range map[string]string{
		"forged":               `"900001-AAAAAAAAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAAAAAAAA"`,
		"without a keyed hash": `"900001-AAAAAAAAAAAAAAAAAAAAAA"`,
		"of another store":     other.Of(900_001, models.Content{URL: "http://later/"}),
		"of another version":   strings.Replace(f.Later(9), `"9-`, `"900001-`, 1),
		"above maxAhead":       strings.Replace(f.Later(9), `"9-`, `"9000000000000-`, 1),
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

// An agent that runs a version that this store did not make keeps it until an admin
// publishes or resumes.
func TestHeld_UntilAdminDecides(t *testing.T) {
	f := fleettest.Open(t)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	lives := f.Join(t, 2)
	hold := func(live *registry.Agent, newest int64) bool {
		held := keeps(f, live)
		f.Agents.Poll(live, models.Poll{
			At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 9, Foreign: true, Newest: newest,
		})
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
		t.Error("another agent, after the publish: not held")
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
		t.Error("the second resume resumed something")
	}
	if got := fleettest.Actions(t, f.DB); got[0] != models.ActionResume {
		t.Errorf("the audit log: got %v, want the resume", got)
	}
	f.Agents.Poll(lives[1], models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 2})
	if !hold(lives[1], 2) {
		t.Error("an agent that followed, and then runs a foreign version: not held")
	}
}

// While agents are held, as in a conflict, publishing the same content decides.
func TestHeld_SameContentPublished_Released(t *testing.T) {
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
			f.Agents.Poll(live, models.Poll{
				At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 9, Foreign: true, Newest: 1,
			})
			if got := again(f); got.Version != 2 || f.Agents.Held(2, time.Now()) != 0 || keeps(f, live) {
				t.Errorf("got version %d, %d held, want version 2 and none", got.Version, f.Agents.Held(2, time.Now()))
			}
			if got := again(f); got.Version != 2 {
				t.Errorf("with none held: got version %d, want no change", got.Version)
			}
		})
	}
}

// storedObserved returns the observed versions in the store.
func storedObserved(ctx context.Context, db *sqlite.DB) (models.Observed, error) {
	plan, err := db.Plan(ctx)
	if err != nil {
		return models.Observed{}, err
	}
	return plan.Observed, nil
}
