package models_test

import (
	"strings"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

func TestTagsVerify_OwnAndOtherETags(t *testing.T) {
	tags := models.Tags{Epoch: "epoch", Key: []byte("key"), UnkeyedUpTo: 41}
	tag := tags.Of(42, models.Content{URL: "http://a/"})
	bare := strings.Trim(tag, `"`)
	other := tags
	other.Key = []byte("another")
	for tag, want := range map[string]struct {
		version  int64
		verified bool
	}{
		tag: {42, true}, "W/" + tag: {42, true}, `"` + bare + `-gzip"`: {42, true},
		`W/"` + bare + `--gzip"`: {42, true}, `"` + bare + `;br"`: {42, true},
		`"` + bare + `-more"`: {0, false}, `"` + bare + `gzip"`: {0, false},
		other.Of(42, models.Content{URL: "http://a/"}): {42, false},
		`"41-AAAAAAAAAAAAAAAAAAAAAA"`:                  {41, true}, `"41-AAAAAAAAAAAAAAAAAAAAAA-gzip"`: {41, true},
		`"42-AAAAAAAAAAAAAAAAAAAAAA"`: {42, false},
		`"pXq3nYk0m1Zr7tQe5uWc2A"`:    {}, `"12-q3nYk0m1Zr7tQe5uWc2"`: {}, `"-1-AAAAAAAAAAAAAAAAAAAAAA"`: {},
		`"0-AAAAAAAAAAAAAAAAAAAAAA"`:  {},
		`"+1-AAAAAAAAAAAAAAAAAAAAAA"`: {}, "*": {}, "": {}, `"x-AAAAAAAAAAAAAAAAAAAAAA"`: {},
		`"1-AAAAAAAAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAAAAAAA"`: {},
	} {
		if got := models.VersionOf(tag); got != want.version {
			t.Errorf("%s: got version %d, want %d", tag, got, want.version)
		}
		if got := tags.Verify(tag); got != want.verified {
			t.Errorf("%s: verified %v, want %v", tag, got, want.verified)
		}
	}
}

// A restored store reaches the same version twice, possibly with other content.
func TestTagsOf_OtherStoreOrContent_Differs(t *testing.T) {
	content := models.Content{URL: "http://a/", PollInterval: fleettest.DefaultInterval}
	of := func(epoch, key string) models.Tags { return models.Tags{Epoch: epoch, Key: []byte(key)} }
	base := of("e1", "k1").Of(1, content)
	if again := of("e1", "k1").Of(1, content); again != base {
		t.Errorf("the same version: got %s and %s", base, again)
	}
	for name, other := range map[string]string{
		"another epoch":   of("e2", "k1").Of(1, content),
		"another key":     of("e1", "k2").Of(1, content),
		"another version": of("e1", "k1").Of(2, content),
		"another URL": of(
			"e1", "k1",
		).Of(1, models.Content{URL: "http://b/", PollInterval: fleettest.DefaultInterval}),
		"with a probe": of(
			"e1", "k1",
		).Of(1, models.Content{URL: "http://a/", PollInterval: fleettest.DefaultInterval, Probe: true}),
		"another interval": of("e1", "k1").Of(1, models.Content{URL: "http://a/", PollInterval: time.Second}),
	} {
		if other == base {
			t.Errorf("%s: got the same ETag %s", name, other)
		}
	}
}
