package api_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// asApplied returns the headers of a poll by an agent that runs a version.
func asApplied(version int64, content string) []string {
	return []string{wire.HeaderAppliedVersion, strconv.FormatInt(version, 10), wire.HeaderAppliedContent, content}
}

// content returns the content hash of a configuration with this URL.
func content(url string) string {
	return wire.Config{Data: wire.Data{URL: url}, PollIntervalSeconds: 30}.ContentHash()
}

func (s *system) agent(id string) wire.Agent {
	s.t.Helper()
	return decode[wire.Agent](s.t, s.call(admin, "GET", "/api/v1/agents/"+id, ""))
}

// An agent's content may differ from that of the version that its ETag names, for example
// because its cache was edited. It gets the version again.
func TestApplied_OtherContent_Replaced(t *testing.T) {
	for name, row := range map[string]struct {
		tagged  bool // the poll has the current ETag
		applied []string
	}{
		"the content":                {true, asApplied(2, content("http://edited/"))},
		"the version":                {true, asApplied(1, content("http://b/"))},
		"a later version":            {true, asApplied(900, content("http://b/"))},
		"the content, and no ETag":   {false, asApplied(2, content("http://edited/"))},
		"that of an earlier version": {true, asApplied(2, content("http://a/"))},
		"another poll interval": {
			true, asApplied(2, wire.Config{Data: wire.Data{URL: "http://b/"}, PollIntervalSeconds: 31}.ContentHash()),
		},
		"another probe": {true, asApplied(
			2, wire.Config{Data: wire.Data{URL: "http://b/", Probe: true}, PollIntervalSeconds: 30}.ContentHash(),
		)},
		"the content, on a long poll": {true, asApplied(2, content("http://edited/"))},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			s.publish("http://a/")
			tag := s.publish("http://b/").Header.Get("ETag")
			a1 := s.register("a1")
			headers, path := row.applied, "/api/v1/config"
			if row.tagged {
				headers = append(headers, "If-None-Match", tag)
			}
			if strings.Contains(name, "long poll") {
				path += "?wait=60s"
			}
			s.logged.Reset()
			for range 3 {
				resp := s.call(a1, "GET", path, "", headers...)
				if body := text(t, resp); resp.StatusCode != 200 || !strings.Contains(body, "http://b/") ||
					resp.Header.Get("ETag") != tag {
					t.Errorf("got %d %s, want the current version", resp.StatusCode, body)
				}
				if later := strings.Contains(
					name, "later",
				); (resp.Header.Get(wire.HeaderOlderBecause) == wire.OlderPublish) != later {
					t.Errorf("got %s: %q", wire.HeaderOlderBecause, resp.Header.Get(wire.HeaderOlderBecause))
				}
			}
			if !s.agent("a1").ContentMismatch || *s.agent("a1").AppliedVersion != 2 {
				t.Errorf("the list: got %+v, want a content_mismatch", s.agent("a1"))
			}
			if n := len(s.logged.AllEntries()); n != 1 {
				t.Errorf("logged %d lines, want one", n)
			}
			if got, err := s.db.Plan(t.Context()); err != nil || got.Observed != (models.Observed{}) {
				t.Errorf("the store has %+v, %v, want no observation", got, err)
			}
			if resp := s.call(
				a1, "GET", "/api/v1/config", "", append(asApplied(2, content("http://b/")), "If-None-Match", tag)...,
			); resp.StatusCode != 304 {
				t.Errorf("with the right content: got %d, want 304", resp.StatusCode)
			}
			if s.agent("a1").ContentMismatch {
				t.Error("the list still shows a content_mismatch")
			}
		})
	}
}

// An agent whose worker refused the current version keeps an earlier one, whose ETag also
// shows whether the content matches.
func TestApplied_OtherContentOfEarlierVersion_Listed(t *testing.T) {
	s := newSystem(t)
	a1 := s.register("a1")
	tag := refuseVersionTwo(s, a1)
	for content, want := range map[string]bool{content("http://a/"): false, content("http://edited/"): true} {
		if resp := s.call(
			a1, "GET", "/api/v1/config", "", append(asApplied(1, content), "If-None-Match", tag)...,
		); resp.StatusCode != 304 {
			t.Errorf("got %d, want 304", resp.StatusCode)
		}
		if got := s.agent("a1").ContentMismatch; got != want {
			t.Errorf("content_mismatch: got %v, want %v", got, want)
		}
	}
}

// A compressing gateway may drop ETags. The applied version is still known from the headers.
func TestApplied_WithoutIfNoneMatch_VersionKnown(t *testing.T) {
	s := newSystem(t)
	tag := s.publish("http://a/").Header.Get("ETag")
	a1 := s.register("a1")
	for _, sent := range []string{"", `"something-else"`} {
		headers := append(asApplied(1, content("http://a/")), "If-None-Match", sent)
		if sent == "" {
			headers = headers[:4]
		}
		if resp := s.call(a1, "GET", "/api/v1/config", "", headers...); resp.StatusCode != 200 ||
			!strings.Contains(text(t, resp), "http://a/") {
			t.Errorf(
				"If-None-Match %q: got %d, want 200, because no ETag matches", sent, resp.StatusCode,
			)
		}
		if got := s.agent("a1"); *got.AppliedVersion != 1 || got.ContentMismatch {
			t.Errorf("the list: got %+v, want version 1 applied", got)
		}
	}
	// The agent runs a later version than this store has.
	resp := s.call(a1, "GET", "/api/v1/config", "", asApplied(9, content("http://later/"))...)
	wantProblem(t, resp, 404, "")
	if got := s.agent("a1"); got.Status != wire.Conflict || *got.AppliedVersion != 9 {
		t.Errorf("the list: got %+v, want a conflict", got)
	}
	if got := text(t, s.call(account{}, "GET", "/ready", "")); got != "{\"status\":\"ready\"}\n" {
		t.Errorf("/ready: got %s", got)
	}
	// Malformed headers are ignored.
	for _, bad := range [][]string{
		asApplied(0, content("http://a/")), asApplied(1, "short"), {wire.HeaderAppliedVersion, "1"},
		{wire.HeaderAppliedVersion, "x", wire.HeaderAppliedContent, content("http://a/")},
	} {
		for sent, want := range map[string]int{"": 200, tag: 304} {
			headers := append(bad[:len(bad):len(bad)], "If-None-Match", sent)
			if resp := s.call(a1, "GET", "/api/v1/config", "", headers...); resp.StatusCode != want {
				t.Errorf("%v with If-None-Match %q: got %d, want %d", bad, sent, resp.StatusCode, want)
			}
		}
	}
}

func TestApplied_AheadWithoutIfNoneMatch_Kept(t *testing.T) {
	for name, row := range map[string]struct {
		meanwhile func(s *system)
		least     time.Duration
		most      time.Duration
		version   string
	}{
		"nothing happens": {func(*system) {}, 60 * time.Second, 64 * time.Second, `"version":1`},
		"a publish":       {func(s *system) { s.publish("http://b/") }, time.Second, time.Second, `"version":2`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(t)
				s.publish("http://a/")
				a1 := s.register("a1")
				answer, began := make(chan *http.Response), time.Now()
				go func() {
					answer <- s.call(a1, "GET", "/api/v1/config?wait=60s", "", asApplied(1, content("http://a/"))...)
				}()
				time.Sleep(time.Second)
				row.meanwhile(s)
				resp := <-answer
				took := time.Since(began)
				if body := text(t, resp); resp.StatusCode != 200 || !strings.Contains(body, row.version) ||
					took < row.least || took > row.most {
					t.Errorf(
						"got %d %s after %s, want 200 %s after %s", resp.StatusCode, body, took, row.version,
						row.least,
					)
				}
			})
		})
	}
}

// An agent applies an older version only if the controller gives a reason.
func TestApplied_OlderVersionOffered_HasReason(t *testing.T) {
	foreign := `"9-AAAAAAAAAAAAAAAAAAAAAA"`
	for name, row := range map[string]struct {
		verified bool
		decide   func(s *system)
		want     string
	}{
		"another store's, then a publish": {false, func(s *system) { s.publish("http://b/") }, wire.OlderPublish},
		"another store's, then a resume": {
			false, func(s *system) { s.call(admin, "POST", "/api/v1/agents/resume", "") }, wire.OlderResume,
		},
		"this store's, then a resume": {
			true, func(s *system) { s.call(admin, "POST", "/api/v1/agents/resume", "") }, wire.OlderResume,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			s.publish("http://a/")
			a1 := s.register("a1")
			tag := foreign
			if row.verified {
				tag = s.laterETag(9)
			}
			poll := func(self account) *http.Response {
				headers := append(asApplied(9, content("http://later/")), "If-None-Match", tag)
				return s.call(self, "GET", "/api/v1/config", "", headers...)
			}
			if resp := poll(a1); resp.StatusCode != 304 || resp.Header.Get(wire.HeaderOlderBecause) != "" {
				t.Errorf("before: got %d %v, want 304", resp.StatusCode, resp.Header)
			}
			row.decide(s)
			for range 2 {
				if resp := poll(a1); resp.StatusCode != 200 || resp.Header.Get(wire.HeaderOlderBecause) != row.want {
					t.Errorf(
						"after: got %d because %q, want 200 because %s", resp.StatusCode,
						resp.Header.Get(wire.HeaderOlderBecause), row.want,
					)
				}
			}
			if resp := poll(s.register("a2")); (resp.StatusCode == 200) != row.verified {
				t.Errorf(
					"an agent that polls later: got %d, want 200 only if this store made its ETag", resp.StatusCode,
				)
			}
		})
	}
}

func TestConfig_FleetHeader_Always(t *testing.T) {
	s := newSystem(t)
	if resp := s.poll(enroller, ""); resp.StatusCode != 404 || resp.Header.Get(wire.HeaderFleet) != "fleet-1" {
		t.Errorf("got %d %v, want 404 with the fleet", resp.StatusCode, resp.Header)
	}
	tag := s.publish("http://a/").Header.Get("ETag")
	for tag, want := range map[string]int{"": 200, tag: 304} {
		if resp := s.poll(enroller, tag); resp.StatusCode != want || resp.Header.Get(wire.HeaderFleet) != "fleet-1" {
			t.Errorf("got %d %v, want %d with the fleet", resp.StatusCode, resp.Header, want)
		}
	}
}

func TestConfig_TransportHeader_Recorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		tag := s.publish("http://a/").Header.Get("ETag")
		for headerText, want := range map[string]wire.Transport{
			"": wire.LongPoll, "poll": wire.Polling, "nats": wire.LongPoll,
		} {
			a := s.register(fmt.Sprint("a-", headerText))
			headers := []string{"If-None-Match", tag, wire.HeaderTransport, headerText}
			if headerText == "" {
				headers = headers[:2]
			}
			s.call(a, "GET", "/api/v1/config?wait=1s", "", headers...)
			if got := s.agent(a[0]).Transport; got == nil || *got != want {
				t.Errorf("X-Transport %q: got %v, want %s", headerText, got, want)
			}
		}
	})
}
