package requestid_test

import (
	"regexp"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/requestid"
)

func TestNew_UniqueAndLoggable(t *testing.T) {
	fit := regexp.MustCompile(`^[a-z0-9]{1,13}$`)
	seen := map[string]bool{}
	for range 1000 {
		id := requestid.New()
		if !fit.MatchString(id) {
			t.Fatalf("got %q, want up to 13 letters and digits", id)
		}
		seen[id] = true
	}
	if len(seen) != 1000 {
		t.Errorf("got %d ids of 1000, want no two alike", len(seen))
	}
}

func TestOf(t *testing.T) {
	if got := requestid.Of(t.Context()); got != "" {
		t.Errorf("of no request: got %q, want none", got)
	}
	if got := requestid.Of(requestid.With(t.Context(), "abc")); got != "abc" {
		t.Errorf("got %q, want abc", got)
	}
}
