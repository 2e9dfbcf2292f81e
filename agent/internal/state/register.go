package state

import (
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// credentials are what an agent must register with before it polls.
type credentials int

const (
	nothing        credentials = iota // it need not register: its token was not refused
	ownToken                          // its token is valid, and its certificate was refused
	sharedPassword                    // it has no token, or the token was refused
)

// identified reports whether the agent has an id and a secret.
func (m *Machine) identified() bool {
	return m.stored.Identity.AgentID != "" && m.stored.Identity.AgentSecret != ""
}

// Identified takes a new id and a new secret, where the agent has none. They are saved
// before they are first sent: after a lost response, or a crash, the agent registers
// with the same ones.
func (m *Machine) Identified(id, secret string) {
	identity := &m.stored.Identity
	if identity.AgentID == "" {
		identity.AgentID = id
	}
	if identity.AgentSecret == "" {
		identity.AgentSecret = secret
	}
	m.save()
}

// Registering returns what to register, and as whom: with a token, or, for the zero
// Identity, with the shared credentials. A secret that is not saved is left out, because
// after a crash the agent could not prove that the id is its own.
func (m *Machine) Registering() (as protocol.Identity, self wire.RegisterRequest) {
	if m.following.phase == renewing || m.following.registerWith == ownToken {
		as = m.stored.Identity
	}
	self = m.config.Self
	self.AgentID = m.stored.Identity.AgentID
	if m.savedID {
		self.AgentSecret = m.stored.Identity.AgentSecret
	}
	return as, self
}

// registrationCurrent reports whether the agent would register what it registered last.
func (m *Machine) registrationCurrent() bool {
	_, self := m.Registering()
	return m.stored.Registered == protocol.Digest(self)
}

// Registered handles the answer to a registration of self.
func (m *Machine) Registered(now time.Time, self wire.RegisterRequest, r protocol.Registration, err error) {
	f := &m.following
	known := m.stored.Identity.AgentToken != ""
	if err == nil {
		m.storeIdentity(r.Identity, protocol.Digest(self))
		m.pace.SetInterval(r.PollInterval)
		f.registered = true
		m.log(logrus.InfoLevel, "Registered", logrus.Fields{"agent": r.Identity.AgentID, "known": known})
	}
	switch unauthorized := errors.Is(err, protocol.ErrUnauthorized); {
	case f.phase == renewing: // the controller accepts the token all the same, so a failure delays nothing
		m.note(&f.renewalErr, err, "Registration not renewed", "Registration renewed")
		f.phase, f.renewAt = resting, now.Add(f.renewal.Next(protocol.Floor(err)))
		if err == nil {
			f.renewal.Reset()
			f.renewAt = now
		}
	case err == nil:
		if f.registerWith == sharedPassword {
			m.reportAgain()
		}
		f.registerWith, f.phase = nothing, fetching
	case f.registerWith == ownToken && unauthorized && !errors.Is(err, protocol.ErrForbidden):
		f.registerWith = sharedPassword
	case unauthorized && known: // a restored database may accept the token again
		f.refused, f.phase = err, fetching
	default:
		m.failed(now, err)
	}
}

func (m *Machine) storeIdentity(identity protocol.Identity, digest string) {
	identity.AgentSecret = m.stored.Identity.AgentSecret
	if m.stored.Identity != identity || m.stored.Registered != digest {
		m.stored.Identity, m.stored.Registered = identity, digest
		m.save()
	}
}

// tokenRefused makes the agent register before its next poll.
func (m *Machine) tokenRefused(now time.Time, err error) {
	f := &m.following
	f.registerWith = sharedPassword
	if errors.Is(err, protocol.ErrForbidden) {
		f.registerWith = ownToken
	}
	f.registered = false
	if f.refused != nil { // the more helpful error
		m.note(&m.controllerErr, f.refused, "Registration refused", "Controller back")
	} else {
		m.note(&m.controllerErr, err, "Token refused", "Controller back")
	}
	m.restFor(m.pace.Denied(now, err))
}
