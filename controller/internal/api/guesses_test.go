package api_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/api"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// plenty are limits that no test here reaches.
var plenty = access.Limits{Register: 1000, Config: 1000, Status: 1000, Admin: 1000}

const (
	elsewhere = "198.51.100.7:40000"
	neighbour = "198.51.100.99:40000" // in the same source prefix
	far       = "203.0.113.7:40000"
)

func TestGuesses_Over20AMinute_Rejected(t *testing.T) {
	for name, row := range map[string]struct {
		who    account // the account whose password is guessed
		method string
		path   string
	}{
		"admin at an admin route":   {admin, "GET", "/api/v1/agents"},
		"admin at a poll":           {admin, "GET", "/api/v1/config"},
		"admin at a removal":        {admin, "DELETE", "/api/v1/agents/none"},
		"agents' password, polling": {enroller, "GET", "/api/v1/config"},
		"agents' password":          {enroller, "POST", "/api/v1/register"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLimited(t, plenty)
				guess := account{row.who[0], "guess"}
				for _, from := range []string{elsewhere, here, "[2001:db8::1]:40000"} {
					for i := range 20 {
						if got := s.callFrom(from, guess, row.method, row.path).StatusCode; got != 401 {
							t.Fatalf("%s: guess %d: got %d, want 401", from, i, got)
						}
					}
					resp := s.callFrom(from, guess, row.method, row.path)
					if resp.Header.Get("WWW-Authenticate") != "" {
						t.Errorf("%s: a rejected guess is asked for credentials", from)
					}
					wantRateLimited(t, resp, 429)
					wantSpread(t, func() *http.Response {
						// rejected too, as a 200 would show that the guess was right
						return s.callFrom(from, row.who, row.method, row.path)
					})
					if got := s.callFrom(far, row.who, row.method, row.path).StatusCode; got == 401 || got == 429 {
						t.Errorf("%s: the password from elsewhere: got %d, want it accepted", from, got)
					}
					time.Sleep(time.Minute)
					if got := s.callFrom(from, guess, row.method, row.path).StatusCode; got != 401 {
						t.Errorf("%s: a minute later: got %d, want 401", from, got)
					}
					if got := s.callFrom(from, row.who, row.method, row.path).StatusCode; got == 401 || got == 429 {
						t.Errorf("%s: the password a minute later: got %d, want it accepted", from, got)
					}
				}
			})
		})
	}
}

// A host with an old password does not lock out others in the same source prefix.
func TestGuesses_SourceAuthenticatedBefore_Accepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, plenty)
		s.callFrom(elsewhere, admin, "GET", "/api/v1/agents")
		for range 100 {
			s.callFrom(neighbour, account{"admin", "old"}, "GET", "/api/v1/agents")
			if got := s.callFrom(elsewhere, admin, "GET", "/api/v1/agents").StatusCode; got != 200 {
				t.Fatalf("the admin: got %d, want 200", got)
			}
		}
		wantRateLimited(t, s.callFrom(neighbour, account{"admin", "old"}, "GET", "/api/v1/agents"), 429)
		if got := s.callFrom(neighbour, enroller, "GET", "/api/v1/config").StatusCode; got != 404 {
			t.Errorf("another account from there: got %d, want it accepted", got)
		}
	})
}

// Guesses from the admin's own source are limited too.
func TestGuesses_SourceOfAdmin_Bounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, plenty)
		for _, from := range []string{here, elsewhere} {
			s.callFrom(from, admin, "GET", "/api/v1/agents")
			for range 1000 {
				s.callFrom(from, account{"admin", "guess"}, "GET", "/api/v1/config")
			}
			wantRateLimited(t, s.callFrom(from, admin, "GET", "/api/v1/config"), 429)
			time.Sleep(time.Second)
			if got := s.callFrom(from, admin, "GET", "/api/v1/agents").StatusCode; got != 200 {
				t.Errorf("a second later: got %d, want 200", got)
			}
		}
	})
}

// Tokens cannot be guessed, so wrong tokens do not lock out an agent.
func TestGuesses_AgentToken_NeverLockedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, plenty)
		a1 := s.register("a1")
		for range 100 {
			s.callFrom(elsewhere, account{"a1", "guess"}, "GET", "/api/v1/config")
		}
		if got := s.callFrom(elsewhere, account{"a1", "guess"}, "GET", "/api/v1/config").StatusCode; got != 401 {
			t.Errorf("a wrong token: got %d, want 401", got)
		}
		if got := s.callFrom(elsewhere, a1, "GET", "/api/v1/config").StatusCode; got != 404 {
			t.Errorf("the agent: got %d, want it accepted", got)
		}
	})
}

// Agents that the store lost get 401, on which they register again.
func TestGuesses_UnknownNames_Get401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, plenty)
		for i := range 200 {
			who := account{fmt.Sprint("agent-", i), "token"}
			if got := s.callFrom(elsewhere, who, "GET", "/api/v1/config").StatusCode; got != 401 {
				t.Fatalf("agent %d: got %d, want 401", i, got)
			}
		}
	})
}

// Guesses from other source prefixes do not reset the count of one prefix.
func TestGuesses_ManySources_CountKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLimited(t, plenty)
		guess := account{"admin", "guess"}
		for range 20 {
			s.callFrom(elsewhere, guess, "GET", "/api/v1/agents")
		}
		for i := range 5000 {
			s.callFrom(fmt.Sprintf("10.%d.%d.1:40000", i/250, i%250), guess, "GET", "/api/v1/agents")
		}
		wantRateLimited(t, s.callFrom(elsewhere, guess, "GET", "/api/v1/agents"), 429)
		if got := s.callFrom(far, admin, "GET", "/api/v1/agents").StatusCode; got != 200 {
			t.Errorf("the admin from another source: got %d, want 200", got)
		}
	})
}

// The recorded address is that of the peer, or the one that a trusted proxy names.
func TestSource_ForwardingHeaders(t *testing.T) {
	synctest.Test(t, testForwardingHeaders)
}

func testForwardingHeaders(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28"), netip.MustParsePrefix("2001:db8:1::/48")}
	s := newLimited(t, plenty, func(o *api.Options) { o.TrustedProxies = proxies })
	via := func(lines ...string) http.Header { return http.Header{"X-Forwarded-For": lines} }
	for name, row := range map[string]struct {
		remote  string
		headers http.Header
		want    string
	}{
		"no header":               {"192.0.2.1:1", nil, "192.0.2.1"},
		"through a proxy":         {"192.0.2.1:1", via("203.0.113.9"), "203.0.113.9"},
		"from anywhere":           {"198.51.100.1:1", via("203.0.113.9"), "198.51.100.1"},
		"from loopback":           {"127.0.0.1:1", via("203.0.113.9"), "127.0.0.1"},
		"two proxies":             {"192.0.2.1:1", via("203.0.113.9, 192.0.2.2"), "203.0.113.9"},
		"what a client wrote":     {"192.0.2.1:1", via("127.0.0.1, 203.0.113.9"), "203.0.113.9"},
		"in a line of its own":    {"192.0.2.1:1", via("127.0.0.1", "203.0.113.9"), "203.0.113.9"},
		"no address":              {"192.0.2.1:1", via("203.0.113.9, unknown"), "192.0.2.1"},
		"no address further away": {"192.0.2.1:1", via("unknown, 192.0.2.2"), "192.0.2.2"},
		"proxies alone":           {"192.0.2.1:1", via("192.0.2.3, 192.0.2.2"), "192.0.2.3"},
		"with a port":             {"192.0.2.1:1", via("203.0.113.9:4000"), "203.0.113.9"},
		"IPv6":                    {"[2001:db8:1::1]:1", via("2001:db8:2::1"), "2001:db8:2::1"},
		"IPv6 with a port":        {"[2001:db8:1::1]:1", via("[2001:db8:2::1]:4000"), "2001:db8:2::1"},
		"IPv4 in IPv6":            {"[::ffff:192.0.2.1]:1", via("::ffff:203.0.113.9"), "203.0.113.9"},
		"with a zone":             {"[fe80::1%eth0]:1", nil, "fe80::1"},
		"other headers": {"192.0.2.1:1", http.Header{
			"X-Real-Ip": {"203.0.113.9"}, "Forwarded": {"for=203.0.113.9"},
			"True-Client-Ip": {"203.0.113.9"}, "Cf-Connecting-Ip": {"203.0.113.9"},
		}, "192.0.2.1"},
		"an empty header": {"192.0.2.1:1", via("", " , "), "192.0.2.1"},
		"a long header":   {"192.0.2.1:1", via(strings.Repeat("192.0.2.2,", 2000) + "203.0.113.9"), "203.0.113.9"},
	} {
		time.Sleep(time.Minute) // after which invalid credentials are logged again
		s.logged.Reset()
		send := func(who account, method, path, body string) *http.Response {
			return s.callWith(row.remote, row.headers, who, method, path, body)
		}
		body := fmt.Sprintf(`{"url":"http://a/%s"}`, url.PathEscape(name))
		if resp := send(admin, "POST", "/api/v1/config", body); resp.StatusCode != 200 {
			t.Fatalf("%s: publish: got %d %s", name, resp.StatusCode, text(t, resp))
		}
		send(account{"admin", "guess"}, "GET", "/api/v1/agents", "")
		got := map[string]string{}
		for _, c := range decode[[]wire.PublishedConfig](t, send(admin, "GET", "/api/v1/configs?limit=1", "")) {
			got["history"] = c.SourceIP
		}
		for _, e := range decode[[]wire.AuditEntry](t, send(admin, "GET", "/api/v1/audit?limit=2", "")) {
			got["audit "+e.Action] = e.SourceIP
		}
		for _, line := range s.logged.AllEntries() {
			got["log "+line.Message] = fmt.Sprint(line.Data["source_ip"])
		}
		want := map[string]string{
			"history": row.want, "audit publish": row.want, "audit login_failed": row.want,
			"log Configuration published":                                     row.want,
			"log Credentials rejected; others within a minute are not logged": row.want,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the recorded address, -want +got:\n%s", name, diff)
		}
	}
}

// Clients behind a trusted proxy are limited separately, those behind other proxies together.
func TestGuesses_BehindProxy_LimitedByClient(t *testing.T) {
	for _, trusted := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newLimited(t, plenty, func(o *api.Options) {
				if trusted {
					o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
				}
			})
			for range 50 {
				s.callFrom(here, account{"admin", "guess"}, "GET", "/api/v1/agents", "X-Forwarded-For", "198.51.100.7")
			}
			resp := s.callFrom(here, admin, "GET", "/api/v1/agents", "X-Forwarded-For", "203.0.113.7")
			if (resp.StatusCode == 200) != trusted {
				t.Errorf("trusted %v: another client behind it got %d", trusted, resp.StatusCode)
			}
		})
	}
}
