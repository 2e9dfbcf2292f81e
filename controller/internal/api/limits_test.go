package api_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/api"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// scarce allows one request per second of each class.
var scarce = access.Limits{Register: 1, Config: 1, Status: 1, Admin: 1}

// here is a peer address on this machine.
const here = "127.0.0.1:40000"

// callFrom is call with a peer address and no body.
func (s *system) callFrom(remote string, who account, method, path string, headers ...string) *http.Response {
	s.t.Helper()
	sent := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		sent.Set(headers[i], headers[i+1])
	}
	return s.callWith(remote, sent, who, method, path, "")
}

// callWith is callFrom with a body.
func (s *system) callWith(remote string, headers http.Header, who account, method, path, body string) *http.Response {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, path, strings.NewReader(body))
	r.RemoteAddr = remote
	maps.Copy(r.Header, headers)
	if who != (account{}) {
		r.SetBasicAuth(who[0], who[1])
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w.Result()
}

// wantRateLimited checks that a response is a rejection with a valid Retry-After.
func wantRateLimited(t testing.TB, resp *http.Response, status int) {
	t.Helper()
	wantProblem(t, resp, status, "")
	if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
		t.Errorf("got Retry-After %q, want 1 to 60", resp.Header.Get("Retry-After"))
	}
}

// wantSpread checks that rejections have random values of Retry-After.
func wantSpread(t testing.TB, rejected func() *http.Response) {
	t.Helper()
	seen := map[string]bool{}
	for range 100 {
		resp := rejected()
		wantRateLimited(t, resp, 429)
		seen[resp.Header.Get("Retry-After")] = true
	}
	if len(seen) < 20 { // 48 on average
		t.Errorf("got Retry-After %v, want nearly every second of a minute", seen)
	}
}

// A class at its limit does not affect the others.
func TestLimits_Classes_Independent(t *testing.T) {
	type request struct{ class, method, path, body string }
	requests := []request{
		{"register", "POST", "/api/v1/register", `{"hostname":"h"}`},
		{"config", "GET", "/api/v1/config", ""},
		{"status", "POST", "/api/v1/agents/a1/status", `{"version":1,"status":"APPLIED"}`},
		{"admin", "GET", "/api/v1/agents", ""},
	}
	for _, full := range requests {
		t.Run(full.class, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLimited(t, scarce)
				a1 := s.register("a1")
				s.publish("http://a/")
				time.Sleep(time.Second)
				as := map[string]account{"register": enroller, "config": a1, "status": a1, "admin": admin}
				if resp := s.call(as[full.class], full.method, full.path, full.body); resp.StatusCode >= 400 {
					t.Fatalf("the first: got %d", resp.StatusCode)
				}
				for range 100 {
					wantRateLimited(t, s.call(as[full.class], full.method, full.path, full.body), 429)
				}
				for _, other := range requests {
					if other == full {
						continue
					}
					if resp := s.call(as[other.class], other.method, other.path, other.body); resp.StatusCode >= 400 {
						t.Errorf("%s: got %d %s, want it served", other.class, resp.StatusCode, text(t, resp))
					}
				}
				time.Sleep(time.Second)
				if resp := s.call(as[full.class], full.method, full.path, full.body); resp.StatusCode >= 400 {
					t.Errorf("a second later: got %d, want it served", resp.StatusCode)
				}
			})
		})
	}
}

// A source cannot fill the audit log by registering agents that remove themselves.
func TestLimits_RegisterAndRemoveRepeatedly_LimitedPerSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 1_000_000
		s := newLimited(t, access.Limits{Register: most, Config: most, Status: most, Admin: most})
		send := func(remote string, who account, method, path, body string) *http.Response {
			return s.callWith(remote, http.Header{}, who, method, path, body)
		}
		register := func(remote, id string) *http.Response {
			return send(
				remote, enroller, "POST", "/api/v1/register", fmt.Sprintf(`{"hostname":"h","agent_id":%q}`, id),
			)
		}
		known := decode[wire.RegisterResponse](t, register(elsewhere, "known"))
		used := 1
		for range 5 {
			token := decode[wire.RegisterResponse](t, register(elsewhere, "a1")).AgentToken
			resp := send(elsewhere, account{"a1", token}, "DELETE", "/api/v1/agents/a1", "")
			if resp.StatusCode != 204 {
				t.Fatalf("got %d %s, want the agent removed", resp.StatusCode, text(t, resp))
			}
			used += 2
		}
		for ; register(neighbour, "admin").StatusCode == 400; used++ { // a reserved id, so nothing is stored
			if used > 20_000 {
				t.Fatal("20000 registrations of new agents were accepted from one source")
			}
		}
		if used != 10_000 {
			t.Errorf("got %d from one source, want 10000", used)
		}
		self := account{known.AgentID, known.AgentToken}
		wantSpread(t, func() *http.Response { return register(elsewhere, "a2") })
		wantRateLimited(t, send(elsewhere, self, "DELETE", "/api/v1/agents/known", ""), 429)
		for name, row := range map[string]struct {
			got  *http.Response
			want int
		}{
			"a known agent": {
				send(elsewhere, self, "POST", "/api/v1/register", `{"hostname":"h","agent_id":"known"}`), 200,
			},
			"a new agent from elsewhere":  {register(far, "a3"), 201},
			"a new one from this machine": {register(here, "a4"), 201},
			"a removal by the admin":      {send(elsewhere, admin, "DELETE", "/api/v1/agents/known", ""), 204},
		} {
			if row.got.StatusCode != row.want {
				t.Errorf("%s: got %d %s, want %d", name, row.got.StatusCode, text(t, row.got), row.want)
			}
		}
		time.Sleep(time.Second / 10)
		if got := register(elsewhere, "a2").StatusCode; got != 201 {
			t.Errorf("a new agent 100 ms later: got %d, want 201", got)
		}
	})
}

// Removals of agents by themselves count against registrations, not against the admin's class.
func TestLimits_Removals_ShareRegistrationLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		a1 := s.register("a1")
		wantRateLimited(t, s.call(a1, "DELETE", "/api/v1/agents/a1", ""), 429)
		if resp := s.call(admin, "GET", "/api/v1/agents", ""); resp.StatusCode != 200 {
			t.Errorf("the admin: got %d, want 200", resp.StatusCode)
		}
	})
}

// Routes of the API are limited, others are not.
func TestLimits_EveryRoute_Limited(t *testing.T) {
	for _, route := range api.Routes() {
		path := strings.NewReplacer(
			":id", "a1", ":version", "1", ":other", "1", "*page", "index.html",
		).Replace(route[1])
		synctest.Test(t, func(t *testing.T) {
			s := newLimited(t, scarce)
			s.call(account{}, route[0], path, "")
			got := s.call(account{}, route[0], path, "").StatusCode
			if limited := strings.HasPrefix(path, "/api/"); limited != (got == 429) {
				t.Errorf("%s %s for the second time: got %d", route[0], path, got)
			}
		})
	}
}

func TestLimits_Rejected_HasPollInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		a1 := s.register("a1")
		for _, interval := range []string{"30", "15"} {
			time.Sleep(time.Second)
			s.poll(a1, "")
			resp := s.poll(a1, "")
			if got := resp.Header.Get(wire.HeaderPollInterval); got != interval {
				t.Errorf("got the interval %q, want %s", got, interval)
			}
			wantRateLimited(t, resp, 429)
			s.publishHere("http://a/", 15)
		}
		time.Sleep(time.Second)
		s.register("a2")
		if got := s.call(
			enroller, "POST", "/api/v1/register", `{"hostname":"h"}`,
		).Header.Get(wire.HeaderPollInterval); got != "" {
			t.Errorf("a registration got the interval %q, want none", got)
		}
	})
}

// publishHere publishes as an admin on this machine.
func (s *system) publishHere(url string, interval int) {
	s.t.Helper()
	r := httptest.NewRequestWithContext(
		s.t.Context(), "POST", "/api/v1/config",
		strings.NewReader(fmt.Sprintf(`{"url":%q,"poll_interval_seconds":%d}`, url, interval)),
	)
	r.RemoteAddr = here
	r.SetBasicAuth(admin[0], admin[1])
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != 200 {
		s.t.Fatalf("publish %s: got %d %s", url, w.Code, w.Body)
	}
}

// Rejected requests are told to retry at different times.
func TestLimits_ReconnectStorm_RetryAfterSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, access.Limits{Register: 100, Config: 100, Status: 100, Admin: 100})
		seen := map[string]int{}
		for i := range 2100 {
			if resp := s.call(enroller, "GET", "/api/v1/config", ""); resp.StatusCode == 429 {
				seen[resp.Header.Get("Retry-After")]++
			} else if i >= 100 {
				t.Fatalf("request %d: got %d, want 429", i, resp.StatusCode)
			}
		}
		for second := 1; second <= 21; second++ { // 2000 of them take 20 s to serve
			if second <= 15 && seen[strconv.Itoa(second)] == 0 {
				t.Errorf("no Retry-After of 2000 is %d s: %v", second, seen)
			}
			delete(seen, strconv.Itoa(second))
		}
		if len(seen) > 0 {
			t.Errorf("got Retry-After %v, want 1 to 21", seen)
		}
	})
}

func TestLimits_Draining_503(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		s.call(enroller, "GET", "/api/v1/config", "")
		close(s.draining)
		resp := s.call(enroller, "GET", "/api/v1/config", "")
		if got := resp.Header.Get("Retry-After"); got != "1" && got != "2" { // as for a 429, not as for a busy store
			t.Errorf("got Retry-After %q, want 1 or 2", got)
		}
		wantRateLimited(t, resp, 503)
	})
}

func TestErrors_StoreBusy_RetryAfterSpread(t *testing.T) {
	s := newSystem(t)
	s.register("a1")
	s.publish("http://a/")
	close(s.draining)
	seen := map[string]bool{}
	for range 200 {
		resp := s.call(admin, "GET", "/api/v1/rollouts/1?wait=60s", "")
		after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if resp.StatusCode != 503 || err != nil || after < 5 || after > 10 {
			t.Fatalf(
				"got %d with Retry-After %q, want 503 with 5 to 10", resp.StatusCode, resp.Header.Get("Retry-After"),
			)
		}
		seen[resp.Header.Get("Retry-After")] = true
	}
	if len(seen) < 3 {
		t.Errorf("got only %v, want them spread", seen)
	}
}

func TestLimits_AdminOnLoopback_Unlimited(t *testing.T) {
	for name, row := range map[string]struct {
		remote  string
		who     account
		path    string
		headers []string
		want    int
	}{
		"here":                             {here, admin, "/api/v1/agents", nil, 200},
		"here over IPv6":                   {"[::1]:40000", admin, "/api/v1/agents", nil, 200},
		"here, as a poll":                  {here, admin, "/api/v1/config", nil, 200},
		"here, with a wrong password":      {here, account{"admin", "guess"}, "/api/v1/agents", nil, 429},
		"an agent here":                    {here, enroller, "/api/v1/config", nil, 429},
		"a wrong password here, as a poll": {here, account{"admin", "guess"}, "/api/v1/config", nil, 429},
		"anonymous here, as a poll":        {here, account{}, "/api/v1/config", nil, 429},
		"elsewhere":                        {"192.0.2.1:40000", admin, "/api/v1/agents", nil, 429},
		"elsewhere, as a poll":             {"192.0.2.1:40000", admin, "/api/v1/config", nil, 429},
		"elsewhere, saying here": {
			"192.0.2.1:40000", admin, "/api/v1/agents", []string{"X-Forwarded-For", "127.0.0.1"}, 429,
		},
		"through a proxy here": {
			here, admin, "/api/v1/agents", []string{"X-Forwarded-For", "192.0.2.1"}, 429,
		},
		"through a proxy here with Via": {here, admin, "/api/v1/agents", []string{"Via", "1.1 proxy"}, 429},
		"through a proxy here, as a poll": {
			here, admin, "/api/v1/config", []string{"Forwarded", "for=192.0.2.1"}, 429,
		},
		"through a proxy that names itself": {here, admin, "/api/v1/agents", []string{"X-Real-IP", "127.0.0.1"}, 429},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLimited(t, scarce)
				s.publishHere("http://a/", 30)
				s.call(admin, "GET", "/api/v1/agents", "")
				s.call(admin, "GET", "/api/v1/config", "")
				for i := range 100 {
					resp := s.callFrom(row.remote, row.who, "GET", row.path, row.headers...)
					if first := i == 0 && resp.StatusCode == 401; resp.StatusCode != row.want && !first {
						t.Fatalf("got %d %s, want %d", resp.StatusCode, text(t, resp), row.want)
					}
				}
			})
		})
	}
}

// Requests of an admin on this machine do not count against the class.
func TestLimits_AdminOnLoopback_NotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		for range 100 {
			s.callFrom(here, admin, "GET", "/api/v1/agents")
		}
		if resp := s.call(admin, "GET", "/api/v1/agents", ""); resp.StatusCode != 200 {
			t.Errorf("after 100 from here, one from elsewhere got %d, want 200", resp.StatusCode)
		}
	})
}

// slowBody is an empty body that blocks until release is closed.
type slowBody struct{ release <-chan struct{} }

func (b slowBody) Read([]byte) (int, error) { <-b.release; return 0, io.EOF }

// occupy keeps a POST request from another machine in flight until release is called.
func (s *system) occupy(who account, path string) (release func()) {
	s.t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	r := httptest.NewRequestWithContext(s.t.Context(), "POST", path, slowBody{stop})
	r.SetBasicAuth(who[0], who[1])
	r.Header.Set("Content-Type", "application/json")
	go func() {
		defer close(done)
		s.handler.ServeHTTP(httptest.NewRecorder(), r)
	}()
	synctest.Wait()
	return func() { close(stop); <-done }
}

func TestLimits_InFlight_Bounded(t *testing.T) {
	for name, row := range map[string]struct {
		who        account
		slow       string
		method     string
		path, body string
	}{
		"admin":    {admin, "/api/v1/config", "GET", "/api/v1/agents", ""},
		"register": {enroller, "/api/v1/register", "POST", "/api/v1/register", `{"hostname":"h"}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLimited(t, scarce)
				release := s.occupy(row.who, row.slow)
				time.Sleep(time.Minute)
				wantRateLimited(t, s.call(row.who, row.method, row.path, row.body), 429)
				if resp := s.callFrom(here, admin, "GET", "/api/v1/agents"); resp.StatusCode != 200 {
					t.Errorf("an admin here: got %d, want 200", resp.StatusCode)
				}
				release()
				if resp := s.call(row.who, row.method, row.path, row.body); resp.StatusCode >= 400 {
					t.Errorf("after the release: got %d, want it served", resp.StatusCode)
				}
			})
		})
	}
}

// Registrations in flight are bounded whatever the rate limit, so that they do not time out
// while they wait for the store.
func TestLimits_RegistrationsInFlight_Bounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, access.Limits{Register: 10_000, Config: 1, Status: 1, Admin: 1})
		for range 250 {
			defer s.occupy(enroller, "/api/v1/register")()
		}
		wantRateLimited(t, s.call(enroller, "POST", "/api/v1/register", `{"hostname":"h"}`), 429)
	})
}

// A request releases its slot, whatever its response.
func TestLimits_Answered_SlotsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		for _, path := range []string{"/api/v1/agents?nope=1", "/api/v1/agents?limit=0", "/api/v1/agents/none"} {
			for _, who := range []account{{}, {"admin", "guess"}, enroller, admin} {
				if resp := s.call(who, "GET", path, ""); resp.StatusCode == 429 {
					t.Fatalf("%s by %q: got 429, want a slot", path, who[0])
				}
				time.Sleep(time.Second)
			}
		}
	})
}

// A held response takes no slot.
func TestLimits_HeldPolls_TakeNoSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		a1 := s.register("a1")
		s.publish("http://a/")
		const held = 20
		answered := make(chan int, held)
		for range held {
			time.Sleep(time.Second)
			go func() { answered <- s.call(admin, "GET", "/api/v1/rollouts/1?wait=300s", "").StatusCode }()
			synctest.Wait()
		}
		if len(answered) > 0 {
			t.Fatalf("got %d, want it held", <-answered)
		}
		time.Sleep(time.Second)
		s.report(a1, 1, applied)
		for range held {
			if got := <-answered; got != 200 {
				t.Errorf("a held response: got %d, want 200", got)
			}
		}
		time.Sleep(time.Second)
		if resp := s.call(admin, "GET", "/api/v1/agents", ""); resp.StatusCode != 200 {
			t.Errorf("after the held requests: got %d, want 200", resp.StatusCode)
		}
	})
}

// onAnswer calls do when the response begins.
type onAnswer struct {
	*httptest.ResponseRecorder
	do func()
}

func (o onAnswer) WriteHeader(status int) { o.do(); o.ResponseRecorder.WriteHeader(status) }

// A held request takes a slot again before its response is written.
func TestLimits_HeldPollsAnswered_TakeSlots(t *testing.T) {
	for class, path := range map[string]string{
		"poll": "/api/v1/config?wait=1s", "admin": "/api/v1/rollouts/1?wait=1s",
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(t)
			tag := s.publish("http://a/").Header.Get("ETag")
			r := httptest.NewRequestWithContext(t.Context(), "GET", path, http.NoBody)
			r.SetBasicAuth(admin[0], admin[1])
			r.Header.Set("If-None-Match", tag)
			answered := false
			s.handler.ServeHTTP(onAnswer{httptest.NewRecorder(), func() {
				answered = true
				if got := s.series("fleetconf_controller_http_requests_in_flight")[class]; got != 1 {
					t.Errorf("%s: %v are in flight, want 1", path, got)
				}
			}}, r)
			if !answered {
				t.Errorf("%s: no response began", path)
			}
		})
	}
}

// Invalid credentials beyond the limit get 429, and the audit log counts all of them.
func TestLimits_WrongCredentials_Rejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		for i := range 1000 {
			resp := s.call(account{"admin", "guess"}, "GET", "/api/v1/agents", "")
			if want := 429; i > 0 && resp.StatusCode != want {
				t.Fatalf("guess %d: got %d, want %d", i, resp.StatusCode, want)
			}
			if i > 0 && resp.Header.Get("WWW-Authenticate") != "" {
				t.Fatal("a 429 has a WWW-Authenticate header")
			}
		}
		var entries []string
		for _, e := range decode[[]wire.AuditEntry](t, s.callFrom(here, admin, "GET", "/api/v1/audit")) {
			entries = append(entries, e.Action+" "+e.Detail)
		}
		if diff := cmp.Diff([]string{"login_failed 1000 times, first on GET /api/v1/agents"}, entries); diff != "" {
			t.Errorf("the audit log, -want +got:\n%s", diff)
		}
		s.wantSeries("credentials_refused_total", map[string]float64{"": 1000})
	})
}

func TestLimits_Rejections_LoggedOncePerMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		flood := func(who account, method, path string, n int) {
			for range n + 1 {
				s.call(who, method, path, "")
			}
		}
		guess := account{"admin", "guess"}
		s.callFrom(here, admin, "GET", "/api/v1/audit")
		flood(enroller, "GET", "/api/v1/config", 10)
		flood(enroller, "POST", "/api/v1/register", 5)
		time.Sleep(time.Minute)
		flood(enroller, "GET", "/api/v1/config", 3)
		flood(guess, "GET", "/api/v1/agents", 7)
		var got []string
		for _, entry := range s.logged.AllEntries() {
			if line, _ := entry.String(); strings.Contains(line, "guess") || strings.Contains(line, "secret123") {
				t.Errorf("a password is in the log: %s", line)
			}
			if entry.Level == logrus.WarnLevel && entry.Data["class"] != nil {
				got = append(
					got, fmt.Sprint(entry.Data["class"], " ", entry.Data["rejected"], " ", entry.Data["in_flight"]),
				)
			}
		}
		want := []string{"poll 1 0", "register 1 0", "poll 10 0", "admin 1 0"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("class, rejected and in_flight of the log lines, -want +got:\n%s", diff)
		}
	})
}

// Polls are answered during a storm of registrations, over real connections.
func TestLimits_RegistrationStorm_AdminServed(t *testing.T) {
	s := newLimited(t, access.Limits{Register: 20, Config: 100_000, Status: 1, Admin: 1})
	s.publishHere("http://a/", 30)
	a1 := s.register("a1")
	tag := s.poll(a1, "").Header.Get("ETag")
	ts := httptest.NewServer(s.handler)
	defer ts.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	defer client.CloseIdleConnections()
	send := func(who account, method, path, body string, headers ...string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, ts.URL+path, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		r.SetBasicAuth(who[0], who[1])
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		resp, err := client.Do(r)
		if err != nil {
			return nil, err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp, nil
	}

	var storm, polls sync.WaitGroup
	var registered, rateLimited atomic.Int64
	const agents = 1000
	queue := make(chan int, agents)
	for i := range agents {
		queue <- i
	}
	close(queue)
	for range 100 {
		storm.Go(func() {
			for i := range queue {
				resp, err := send(
					enroller, "POST", "/api/v1/register", fmt.Sprintf(`{"hostname":"h","agent_id":"s%d"}`, i),
				)
				switch {
				case err != nil:
					t.Errorf("registration %d: %v", i, err)
				case resp.StatusCode == 201:
					registered.Add(1)
				case resp.StatusCode == 429 && resp.Header.Get("Retry-After") != "":
					rateLimited.Add(1)
				default:
					t.Errorf("registration %d: got %d", i, resp.StatusCode)
				}
			}
		})
	}
	for i := range 4 {
		polls.Go(func() {
			for range 50 {
				headers, want := []string{"If-None-Match", tag}, 304
				if i%2 == 0 {
					headers, want = nil, 200
				}
				if resp, err := send(a1, "GET", "/api/v1/config", "", headers...); err != nil ||
					resp.StatusCode != want {
					t.Errorf("a poll in the storm: got %v, %v, want %d", resp, err, want)
				}
			}
		})
	}
	polls.Wait()
	storm.Wait()
	if registered.Load() == 0 || rateLimited.Load() < agents/2 {
		t.Errorf("registered %d and rejected %d of %d", registered.Load(), rateLimited.Load(), agents)
	}
}

// After a publish the whole fleet reports at the same time, and every report is accepted.
func TestLimits_ReportsOfAFleet_Accepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in fake time, so that a slow machine passes
		s := newLimited(t, access.Limits{Register: 1000, Config: 1, Status: 20_000, Admin: 1})
		s.publishHere("http://a/", 30)
		var agents [200]account
		for i := range agents {
			agents[i] = s.register(fmt.Sprint("a", i))
		}
		var group sync.WaitGroup
		var rejected atomic.Int64
		for i := range 10_000 {
			self := agents[i%len(agents)]
			group.Go(func() {
				if resp := s.call(
					self, "POST", "/api/v1/agents/"+self[0]+"/status", `{"version":1,"status":"APPLIED"}`,
				); resp.StatusCode != 204 {
					rejected.Add(1)
				}
			})
		}
		group.Wait()
		if rejected.Load() > 0 {
			t.Errorf("%d of 10000 reports were rejected", rejected.Load())
		}
	})
}

// Unauthorized requests take no capacity from authorized ones. They are those of anonymous
// callers, with invalid credentials, and of agents on other routes.
func TestLimits_InvalidCredentials_AgentsServed(t *testing.T) {
	for name, row := range map[string]struct {
		who                account // "a1" stands for that agent
		method, path, body string
	}{
		"register": {enroller, "POST", "/api/v1/register", `{"hostname":"h"}`},
		"remove":   {account{"a1"}, "DELETE", "/api/v1/agents/a1", ""},
		"poll":     {account{"a1"}, "GET", "/api/v1/config", ""},
		"report":   {account{"a1"}, "POST", "/api/v1/agents/a1/status", `{"version":1,"status":"APPLIED"}`},
		"read":     {admin, "GET", "/api/v1/agents", ""},
		"publish":  {admin, "POST", "/api/v1/config", `{"url":"http://b/"}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLimited(t, scarce)
				s.publishHere("http://a/", 30)
				a1 := s.register("a1")
				time.Sleep(time.Second)
				a2 := s.register("a2")
				time.Sleep(time.Second)
				if row.who[0] == "a1" {
					row.who = a1
				}
				callers := []account{{}, {"admin", "guess"}, {"agent", "guess"}, {"a1", "guess"}, {"unknown", "guess"}}
				if name != "poll" && name != "register" { // which a2 may do
					callers = append(callers, a2)
				}
				rejected := 0
				for i := range 600 {
					if s.callWith(
						elsewhere, nil, callers[i%len(callers)], row.method, row.path, row.body,
					).StatusCode == 429 {
						rejected++
					}
				}
				if rejected < 590 {
					t.Errorf("%d of 600 unauthorized requests were rejected, want nearly all", rejected)
				}
				if resp := s.callWith(far, nil, row.who, row.method, row.path, row.body); resp.StatusCode >= 400 {
					t.Errorf("the authorized caller: got %d %s", resp.StatusCode, text(t, resp))
				}
			})
		})
	}
}

// Anonymous requests of one class do not affect another class, and do not raise the
// Retry-After of authorized callers.
func TestLimits_InvalidCredentials_RejectedPerClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		s.publishHere("http://a/", 30)
		for range 1000 {
			s.callFrom(elsewhere, account{}, "GET", "/api/v1/config")
		}
		for path, method := range map[string]string{
			"/api/v1/register": "POST", "/api/v1/agents/a1/status": "POST", "/api/v1/agents": "GET",
		} {
			wantProblem(t, s.callFrom(elsewhere, account{}, method, path), 401, "")
			wantRateLimited(t, s.callFrom(elsewhere, account{}, method, path), 429)
		}
		for range 10 {
			s.callFrom(elsewhere, enroller, "GET", "/api/v1/config")
			resp := s.callFrom(elsewhere, enroller, "GET", "/api/v1/config")
			wantRateLimited(t, resp, 429)
			if after := resp.Header.Get("Retry-After"); after != "1" && after != "2" {
				t.Errorf("an authorized caller: got Retry-After %s, want 1 or 2", after)
			}
			time.Sleep(2 * time.Second)
		}
	})
}

// Unauthorized requests with slow bodies hold no slots.
func TestLimits_InvalidCredentialsInFlight_TakeNoSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, scarce)
		for range 5 {
			defer s.occupy(account{"agent", "guess"}, "/api/v1/register")()
			defer s.occupy(account{"admin", "guess"}, "/api/v1/config")()
		}
		if resp := s.call(enroller, "POST", "/api/v1/register", `{"hostname":"h"}`); resp.StatusCode != 201 {
			t.Errorf("a registration: got %d, want 201", resp.StatusCode)
		}
		if resp := s.call(admin, "GET", "/api/v1/agents", ""); resp.StatusCode != 200 {
			t.Errorf("the admin: got %d, want 200", resp.StatusCode)
		}
	})
}

// A flood of unauthorized requests to admin routes does not lock out the admin.
func TestLimits_InvalidCredentials_AdminServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, access.Limits{Register: 1, Config: 1, Status: 1, Admin: 1})
		rejected := 0
		for range 60 {
			for _, who := range []account{{}, {"admin", "wrong"}} {
				if s.callFrom("192.0.2.7:40000", who, "GET", "/api/v1/agents").StatusCode == 429 {
					rejected++
				}
			}
			if got := s.callFrom("192.0.2.7:40000", admin, "GET", "/api/v1/agents").StatusCode; got != 200 {
				t.Fatalf("the admin: got %d, want 200", got)
			}
			time.Sleep(time.Second)
		}
		if rejected < 50 {
			t.Errorf("%d unauthorized requests were rejected, want most of 120", rejected)
		}
	})
}
