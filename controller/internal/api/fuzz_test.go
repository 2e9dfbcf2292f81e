package api_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

// wantAnswer checks that a response is a success or a 4xx, and JSON in UTF-8.
func wantAnswer(t *testing.T, what string, resp *http.Response) (body string) {
	t.Helper()
	body = text(t, resp)
	status := resp.StatusCode
	if status >= 500 || status < 200 {
		t.Fatalf("%s: got %d %s, want a success or a 4xx", what, status, body)
	}
	if body != "" && (!utf8.ValidString(body) || !json.Valid([]byte(body))) {
		t.Fatalf("%s: got %d %q, want JSON", what, status, body)
	}
	if status >= 400 && status != http.StatusRequestTimeout && resp.Header.Get("Content-Type") != problem.ContentType {
		t.Fatalf("%s: got %d %s, want a problem", what, status, body)
	}
	return body
}

// Any accepted registration makes an agent that can be shown, authenticated and removed by its
// id.
func FuzzRegister(f *testing.F) {
	for _, seed := range []string{
		`{"hostname":"web-17","agent_id":"a1","agent_secret":"0123456789abcdefghijkl","metadata":{"rack":7}}`,
		`{"hostname":"web-17"}`, `{"hostname":"web-17","agent_id":"summary"}`,
		`{"hostname":"h","agent_id":"..","metadata":{}}`,
		`{"hostname":"h","agent_id":"a/b","metadata":[]}`, `{"hostname":"h","agent_id":"%2e","metadata":null}`,
		"{\"hostname\":\"\xff\"}",
		`{"hostname":"h","metadata":` + strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17) + "}",
		`{"hostname":"h","hostname":"i"}`, `{"hostname":"h","agent_id":"\u0000"}`,
		`{"hostname":"h","metadata":{"a":1e999}}`, ``, `null`, `[`,
	} {
		f.Add([]byte(seed))
	}
	s := newSystem(f)
	f.Fuzz(func(t *testing.T, document []byte) {
		s.t = t
		resp := s.call(enroller, "POST", "/api/v1/register", string(document), "Content-Type", "application/json")
		status, body := resp.StatusCode, wantAnswer(t, "register", resp)
		if status >= 300 {
			return
		}
		var got wire.RegisterResponse
		if err := json.Unmarshal([]byte(body), &got); err != nil || got.AgentID == "" || got.AgentToken == "" {
			t.Fatalf("registered as %s, %v; want an id and a token", body, err)
		}
		self, path := account{got.AgentID, got.AgentToken}, "/api/v1/agents/"+url.PathEscape(got.AgentID)
		if shown := decode[wire.Agent](t, s.call(admin, "GET", path, "")); shown.ID != got.AgentID {
			t.Errorf("%q is shown as %q", got.AgentID, shown.ID)
		}
		if resp := s.call(self, "GET", wire.ConfigPath, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%q polls: got %d, want 404, because nothing is published", got.AgentID, resp.StatusCode)
		}
		if resp := s.call(self, "DELETE", path, ""); resp.StatusCode != http.StatusNoContent {
			t.Errorf("%q removes itself: got %d, want 204", got.AgentID, resp.StatusCode)
		}
	})
}

// Any query gets a success or a problem.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"limit=1", "limit=0", "limit=-1", "limit=1001", "limit=9223372036854775808", "limit=1e3", "limit=%31",
		"limit=1&limit=2", "limit=", "limit",
		"before=1", "before=9223372036854775807", "version=1", "version=+1", "cursor=czE", "cursor=cy0x", "cursor=%ff",
		"status=all", "status=ALL",
		"hostname=*", "hostname=%00", "transport=poll", "wait=1ns", "wait=-1s", "wait=1e9", "wait=0&applied=1",
		"applied=NaN", "applied=1e-400", "applied=0x1p-2",
		"action=publish", ";", "%", "a=b&&", strings.Repeat("limit=1&", 200),
	} {
		f.Add(seed)
	}
	s := newSystem(f)
	s.publish("http://a/")
	s.register("a1")
	f.Fuzz(func(t *testing.T, query string) {
		if strings.Contains(query, "wait=") && !strings.Contains(query, "wait=0") &&
			!strings.Contains(query, "wait=-") {
			query = strings.ReplaceAll(query, "wait=", "wait=x") // the request would wait
		}
		s.t = t
		for _, path := range []string{
			"agents", "configs", "audit", "rollouts/1", "agents/summary", "freeze", "config",
		} {
			r := &url.URL{Path: "/api/v1/" + path, RawQuery: query}
			if _, err := url.ParseRequestURI(r.String()); err != nil || strings.ContainsAny(query, " #") ||
				strings.ContainsFunc(query, func(c rune) bool { return c < ' ' || c > '~' }) {
				return // not a valid request line
			}
			wantAnswer(t, r.String(), s.call(admin, "GET", r.String(), ""))
		}
	})
}

// A rollback makes the content of its version current or changes nothing. A diff names the
// same fields in both directions.
func FuzzRollback(f *testing.F) {
	for _, seed := range [][3]string{
		{"1", "2", `{"message":"why"}`}, {"2", "1", ``}, {"3", "3", `{}`}, {"0", "-1", `null`},
		{"01", "+2", `{"message":null}`},
		{"9223372036854775807", "9223372036854775808", `[]`}, {"1.0", "1e0", `{"message":""}`},
		{"%31", "..", "{\"message\":\"\xff\"}"}, {"", "x", `{"version":1}`},
	} {
		f.Add(seed[0], seed[1], []byte(seed[2]))
	}
	s := newSystem(f)
	for _, host := range []string{"a", "b", "c"} {
		s.publish("http://" + host + "/")
	}
	f.Fuzz(func(t *testing.T, from, to string, body []byte) {
		s.t = t
		from, to = url.PathEscape(from), url.PathEscape(to)
		there, back := "/api/v1/configs/"+from+"/diff/"+to, "/api/v1/configs/"+to+"/diff/"+from
		forward, backward := s.call(admin, "GET", there, ""), s.call(admin, "GET", back, "")
		one, other := wantAnswer(t, there, forward), wantAnswer(t, back, backward)
		if forward.StatusCode == http.StatusOK && strings.Count(one, `"field"`) != strings.Count(other, `"field"`) {
			t.Errorf("%s: got %s, and the other way %s; want the same fields", there, one, other)
		}
		before := s.publisher.Plan().Config()
		path := "/api/v1/configs/" + from + "/rollback"
		resp := s.call(admin, "POST", path, string(body), "Content-Type", "application/json")
		wantAnswer(t, path, resp)
		after := s.publisher.Plan().Config()
		switch {
		case resp.StatusCode != http.StatusOK && after != before:
			t.Errorf("%s: got %d, and version %d became %d", path, resp.StatusCode, before.Version, after.Version)
		case resp.StatusCode == http.StatusOK:
			restored, err := s.publisher.Version(t.Context(), max(after.RestoredFrom, 1))
			if err != nil || after.RestoredFrom != 0 && restored.URL != after.URL {
				t.Errorf("%s: got %s, %v; want the content of version %d", path, after.URL, err, after.RestoredFrom)
			}
		}
	})
}
