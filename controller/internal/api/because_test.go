package api_test

import (
	"testing"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Both the list and the single agent show the reason of the offered version.
func TestAgents_DesiredBecause_NamesTheReason(t *testing.T) {
	s := newSystem(t)
	wantBecause := func(id, want string) {
		t.Helper()
		one := decode[wire.Agent](t, s.call(admin, "GET", "/api/v1/agents/"+id, ""))
		if one.DesiredBecause != want {
			t.Errorf("%s: got %q, want %q", id, one.DesiredBecause, want)
		}
		for _, a := range decode[[]wire.Agent](t, s.call(admin, "GET", "/api/v1/agents", "")) {
			if a.ID == id && a.DesiredBecause != want {
				t.Errorf("%s in the list: got %q, want %q", id, a.DesiredBecause, want)
			}
		}
	}
	a1, a2, a3, a4 := s.register("a1"), s.register("a2"), s.register("a3"), s.register("a4")
	wantBecause("a1", "nothing was published yet")
	current := s.publish("http://a/").Header.Get("ETag")
	s.poll(a1, current)
	wantBecause("a1", "current")
	s.report(a2, 1, `{"version":%d,"status":"FAILED","error":"no such host"}`)
	wantBecause("a2", "its worker refused version 1: no such host")
	s.poll(a3, `"7-AAAAAAAAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAAAAAAAA"`)
	wantBecause("a3", "runs version 7, which this store did not make: its newest is 1")
	s.poll(a4, s.laterETag(9))
	wantBecause("a4", "runs version 9, and the store's newest is 1")
	s.poll(a1, `"of-a-gateway"`)
	wantBecause("a1", "runs an unknown version, and other agents run versions above the store's newest, 1")
	s.poll(a1, current)
	wantBecause("a1", "current")
}
