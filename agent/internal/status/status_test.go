package status

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logrustest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
)

func ask(t *testing.T, s protocol.Status, method, path string) (*http.Response, string) {
	t.Helper()
	log, _ := logrustest.NewNullLogger()
	current := func() protocol.Status { return s }
	server := httptest.NewServer(Handler(Parts{
		Current: current, Log: log, Metrics: NewMetrics(nil, current), Scrape: http.NotFoundHandler(),
	}))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestStatus_BeforeAnything_ZeroValues(t *testing.T) {
	_, got := ask(t, protocol.Status{Transport: "poll", PollIntervalSeconds: 30}, "GET", "/status")
	want := `{"agent_id":"","registered":false,"desired_version":null,"applied_version":null,"transport":"poll",` +
		`"push":{"transport":"","healthy":false,"error":""},"poll_interval_seconds":30,` +
		`"last_fetch":null,"last_error":"",` +
		`"cache_age_seconds":null,"worker":{"reachable":false,"version":null,"instance":"","error":""},` +
		`"cache":{"writable":false,"error":""}}` + "\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

func TestStatus_AllSet_AsJSON(t *testing.T) {
	full := protocol.Status{
		AgentID: "agent-7", Registered: true, DesiredVersion: new(int64(8)), AppliedVersion: new(int64(7)),
		Transport: "poll", PollIntervalSeconds: 30,
		LastFetch: new(time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)), LastError: "x", CacheAgeSeconds: new(int64(9)),
		Worker:          protocol.WorkerStatus{Reachable: true, Version: new(int64(7)), Instance: "i"},
		Cache:           protocol.CacheStatus{Writable: true},
		ControllerError: "not shown twice",
	}
	resp, got := ask(t, full, "GET", "/status")
	var s struct {
		LastFetch string `json:"last_fetch"`
		Desired   int64  `json:"desired_version"`
		Applied   int64  `json:"applied_version"`
	}
	if err := json.Unmarshal([]byte(got), &s); err != nil || s.LastFetch != "2026-11-24T03:00:00Z" || s.Desired != 8 ||
		s.Applied != 7 {
		t.Errorf("got %s (%v)", got, err)
	}
	if strings.Contains(got, "not shown") {
		t.Errorf("an inner field is shown: %s", got)
	}
	if resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers are %v", resp.Header)
	}
}

func TestReady_EachState_Answers(t *testing.T) {
	for name, tt := range map[string]struct {
		status protocol.Status
		code   int
		words  []string
	}{
		"just started": {protocol.Status{}, 503, []string{"not registered yet"}},
		"controller away, no cache": {
			protocol.Status{ControllerError: "cannot be reached", Worker: protocol.WorkerStatus{Error: "is gone"}}, 503,
			[]string{`"field":"controller"`, "cannot be reached", `"field":"worker"`, "is gone"},
		},
		"runs from the cache": {protocol.Status{
			ControllerError: "cannot be reached", InSync: true, AppliedVersion: new(int64(7)),
			DesiredVersion: new(int64(7)),
		}, 200, []string{`"status":"ready"`, "cannot be reached"}},
		"all is well": {protocol.Status{
			Registered: true, InSync: true, AppliedVersion: new(int64(7)), DesiredVersion: new(int64(7)),
		}, 200, []string{`{"status":"ready"}`}},
		"nothing published": {
			protocol.Status{Registered: true, InSync: true}, 200, []string{`{"status":"ready"}`},
		},
		"worker behind": {
			protocol.Status{Registered: true, DesiredVersion: new(int64(7))}, 200,
			[]string{"does not run the desired version yet"},
		},
		"worker behind, no controller": {
			protocol.Status{DesiredVersion: new(int64(7))}, 503,
			[]string{"not registered yet", "does not run the desired version yet"},
		},
		"cache unwritable": {
			protocol.Status{Registered: true, InSync: true, Cache: protocol.CacheStatus{Error: "no space left"}}, 200,
			[]string{`"field":"cache"`, "no space left"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := ask(t, tt.status, "GET", "/ready")
			if resp.StatusCode != tt.code {
				t.Errorf("got %d, want %d", resp.StatusCode, tt.code)
			}
			for _, words := range tt.words {
				if !strings.Contains(body, words) {
					t.Errorf("body %s does not say %s", body, words)
				}
			}
		})
	}
}

// A page whose name was rebound to this machine cannot read the status. A supervisor may use
// any name.
func TestStatus_Rebinding_Refused(t *testing.T) {
	log, _ := logrustest.NewNullLogger()
	current := func() protocol.Status { return protocol.Status{AgentID: "canary"} }
	handler := Handler(Parts{
		Current: current, Hosts: []string{"agent-1"}, Log: log, Metrics: NewMetrics(nil, current),
		Scrape: http.NotFoundHandler(),
	})
	for _, tt := range []struct {
		path, host string
		code       int
	}{
		{"/status", "localhost:8081", 200},
		{"/status", "192.0.2.7:8081", 200},
		{"/status", "[2001:db8::7]:8081", 200},
		{"/status", "agent-1:8081", 200},
		{"/status", "rebound.example:8081", 403},
		{"/status", "", 403},
		{"/health", "rebound.example:8081", 200},
		{"/metrics", "rebound.example:8081", 404}, // not part of this test
		{"/version", "rebound.example:8081", 200},
	} {
		r := httptest.NewRequest("GET", tt.path, nil)
		r.Host = tt.host
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tt.code || tt.code == 403 && strings.Contains(w.Body.String(), "canary") {
			t.Errorf("%s by %q: got %d %s, want %d", tt.path, tt.host, w.Code, w.Body, tt.code)
		}
	}
}

func TestHandler_EachRoute_Answers(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		code         int
		allow, kind  string
	}{
		{"GET", "/health", 200, "", "application/json"},
		{"HEAD", "/health", 200, "", "application/json"},
		{"GET", "/version", 200, "", "application/json"},
		{"POST", "/status", 405, "GET, HEAD", "application/problem+json"},
		{"DELETE", "/ready", 405, "GET, HEAD", "application/problem+json"},
		{"GET", "/", 200, "", "text/plain; charset=utf-8"},
		{"POST", "/", 405, "GET, HEAD", "application/problem+json"},
		{"GET", "/healthz", 200, "", "application/json"},
		{"GET", "/livez", 200, "", "application/json"},
		{"GET", "/readyz", 503, "", "application/problem+json"},
		{"GET", "/status/", 404, "", "application/problem+json"},
		{"POST", "/config", 404, "", "application/problem+json"},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			resp, _ := ask(t, protocol.Status{}, tt.method, tt.path)
			if resp.StatusCode != tt.code || resp.Header.Get("Allow") != tt.allow ||
				resp.Header.Get("Content-Type") != tt.kind {
				t.Errorf("got %d %v, want %d, Allow %q, %s", resp.StatusCode, resp.Header, tt.code, tt.allow, tt.kind)
			}
		})
	}
}
