package registry

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
	"weak"

	"github.com/google/uuid"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/limit"
)

// Registration is what an agent says of itself. An empty ID asks for a new one.
type Registration struct {
	ID, Hostname string
	Metadata     []byte        // a JSON object
	PollInterval time.Duration // what it is told

	Secret string        // proves that a known ID is the caller's; empty for none
	Self   *Agent        // the agent of that ID, where the caller authenticated as it; else nil
	Token  auth.Digest   // of the token that it authenticated with
	Origin models.Origin // who registers, and from where

	Certificate string // CertificateName of the connection; empty for none
}

// Register makes an agent known, or a known one known again, and returns its
// id and the token that it authenticates with from now on. The token is kept
// only as a hash. The token before it stays good until the next registration; one
// that authenticates the registration stays good after it, because the response
// may be lost. A known ID needs its secret or its token, unless it has no secret yet:
// otherwise the error is models.ErrSecret. One that registered over a certificate of
// another name needs its token: otherwise the error is models.ErrCertificate.
func (r *Registry) Register(ctx context.Context, reg Registration) (id, token string, isNew bool, err error) {
	if slices.Contains(r.reserved, reg.ID) {
		return "", "", false, &models.InvalidError{Field: "agent_id", Detail: "is taken by an account, or by a path of the API; choose another, or leave it out"}
	}
	if reg.ID == "" {
		reg.ID = uuid.Must(uuid.NewV7()).String() // fails only without randomness
	}
	token = auth.NewToken()

	if err := r.saving.Acquire(ctx); err != nil {
		return "", "", false, err
	}
	defer r.saving.Release()
	ctx = context.WithoutCancel(ctx) // what is stored is also remembered
	live := r.table.find([]byte(reg.ID))
	isNew = live == nil
	agent, action := models.Agent{ID: reg.ID, RegisteredAt: models.Now()}, models.ActionRegister
	if !isNew {
		agent, action = live.snapshot(), models.ActionReregister
	}
	if err := mayRegister(&reg, &agent, live); err != nil {
		return "", "", false, err
	}
	if reg.Self == nil { // else it was allowed to register already
		if err := r.admit(live); err != nil {
			return "", "", false, err
		}
	}
	if reg.Secret != "" {
		agent.Secret = auth.DigestOf(reg.Secret)
	}
	agent.Hostname, agent.Metadata = reg.Hostname, reg.Metadata
	if reg.Self == nil || !reg.Token.Equal(agent.PreviousToken) {
		agent.PreviousToken = agent.Token
	}
	agent.Token = auth.DigestOf(token)
	agent.PollInterval = reg.PollInterval
	entries := []models.Entry{models.NewEntry(reg.Origin, action, 0, "agent "+agent.ID+" on "+agent.Hostname)}
	if reg.Certificate != "" {
		if was := agent.Certificate; was != "" && was != reg.Certificate {
			detail := "agent " + agent.ID + ": from " + was + " to " + reg.Certificate
			entries = append(entries, models.NewEntry(reg.Origin, models.ActionCertificate, 0, detail))
		}
		agent.Certificate = reg.Certificate
	}
	if agent.Seq, err = r.store.SaveAgent(ctx, agent, entries...); err != nil {
		return "", "", false, fmt.Errorf("register agent: %w", err)
	}
	if isNew {
		r.add(newAgent(agent), models.Now())
	} else {
		r.reregister(live, agent)
	}
	return agent.ID, token, isNew, nil
}

// admit reports why there is no room for a registration: of a new agent, where live
// is nil, or of a known one.
func (r *Registry) admit(live *Agent) error {
	if live != nil {
		return r.Allow(live, Registering)
	}
	if r.maxAgents == 0 || r.table.count() < r.maxAgents {
		return nil
	}
	r.rejecting.Do(func() {
		r.log.WithField("agents", r.maxAgents).Warn("Agent rejected: MAX_AGENTS are registered; more within a minute are not logged")
	})
	return &models.TooManyAgentsError{Max: r.maxAgents}
}

// Allowance is something that each agent may do so often.
type Allowance int

// The allowances.
const (
	Reporting   Allowance = iota // a write to the store
	Registering                  // again: a write, and an entry of the audit log
	Logging                      // a line in the log
)

var allowances = [...]struct {
	limit.Bucket
	what string // in the answer, where there is one
}{
	Reporting:   {limit.Bucket{Burst: 60, Each: time.Second}, "reports"},
	Registering: {limit.Bucket{Burst: 10, Each: 10 * time.Second}, "registers"},
	Logging:     {Bucket: limit.Bucket{Burst: 5, Each: time.Minute}},
}

// Allow reports whether an agent may do something once more, and takes note that it
// does. The error is a *models.TooOftenError.
func (r *Registry) Allow(live *Agent, a Allowance) error {
	live.mu.Lock()
	defer live.mu.Unlock()
	allowed := &allowances[a]
	if wait := allowed.Take(&live.used[a], time.Since(r.began)); wait > 0 {
		return &models.TooOftenError{What: allowed.what, Wait: wait}
	}
	return nil
}

// mayRegister reports why a registration is refused. live is the agent of that ID
// and agent what is stored of it, both empty while there is none.
func mayRegister(r *Registration, agent *models.Agent, live *Agent) error {
	secret := auth.Digest(agent.Secret)
	switch {
	case r.Self != nil && r.Self != live: // decommissioned since it authenticated
		return fmt.Errorf("agent %s: %w", r.ID, models.ErrNotFound)
	case r.Self != nil:
		return nil
	case secret != auth.Digest{} && !secret.Matches([]byte(r.Secret)):
		return fmt.Errorf("agent %s: %w", r.ID, models.ErrSecret)
	case r.Certificate != "" && agent.Certificate != "" && agent.Certificate != r.Certificate:
		return fmt.Errorf("agent %s: %w", r.ID, otherCertificate(r.Certificate, agent.Certificate))
	}
	return nil
}

// Reset lets an agent be registered once with the shared credentials, whatever
// its secret was. Its token stays good. It returns models.ErrNotFound if there is
// no agent of that id, database.ErrBusy if its turn does not come.
func (r *Registry) Reset(ctx context.Context, id string, origin models.Origin) error {
	if err := r.saving.Acquire(ctx); err != nil {
		return err
	}
	defer r.saving.Release()
	live, err := r.known(id)
	if err != nil {
		return err
	}
	agent := live.snapshot()
	agent.Secret, agent.Certificate = models.TokenHash{}, ""
	entry := models.NewEntry(origin, models.ActionReset, 0, "agent "+id+" on "+agent.Hostname)
	if _, err := r.store.SaveAgent(context.WithoutCancel(ctx), agent, entry); err != nil {
		return fmt.Errorf("reset agent %s: %w", id, err)
	}
	live.mu.Lock()
	defer live.mu.Unlock()
	live.agent.Secret, live.agent.Certificate = agent.Secret, agent.Certificate
	live.checked = weak.Pointer[x509.Certificate]{}
	return nil
}

// reregister takes over what a registration changes, and leaves what polls may have
// said in the meantime.
func (r *Registry) reregister(live *Agent, fresh models.Agent) {
	live.mu.Lock()
	defer live.mu.Unlock()
	was := &live.agent
	fresh.Presence, fresh.Held, fresh.Unknown, fresh.Mismatch = was.Presence, was.Held, was.Unknown, was.Mismatch
	fresh.PushError = was.PushError
	live.agent = fresh
	r.show(live, time.Now())
	live.tokenUsed, live.duplicateSeen = false, false
	live.checked = weak.Pointer[x509.Certificate]{}
}
