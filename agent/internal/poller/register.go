package poller

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/models"
	"github.com/fleetconf/fleetconf/pkg/auth"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// credentials are what an agent must register with before it polls again.
type credentials int

const (
	none   credentials = iota // nothing: its token was not refused
	own                       // its token, which is right: the certificate was refused
	shared                    // those of all agents: it has no token, or the token was refused
)

// register makes this agent known with the credentials that it needs, as the one
// that it was if it ever was one.
func (f *follower) register(ctx context.Context) error {
	if f.needs == own {
		err := f.registerAs(ctx, f.identity())
		// An ErrForbidden is also an ErrUnauthorized, but there the token is right.
		if err == nil || errors.Is(err, models.ErrForbidden) || !errors.Is(err, models.ErrUnauthorized) {
			return err
		}
		f.needs = shared
	}
	if err := f.registerAs(ctx, models.Identity{}); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// A controller that did not know the token may not know the outcome.
	if f.next == nil && f.acked.Version > 0 {
		f.next = new(f.acked)
	}
	wake(f.reportPending)
	return nil
}

// renew re-registers if what this agent registered has changed. The controller
// accepts its token all the same, so a failure delays nothing.
func (f *follower) renew(ctx context.Context) {
	if time.Now().Before(f.renewAt) || f.upToDate(ctx) {
		return
	}
	err := f.registerAs(ctx, f.identity())
	if ctx.Err() != nil {
		return
	}
	f.renewing.note(f.log, err, "Registration not renewed", "Registration renewed")
	if err != nil {
		f.renewAt = time.Now().Add(f.renewal.Next(models.Floor(err)))
		return
	}
	f.renewal.Reset()
}

// upToDate reports whether this agent would register now what it registered last.
func (f *follower) upToDate(ctx context.Context) bool {
	digest := digestOf(f.self(ctx))
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.Registered == digest
}

// digestOf tells one registration from another.
func digestOf(self wire.RegisterRequest) string {
	document, err := wire.Encode(self)
	if err != nil {
		return "" // it cannot be sent either
	}
	sum := sha256.Sum256(document)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// registerAs registers this agent with the token of as, or with the shared
// credentials if it has none, and saves what the controller answers.
func (f *follower) registerAs(ctx context.Context, as models.Identity) error {
	known := f.identity().AgentToken != ""
	self := f.self(ctx)
	registration, err := f.Source.Register(f.begin(ctx), as, self)
	f.Metrics.registered(err)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	identity := registration.Identity
	identity.AgentSecret = f.state.Identity.AgentSecret
	if digest := digestOf(self); f.state.Identity != identity || f.state.Registered != digest {
		f.state.Identity, f.state.Registered = identity, digest
		f.save()
	}
	f.registered = true
	f.known.Store(&identity.AgentID)
	if registration.PollInterval > 0 {
		f.interval = registration.PollInterval
	}
	f.log.WithFields(logrus.Fields{"agent": identity.AgentID, "known": known}).Info("Registered")
	return nil
}

// self returns what this agent registers. It makes its id and its secret and saves
// them before they are first sent: a lost response, or a crash before it was saved,
// makes no second agent. A secret that cannot be saved is not sent, because after a
// crash the agent could not prove that the id is its own.
func (f *follower) self(ctx context.Context) wire.RegisterRequest {
	f.identify()
	f.persist(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	self := f.Self
	self.AgentID = f.state.Identity.AgentID
	if f.secretSafe {
		self.AgentSecret = f.state.Identity.AgentSecret
	}
	return self
}

// identify makes this agent's id and its secret unless it has them.
func (f *follower) identify() {
	f.mu.Lock()
	defer f.mu.Unlock()
	identity := &f.state.Identity
	if identity.AgentID == "" || identity.AgentSecret == "" {
		if identity.AgentID == "" {
			identity.AgentID = strings.ToLower(rand.Text())
		}
		if identity.AgentSecret == "" {
			identity.AgentSecret = auth.NewToken()
		}
		f.save()
	}
}

// tokenRefused makes the next turn register again: immediately, but not when that
// did not help, as when two agents share one id and each registration ends the
// other's token. refused is why the registration before this poll was refused, nil
// if it was not.
func (f *follower) tokenRefused(err, refused error) time.Duration {
	f.needs = shared
	if errors.Is(err, models.ErrForbidden) {
		f.needs = own
	}
	f.mu.Lock()
	f.registered = false
	f.mu.Unlock()
	if refused != nil {
		f.setControllerErr(refused, "Registration refused") // it says more of what to do
	} else {
		f.setControllerErr(err, "Token refused")
	}
	again := !f.deniedAt.IsZero() && time.Since(f.deniedAt) < deniedWindow
	f.deniedAt = time.Now()
	if again {
		return f.denied.Next(models.Floor(err))
	}
	f.denied.Reset()
	return 0
}
