package api_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/api"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/pkg/certs"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// newTLSListener returns a TLS listener with HTTP/2 on ln, and a client configuration that
// trusts it.
func newTLSListener(t *testing.T, ln net.Listener) (net.Listener, *tls.Config) {
	t.Helper()
	authority, err := certs.NewAuthority("authority", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Issue(certs.Leaf{
		Name: "controller", Hosts: []string{"controller"}, NotAfter: time.Now().Add(24 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return tls.NewListener(
		ln, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}},
	), &tls.Config{RootCAs: authority.Pool()}
}

// verifiedUntil returns the state of a connection whose client certificate expires at ends.
func verifiedUntil(ends time.Time) *tls.ConnectionState {
	cert := &x509.Certificate{NotAfter: ends}
	return &tls.ConnectionState{
		PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}},
	}
}

// If TLS_CLIENT_CA_FILE is set, agents need a certificate on every route. The admin and
// anonymous callers do not, and invalid credentials get 401 with or without one.
func TestRoutes_CertificateRequired_ByAccess(t *testing.T) {
	var (
		plain    *tls.ConnectionState
		none     = &tls.ConnectionState{}
		unproven = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
		verified = verifiedUntil(time.Now().Add(time.Hour))
		expired  = verifiedUntil(time.Now().Add(-time.Second)) // since the handshake
	)
	invalid := account{"agent", "guessed"}
	for _, mutual := range []bool{true, false} {
		s := newLimited(
			t, access.Limits{Register: 1000, Config: 1000, Status: 1000, Admin: 1000},
			func(o *api.Options) { o.Mutual = mutual },
		)
		call := func(conn *tls.ConnectionState, who account, method, path, body string) *http.Response {
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
			r.TLS = conn
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
		s.publish("http://a/")
		registered := decode[struct {
			ID    string `json:"agent_id"`
			Token string `json:"agent_token"`
		}](t, call(verified, enroller, "POST", "/api/v1/register", `{"hostname":"h","agent_id":"a1"}`))
		a1 := account{registered.ID, registered.Token}
		for _, row := range []struct {
			who                account
			method, path, body string
			certified, without int
		}{
			{enroller, "POST", "/api/v1/register", `{"hostname":"h","agent_id":"a2"}`, 201, 403},
			{enroller, "GET", "/api/v1/config", "", 200, 403},
			{a1, "GET", "/api/v1/config", "", 200, 403},
			{a1, "GET", "/api/v1/config?wait=1s", "", 200, 403},
			{a1, "POST", "/api/v1/agents/a1/status", `{"version":1,"status":"APPLIED"}`, 204, 403},
			{a1, "DELETE", "/api/v1/agents/a1", "", 204, 403},
			{invalid, "GET", "/api/v1/config", "", 401, 401},
			{account{}, "GET", "/api/v1/config", "", 401, 401},
			{admin, "GET", "/api/v1/config", "", 200, 200},
			{admin, "GET", "/api/v1/agents", "", 200, 200},
			{admin, "POST", "/api/v1/config", `{"url":"http://a/"}`, 200, 200},
			{account{}, "GET", "/health", "", 200, 200},
			{account{}, "GET", "/ready", "", 200, 200},
			{account{}, "GET", "/version", "", 200, 200},
		} {
			if !mutual && row.without == 403 {
				row.without = row.certified
			}
			for _, conn := range []*tls.ConnectionState{plain, none, unproven, expired, verified} {
				want := row.without
				if conn == verified {
					want = row.certified
				}
				if want != 403 && (row.method == "DELETE" || row.path == "/api/v1/register") && conn != verified {
					continue // the request can succeed only once
				}
				resp := call(conn, row.who, row.method, row.path, row.body)
				if resp.StatusCode != want && (want != 201 || resp.StatusCode != 200) {
					t.Errorf(
						"mutual %v: %s %s as %q, verified %v: got %d %s, want %d", mutual, row.method, row.path,
						row.who[0], conn == verified, resp.StatusCode, text(t, resp), want,
					)
				}
				if want == 403 {
					wantProblem(t, resp, 403, "")
					if resp.Header.Get("Connection") != "close" {
						t.Errorf(
							"%s %s: the connection is kept, but its certificate cannot change", row.method, row.path,
						)
					}
				}
			}
		}
	}
	s := newLimited(
		t, access.Limits{Register: 1000, Config: 1000, Status: 1000, Admin: 1000},
		func(o *api.Options) { o.Mutual = true },
	)
	if got := text(t, s.call(enroller, "GET", "/api/v1/config", "")); !strings.Contains(got, "CONTROLLER_CERT_FILE") {
		t.Errorf("got %s, want what to set", got)
	}
}

// Valid credentials without a certificate are recorded like invalid ones.
func TestCertificate_Missing_Audited(t *testing.T) {
	s := newLimited(
		t, access.Limits{Register: 1000, Config: 1000, Status: 1000, Admin: 1000},
		func(o *api.Options) { o.Mutual = true },
	)
	var resp *http.Response
	for range 2 {
		resp = s.call(enroller, "POST", "/api/v1/register", `{"hostname":"h"}`)
	}
	s.wantSeries("credentials_refused_total", map[string]float64{"": 2})
	lines := s.logged.AllEntries()
	if len(lines) != 1 || lines[0].Level != logrus.WarnLevel ||
		lines[0].Data["request_id"] == resp.Header.Get(server.HeaderRequestID) {
		t.Fatalf("logged %v, want one warning, of the first", lines)
	}
	if from, by := lines[0].Data["source_ip"], lines[0].Data["by"]; from != "192.0.2.1" || by != "agent" {
		t.Errorf("logged a request by %v from %v, want agent from 192.0.2.1", by, from)
	}
	if diff := cmp.Diff([]string{"login_failed by agent"}, s.actions("")); diff != "" {
		t.Errorf("the audit log, -want +got:\n%s", diff)
	}
}

// verifiedAs returns the state of a connection whose client certificate has these DNS names.
func verifiedAs(names ...string) *tls.ConnectionState {
	conn := verifiedUntil(time.Now().Add(time.Hour))
	conn.VerifiedChains[0][0].DNSNames = names
	return conn
}

// callOver sends a request over a connection with the given state.
func (s *system) callOver(conn *tls.ConnectionState, who account, method, path, body string) *http.Response {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, path, strings.NewReader(body))
	r.TLS = conn
	r.SetBasicAuth(who[0], who[1])
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w.Result()
}

// newMutual returns a system that requires client certificates of agents.
func newMutual(t *testing.T) *system {
	t.Helper()
	limits := access.Limits{Register: 1000, Config: 1000, Status: 1000, Admin: 1000}
	return newLimited(t, limits, func(o *api.Options) { o.Mutual = true })
}

// registerOver registers an agent with secretA over a connection with the given state.
func (s *system) registerOver(conn *tls.ConnectionState, who account, id string) *http.Response {
	s.t.Helper()
	body := fmt.Sprintf(`{"hostname":"h","agent_id":%q,"agent_secret":%q}`, id, secretA)
	return s.callOver(conn, who, "POST", "/api/v1/register", body)
}

// An agent cannot use another agent's certificate of the same authority.
func TestCertificate_OtherName_Rejected(t *testing.T) {
	s := newMutual(t)
	register := func(conn *tls.ConnectionState, who account) *http.Response { return s.registerOver(conn, who, "a1") }
	agent := func(resp *http.Response) account {
		t.Helper()
		got := decode[wire.RegisterResponse](t, resp)
		return account{got.AgentID, got.AgentToken}
	}
	s.publish("http://a/")
	a1 := agent(register(verifiedAs("web-1", "10.0.0.1"), enroller))
	for _, row := range []struct{ method, path, body string }{
		{"GET", "/api/v1/config", ""},
		{"GET", "/api/v1/config?wait=1s", ""},
		{"POST", "/api/v1/agents/a1/status", `{"version":1,"status":"APPLIED"}`},
	} {
		renewed := verifiedAs("10.0.0.1", "web-1")
		if resp := s.callOver(renewed, a1, row.method, row.path, row.body); resp.StatusCode >= 300 {
			t.Errorf("%s %s over its certificate: got %d %s", row.method, row.path, resp.StatusCode, text(t, resp))
		}
		resp := s.callOver(verifiedAs("web-2"), a1, row.method, row.path, row.body)
		if resp.Header.Get("Connection") != "close" {
			t.Errorf("%s %s: the connection is kept, but its certificate cannot change", row.method, row.path)
		}
		wantProblem(t, resp, 403, "")
	}
	wantProblem(t, s.callOver(verifiedAs("web-2"), a1, "DELETE", "/api/v1/agents/a1", ""), 403, "")
	names := func(s string) bool { return strings.Contains(s, "DNS:web-1") && strings.Contains(s, "DNS:web-2") }
	if got := text(t, s.callOver(verifiedAs("web-2"), a1, "GET", "/api/v1/config", "")); !names(got) {
		t.Errorf("got %s, want both names", got)
	}

	// Only the agent's token binds another certificate; the shared password and the secret do not.
	wantProblem(t, register(verifiedAs("web-2"), enroller), 403, "")
	if resp := s.callOver(verifiedAs("web-1", "10.0.0.1"), a1, "GET", "/api/v1/config", ""); resp.StatusCode != 200 {
		t.Errorf("the agent after a registration that was refused: got %d", resp.StatusCode)
	}
	a1 = agent(register(verifiedAs("web-2"), a1))
	if resp := s.callOver(verifiedAs("web-2"), a1, "GET", "/api/v1/config", ""); resp.StatusCode != 200 {
		t.Errorf("rebound: got %d %s", resp.StatusCode, text(t, resp))
	}
	wantProblem(t, s.callOver(verifiedAs("web-1", "10.0.0.1"), a1, "GET", "/api/v1/config", ""), 403, "")
	entries := decode[[]wire.AuditEntry](t, s.call(admin, "GET", "/api/v1/audit?action=certificate", ""))
	if len(entries) != 1 || entries[0].Actor != "a1" || !names(entries[0].Detail) {
		t.Errorf("the audit log: got %+v, want one entry with both names", entries)
	}

	// After a reset the next registration binds any certificate of the authority.
	s.call(admin, "POST", "/api/v1/agents/a1/reset", "")
	a1 = agent(register(verifiedAs("web-3"), enroller))
	if resp := s.callOver(verifiedAs("web-3"), a1, "GET", "/api/v1/config", ""); resp.StatusCode != 200 {
		t.Errorf("after a reset: got %d %s", resp.StatusCode, text(t, resp))
	}
}

// An agent that registered before certificates were required must re-register. Its requests are
// not recorded as invalid credentials.
func TestCertificate_AgentRegisteredWithoutOne_MustReregister(t *testing.T) {
	s := newMutual(t)
	before := registry.Registration{ID: "a1", Hostname: "h", Metadata: []byte("{}"), Secret: secretA}
	_, token, _, err := s.agents.Register(t.Context(), before)
	if err != nil {
		t.Fatal(err)
	}
	a1, audited := account{"a1", token}, len(s.actions(""))
	resp := s.callOver(verifiedAs("web-1"), a1, "GET", "/api/v1/config", "")
	if resp.Header.Get("Connection") == "close" {
		t.Error("the connection is closed, but the agent could re-register over it")
	}
	wantProblem(t, resp, 403, "")
	if got := s.actions(""); len(got) != audited {
		t.Errorf("the audit log: got %v, want nothing more", got)
	}
	a1[1] = decode[wire.RegisterResponse](t, s.registerOver(verifiedAs("web-1"), a1, "a1")).AgentToken
	if resp := s.callOver(verifiedAs("web-1"), a1, "GET", "/api/v1/config", ""); resp.StatusCode != 404 {
		t.Errorf("after it re-registered: got %d %s", resp.StatusCode, text(t, resp))
	}
	if got := s.actions("?action=certificate"); len(got) != 0 {
		t.Errorf("the audit log: got %v, want no change of a certificate", got)
	}
}
