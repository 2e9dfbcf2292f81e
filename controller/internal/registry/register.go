package registry

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
	"weak"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/limit"
)

// Registration is a request to register an agent.
type Registration struct {
	ID, Hostname string        // an empty ID requests a new one
	Metadata     []byte        // a JSON object
	PollInterval time.Duration // that the response tells the agent

	Secret string        // authenticates a known ID; empty for none
	Self   *Agent        // the agent that the caller authenticated as; nil for none
	Token  auth.Digest   // of the token that Self authenticated with
	Origin models.Origin // for the audit log

	Certificate string // CertificateName of the connection; empty for none
}

// Register registers or re-registers an agent, and returns its id, its new token, and
// whether it is new. The store has only a digest of the token. The previous token stays
// valid until the next registration. A token that authenticates a registration stays
// valid after it, because the response may be lost.
//
// A known ID requires its secret or its token, unless it has no secret: else the error
// is models.ErrSecret. If the agent registered over a certificate with another name, its
// token is required: else the error is models.ErrCertificate. Other errors are
// *models.InvalidError for a reserved ID, models.ErrNotFound if Self was removed,
// *models.TooManyAgentsError, *models.TooOftenError, and database.ErrBusy if earlier
// writes take too long.
func (r *Registry) Register(ctx context.Context, reg Registration) (id, token string, isNew bool, err error) {
	if slices.Contains(r.reserved, reg.ID) {
		return "", "", false, &models.InvalidError{
			Field: "agent_id", Detail: "is the name of an account or of an API path; choose another, or leave it out",
		}
	}
	if reg.ID == "" {
		reg.ID = uuid.Must(uuid.NewV7()).String() // fails only without randomness
	}
	token = auth.NewToken()

	if err := r.recordWrites.Acquire(ctx); err != nil {
		return "", "", false, err
	}
	defer r.recordWrites.Release()
	ctx = context.WithoutCancel(ctx) // so that store and memory do not differ
	live := r.find([]byte(reg.ID))
	isNew = live == nil
	agent, action := models.Agent{ID: reg.ID, RegisteredAt: models.Now()}, models.ActionRegister
	if !isNew {
		agent, action = live.Snapshot(), models.ActionReregister
	}
	if err := mayRegister(&reg, &agent, live); err != nil {
		return "", "", false, err
	}
	if reg.Self == nil { // else the API has counted it against its allowance
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

// admit enforces MAX_AGENTS for a new agent, where live is nil, and the allowance of a
// known one.
func (r *Registry) admit(live *Agent) error {
	if live != nil {
		return r.Allow(live, Registering)
	}
	if r.maxAgents == 0 || r.count() < r.maxAgents {
		return nil
	}
	r.fullWarnings.Do(func() {
		r.log.WithFields(logrus.Fields{
			"max_agents": r.maxAgents, "advice": "raise MAX_AGENTS; logged at most once a minute",
		}).
			Warn("New agent rejected")
	})
	return &models.TooManyAgentsError{Max: r.maxAgents}
}

// Allowance is a rate limit of each agent.
type Allowance int

// The allowances.
const (
	Reporting   Allowance = iota // reports, which write to the store
	Registering                  // re-registrations, which write to the store and to the audit log
	Logging                      // log lines about the agent
)

var allowances = [...]struct {
	limit.Bucket
	what string // TooOftenError.What
}{
	Reporting:   {limit.Bucket{Burst: 60, Each: time.Second}, "reports"},
	Registering: {limit.Bucket{Burst: 10, Each: 10 * time.Second}, "registers"},
	Logging:     {Bucket: limit.Bucket{Burst: 5, Each: time.Minute}},
}

// Allow uses an agent's allowance once. The error is *models.TooOftenError if it is
// exhausted.
func (r *Registry) Allow(live *Agent, a Allowance) error {
	live.mu.Lock()
	defer live.mu.Unlock()
	allowed := &allowances[a]
	if wait := allowed.Take(&live.used[a], time.Since(r.began)); wait > 0 {
		return &models.TooOftenError{What: allowed.what, Wait: wait}
	}
	return nil
}

// mayRegister returns why a registration is rejected, or nil. live is the agent with that
// ID, nil for none, and agent its record.
func mayRegister(r *Registration, agent *models.Agent, live *Agent) error {
	secret := auth.Digest(agent.Secret)
	switch {
	case r.Self != nil && r.Self != live: // removed since it authenticated
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

// Reset clears an agent's secret and certificate, so that it may register once with the
// shared credentials. Its token stays valid. Errors are models.ErrNotFound if there is no
// agent with that id, and database.ErrBusy if earlier writes take too long.
func (r *Registry) Reset(ctx context.Context, id string, origin models.Origin) error {
	if err := r.recordWrites.Acquire(ctx); err != nil {
		return err
	}
	defer r.recordWrites.Release()
	live, err := r.known(id)
	if err != nil {
		return err
	}
	agent := live.Snapshot()
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

// reregister updates the fields that a registration changes. It keeps those that polls
// may have changed meanwhile.
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
