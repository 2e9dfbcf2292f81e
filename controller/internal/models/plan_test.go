package models_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// planOf returns a plan whose newest version is newest, 0 for none.
func planOf(newest int64, o models.Observed) *models.Plan {
	p := &models.Plan{Observed: o}
	if newest != 0 {
		p.Newest = &models.Release{Config: &models.Config{Version: newest}}
	}
	return p
}

func TestPlanFor_EveryReason(t *testing.T) {
	none, conflict := models.Observed{}, models.Observed{Highest: 9}
	resumed := models.Observed{Highest: 9, ResumedBelow: 9}
	refused := models.Refusal{Version: 8, Error: "no such host"}
	for name, row := range map[string]struct {
		newest   int64
		observed models.Observed
		traits   models.Traits
		kind     models.ReasonKind
		because  string
	}{
		"caller is not an agent":  {8, conflict, models.Traits{}, models.ReasonCurrent, "current"},
		"runs the newest version": {8, none, models.Traits{Runs: 8}, models.ReasonCurrent, "current"},
		"runs an older version":   {8, conflict, models.Traits{Runs: 7}, models.ReasonCurrent, "current"},
		"refused an older version": {
			9, none, models.Traits{Runs: 7, Refused: refused}, models.ReasonCurrent, "current",
		},
		"unknown, without a conflict": {8, none, models.Traits{Unknown: true}, models.ReasonCurrent, "current"},
		"above, after a resume":       {8, resumed, models.Traits{Runs: 9}, models.ReasonCurrent, "current"},
		"above, after a publish":      {10, conflict, models.Traits{Runs: 9}, models.ReasonCurrent, "current"},
		"foreign, after a publish":    {8, none, models.Traits{Runs: 9, Held: 8}, models.ReasonCurrent, "current"},
		"foreign, after a resume": {
			8, none, models.Traits{Runs: 9, Held: models.Released}, models.ReasonCurrent, "current",
		},
		"nothing published": {
			0, none, models.Traits{}, models.ReasonUnpublished, "nothing was published yet",
		},
		"refused, nothing published": {
			0, none, models.Traits{Refused: models.Refusal{}}, models.ReasonUnpublished, "nothing was published yet",
		},
		"refused the newest": {
			8, none, models.Traits{Runs: 7, Refused: refused}, models.ReasonRefused,
			"its worker refused version 8: no such host",
		},
		"above the store": {
			8, conflict, models.Traits{Runs: 9}, models.ReasonNewer, "runs version 9, and the store's newest is 8",
		},
		"above the store, which is empty": {
			0, conflict, models.Traits{Runs: 9}, models.ReasonNewer, "runs version 9, and the store's newest is 0",
		},
		"above, and refused the newest": {
			8, conflict, models.Traits{Runs: 9, Refused: refused}, models.ReasonNewer,
			"runs version 9, and the store's newest is 8",
		},
		"foreign": {8, none, models.Traits{Runs: 12, Held: 9}, models.ReasonForeign,
			"runs version 12, which this store did not make: its newest is 8"},
		"unknown, in a conflict": {8, conflict, models.Traits{Unknown: true}, models.ReasonUnknown,
			"runs an unknown version, and other agents run versions above the store's newest, 8"},
	} {
		t.Run(name, func(t *testing.T) {
			plan := planOf(row.newest, row.observed)
			release, reason := plan.For(row.traits)
			if reason.Kind != row.kind || reason.String() != row.because {
				t.Errorf("got %d %q, want %d %q", reason.Kind, reason, row.kind, row.because)
			}
			if want := row.kind == models.ReasonCurrent; (release != nil) != want || want && release != plan.Newest {
				t.Errorf("got release %+v, want the newest: %v", release, want)
			}
		})
	}
}

// offered is the reference: an agent is offered the newest version, unless its worker
// refused it, it runs a later version and no admin has decided, or it runs an unknown
// version during a conflict.
func offered(newest int64, o models.Observed, t models.Traits) bool {
	undecided := o.Highest > newest && o.Highest > o.ResumedBelow
	switch {
	case newest == 0, t.Refused.Version == newest:
		return false
	case t.Runs > newest && (undecided || t.Held > newest), t.Unknown && undecided:
		return false
	}
	return true
}

func TestPlanFor_AnyTraits_AsTheReference(t *testing.T) {
	version := rapid.Int64Range(0, 4)
	rapid.Check(t, func(t *rapid.T) {
		newest := version.Draw(t, "newest")
		o := models.Observed{Highest: version.Draw(t, "highest"), ResumedBelow: version.Draw(t, "resumed")}
		traits := models.Traits{
			Runs: version.Draw(t, "runs"), Unknown: rapid.Bool().Draw(t, "unknown"),
			Held:    rapid.Int64Range(models.Released, 4).Draw(t, "held"),
			Refused: models.Refusal{Version: version.Draw(t, "refused")},
		}
		release, reason := planOf(newest, o).For(traits)
		if want := offered(newest, o, traits); (release != nil) != want ||
			(reason.Kind == models.ReasonCurrent) != want {
			t.Fatalf(
				"newest %d, %+v, %+v: got %+v because %q, want offered %v", newest, o, traits, release, reason, want,
			)
		}
	})
}

// The age changes at the time that NextAge returns, and not before.
func TestAgeOf_AtNextAge_Changes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		interval := time.Duration(rapid.Int64Range(1, 1e6).Draw(t, "interval")) * time.Millisecond
		inactiveAfter := time.Duration(rapid.Int64Range(1, 2e7).Draw(t, "inactive after")) * time.Millisecond
		age, unseen := models.AgeOnline, time.Duration(0)
		for range 4 {
			if got := models.AgeOf(unseen, interval, inactiveAfter); got != age {
				t.Fatalf("unseen for %s: got age %d, want %d", unseen, got, age)
			}
			next, leaves := models.NextAge(age, interval, inactiveAfter)
			if !leaves {
				break
			}
			if got := models.AgeOf(next, interval, inactiveAfter); got != age {
				t.Fatalf("unseen for %s: got age %d, want still %d", next, got, age)
			}
			unseen = next + 1
			age = models.AgeOf(unseen, interval, inactiveAfter)
			if age == models.AgeOnline {
				t.Fatalf("unseen for %s: got online", unseen)
			}
		}
		if age != models.AgeInactive {
			t.Fatalf("got age %d at the end, want inactive", age)
		}
	})
}

func TestNewRelease_EncodesResponse(t *testing.T) {
	content := models.Content{URL: "http://a/?b=<c>&d", PollInterval: 5 * time.Second, Probe: true}
	cfg := &models.Config{Content: content, Version: 8, ETag: `"8-a"`}
	got, err := models.NewRelease(cfg)
	if err != nil {
		t.Fatal(err)
	}
	body := `{"version":8,"data":{"url":"http://a/?b=<c>&d","probe":true},"poll_interval_seconds":5}` + "\n"
	want := &models.Release{
		Config: cfg, Content: content.ContentHash(), Body: []byte(body),
		Tag: []string{`"8-a"`}, Length: []string{"88"}, Interval: []string{"5"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
