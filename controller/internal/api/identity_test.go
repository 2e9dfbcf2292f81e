package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Secrets of two agents.
var (
	secretA = strings.Repeat("a", 43)
	secretB = strings.Repeat("b", 43)
)

// registerAs sends a registration of id, with a secret unless it is empty.
func (s *system) registerAs(who account, id, secret string) *http.Response {
	s.t.Helper()
	body := fmt.Sprintf(`{"hostname":"h","agent_id":%q}`, id)
	if secret != "" {
		body = fmt.Sprintf(`{"hostname":"h","agent_id":%q,"agent_secret":%q}`, id, secret)
	}
	return s.call(who, "POST", "/api/v1/register", body)
}

// token registers id and returns its credentials.
func (s *system) token(who account, id, secret string) account {
	s.t.Helper()
	resp := s.registerAs(who, id, secret)
	if resp.StatusCode != 200 && resp.StatusCode != 201 {
		s.t.Fatalf("register %s: got %d %s", id, resp.StatusCode, text(s.t, resp))
	}
	got := decode[wire.RegisterResponse](s.t, resp)
	return account{got.AgentID, got.AgentToken}
}

// The shared password does not suffice to re-register a known id.
func TestRegister_KnownIDWithoutSecret_Conflict(t *testing.T) {
	s := newSystem(t)
	genuine := s.token(enroller, "a1", secretA)
	for _, secret := range []string{"", secretB} {
		for range 2 { // a second attempt does not revoke the token either
			resp := s.registerAs(enroller, "a1", secret)
			wantProblem(t, resp, 409, "")
		}
	}
	detail := text(t, s.registerAs(enroller, "a1", secretB))
	if !strings.Contains(detail, "/api/v1/agents/a1/reset") || strings.Contains(detail, secretB) {
		t.Errorf("got %s, want the reset route, and no secret", detail)
	}
	if resp := s.call(genuine, "GET", "/api/v1/config", ""); resp.StatusCode != 404 {
		t.Errorf("the real agent's poll: got %d, want 404", resp.StatusCode)
	}
	again := s.token(enroller, "a1", secretA)
	if resp := s.call(again, "GET", "/api/v1/config", ""); resp.StatusCode != 404 {
		t.Errorf("registered again with its secret: got %d, want 404", resp.StatusCode)
	}
	if got := s.actions("?action=login_failed"); len(got) == 0 {
		t.Error("the rejected registrations are not in the audit log")
	}
}

// After a reset one registration is accepted, which may set another secret.
func TestReset_AcceptsOneRegistration(t *testing.T) {
	s := newSystem(t)
	old := s.token(enroller, "a1", secretA)
	wantProblem(t, s.call(admin, "POST", "/api/v1/agents/none/reset", ""), 404, "")
	wantProblem(t, s.call(admin, "POST", "/api/v1/agents/a1/reset", "", "If-Match", `"other"`), 412, "")
	if resp := s.call(admin, "POST", "/api/v1/agents/a1/reset", ""); resp.StatusCode != 204 {
		t.Fatalf("reset: got %d %s", resp.StatusCode, text(t, resp))
	}
	if resp := s.call(old, "GET", "/api/v1/config", ""); resp.StatusCode != 404 {
		t.Errorf("its token after a reset: got %d, want it valid", resp.StatusCode)
	}
	s.token(enroller, "a1", secretB)
	wantProblem(t, s.registerAs(enroller, "a1", secretA), 409, "")
	s.token(enroller, "a1", secretB)
}

// An agent without a secret re-registers without one, until a registration sets it.
func TestRegister_RowWithoutSecret_AcceptsFirstSecret(t *testing.T) {
	s := newSystem(t)
	for range 3 {
		s.token(enroller, "a1", "")
	}
	s.token(enroller, "a1", secretA)
	wantProblem(t, s.registerAs(enroller, "a1", ""), 409, "")
}

// With its own token an agent re-registers itself only.
func TestRegister_OwnToken_Reregisters(t *testing.T) {
	s := newSystem(t)
	a1, a2 := s.token(enroller, "a1", secretA), s.token(enroller, "a2", secretB)
	wantProblem(t, s.registerAs(a1, "a2", secretB), 403, "")
	wantProblem(t, s.registerAs(a1, "new", secretB), 403, "")
	wantProblem(t, s.call(a1, "POST", "/api/v1/register", `{"hostname":"h"}`), 403, "")
	wantProblem(t, s.registerAs(admin, "a1", secretA), 403, "")

	// If responses are lost, the agent's current token stays valid for the next attempt.
	for range 3 {
		_ = s.registerAs(a1, "a1", secretA)
		if resp := s.call(a1, "GET", "/api/v1/config", ""); resp.StatusCode != 404 {
			t.Errorf("after a lost response: got %d, want the previous token valid", resp.StatusCode)
		}
	}
	renewed := s.token(a1, "a1", secretA)
	if resp := s.call(renewed, "GET", "/api/v1/config", ""); resp.StatusCode != 404 {
		t.Errorf("the new token: got %d, want it valid", resp.StatusCode)
	}
	// A registration with the token may replace the secret.
	renewed = s.token(renewed, "a1", secretB)
	wantProblem(t, s.registerAs(enroller, "a1", secretA), 409, "")
	// A registration without a secret keeps the stored one.
	s.token(renewed, "a1", "")
	wantProblem(t, s.registerAs(enroller, "a1", ""), 409, "")
	wantProblem(t, s.registerAs(account{"a2", a1[1]}, "a2", secretB), 401, "")
	if resp := s.call(a2, "GET", "/api/v1/config", ""); resp.StatusCode != 404 {
		t.Errorf("a2: got %d, want it unaffected", resp.StatusCode)
	}
}

func TestRegister_Audited(t *testing.T) {
	s := newSystem(t)
	a1 := s.token(enroller, "a1", secretA)
	s.token(enroller, "a1", secretA)
	s.token(a1, "a1", secretA)
	s.call(admin, "POST", "/api/v1/agents/a1/reset", "")
	s.registerAs(enroller, "a1", "") // accepted
	want := []string{
		"reregister by agent", "reset by admin", "reregister by a1", "reregister by agent", "register by agent",
	}
	if diff := cmp.Diff(want, s.actions("")); diff != "" {
		t.Errorf("the audit log, -want +got:\n%s", diff)
	}
	entries := decode[[]wire.AuditEntry](t, s.call(admin, "GET", "/api/v1/audit", ""))
	for _, e := range entries {
		if e.SourceIP != "192.0.2.1" || !strings.Contains(e.Detail, "a1") || strings.Contains(e.Detail, secretA) {
			t.Errorf("got %+v, want the address and the agent, and no secret", e)
		}
	}
}

func TestRegister_BadSecret(t *testing.T) {
	s := newSystem(t)
	for _, secret := range []string{
		"short", strings.Repeat("a", 129), strings.Repeat("a", 42) + " ", strings.Repeat("ä", 30),
	} {
		resp := s.registerAs(enroller, "a1", secret)
		wantProblem(t, resp, 400, "agent_secret")
	}
	if got := text(t, s.registerAs(enroller, "a1", "hunter2-hunter2")); strings.Contains(got, "hunter2") {
		t.Errorf("the response contains the secret: %s", got)
	}
}
