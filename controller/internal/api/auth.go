package api

import (
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/connlimit"
	"github.com/fleetconf/fleetconf/pkg/limit"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

// access is the access rule of a route. It also selects the route's class of limits.
type access int

const (
	closed        access = iota // no caller: a route without a rule
	open                        // every caller, also without credentials
	enrolling                   // the shared agent account, or an agent
	reading                     // the shared agent account, an agent, or the admin
	reporting                   // the agent that the path names
	removing                    // the agent that the path names, or the admin
	administering               // the admin
)

// caller is the kind of account that a request's credentials belong to.
type caller int

const (
	anonymous caller = iota
	enroller
	agent
	admin
)

// credentials pools the buffers that Authorization headers are decoded into.
var credentials = sync.Pool{New: func() any { return new(auth.Basic) }}

// admit authenticates a request, checks the access rule, and acquires a slot of the route's
// class, which the caller must release. It fails with 401 for invalid credentials, 403 for
// valid ones that the rule does not allow, and 429 for too many requests.
//
// Authorized requests count against their class. All others count against their source
// only, so they take no capacity from authorized callers.
func (a *API) admit(c *call, rule access) error {
	switch {
	case rule == open:
		return nil
	case a.classes[rule] == nil: // closed
		return problem.New(http.StatusForbidden, "this route has no access rule")
	}
	who, self, err := a.identify(c)
	if err == nil {
		c.self, c.by = self, a.name(who, self)
		err = a.authorize(c, rule, who)
	}
	if err != nil {
		return a.reject(c, rule, err)
	}
	connlimit.Authenticated(c.Request)
	if err := a.allow(self, rule); err != nil {
		return err
	}
	return a.acquire(c, rule, who)
}

// allow applies the limits of a single agent. It runs before the request counts against its
// class, so that one agent cannot use up the capacity of the others.
func (a *API) allow(self *registry.Agent, rule access) error {
	switch {
	case self != nil && rule == enrolling:
		return a.Agents.Allow(self, registry.Registering)
	case rule == reporting:
		return a.Agents.Allow(self, registry.Reporting)
	}
	return nil
}

// authorize checks that an access rule allows a caller. It fails with 403, or with an error
// that reject turns into 403.
func (a *API) authorize(c *call, rule access, who caller) error {
	if who != admin && a.Mutual && !certified(c.Request) {
		return errUncertified
	}
	if who == agent && a.Mutual && rule != enrolling { // a registration may bind a new certificate
		if err := checkCertificate(c); err != nil {
			return err
		}
	}
	itself := who == agent && c.self.ID() == c.Param("id")
	switch {
	case rule == enrolling && who != enroller && who != agent:
		return problem.New(http.StatusForbidden,
			"registering requires the shared agent credentials (AGENT_USERNAME) or the agent's own id and token")
	case rule == reporting && !itself:
		return problem.New(http.StatusForbidden, "a report requires the id and token of the agent that the path names")
	case rule == removing && !itself && who != admin:
		return problem.New(
			http.StatusForbidden,
			"these credentials are valid, but only the admin (ADMIN_USERNAME) or the agent itself may do this",
		)
	case rule == administering && who != admin:
		return problem.New(
			http.StatusForbidden, "these credentials are valid, but only the admin (ADMIN_USERNAME) may do this",
		)
	}
	return nil
}

// reject returns the response to an unauthorized request, whose reason is err: 429 if its
// source sent too many of them, and else 401 or 403.
func (a *API) reject(c *call, rule access, err error) error {
	var forbidden *problem.Problem
	if !errors.As(err, &forbidden) {
		a.recordInvalid(c, err)
	}
	if overflow := a.countRejected(c, rule); overflow != nil {
		return overflow
	}
	var guessed *limit.TooManyGuesses
	switch {
	case forbidden != nil:
		return forbidden
	case errors.As(err, &guessed):
		return guessed
	case errors.Is(err, models.ErrCertificate):
		c.Header("Connection", "close")
		return problem.New(http.StatusForbidden, "%v; to bind the new one, register with the agent's own token", err)
	case errors.Is(err, errUncertified):
		c.Header("Connection", "close") // a new connection may present a valid one
		return problem.New(http.StatusForbidden, "%v", err)
	}
	return unauthorized(c, err)
}

func tooManyGuesses(wait time.Duration) error {
	return &limit.TooManyGuesses{Of: "passwords of this account", Wait: wait}
}

var errUncertified = errors.New("agents require a valid TLS client certificate (TLS_CLIENT_CA_FILE): " +
	"set CONTROLLER_CERT_FILE and CONTROLLER_KEY_FILE of the agent")

// checkCertificate checks that a connection uses the certificate that the agent registered
// with. A different certificate is an invalid credential (models.ErrCertificate); an agent
// that registered without one only gets 403.
func checkCertificate(c *call) error {
	err := c.self.CheckCertificate(certificate(c.Request))
	if errors.Is(err, registry.ErrUnbound) {
		return problem.New(http.StatusForbidden, "%v", err)
	}
	return err
}

// certificate returns the client certificate of a request that is certified.
func certificate(r *http.Request) *x509.Certificate { return r.TLS.VerifiedChains[0][0] }

// certified reports whether the client presented a certificate that is signed by an authority
// of TLS_CLIENT_CA_FILE and has not expired since the handshake.
func certified(r *http.Request) bool {
	return r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && time.Now().Before(certificate(r).NotAfter)
}

// name returns the user name of a caller, "" for an anonymous one.
func (a *API) name(who caller, self *registry.Agent) string {
	switch who {
	case agent:
		return self.ID()
	case admin:
		return a.AdminName
	case enroller:
		return a.AgentName
	case anonymous:
	}
	return ""
}

// unauthorized returns 401 with a challenge (RFC 9110 §15.5.2).
func unauthorized(c *call, err error) error {
	c.Header("WWW-Authenticate", `Basic realm="fleetconf", charset="UTF-8"`)
	return problem.New(http.StatusUnauthorized, "%v", err)
}

// recordInvalid counts, logs and audits invalid credentials, including those of an agent
// without its certificate. Requests without credentials are not recorded.
func (a *API) recordInvalid(c *call, err error) {
	if errors.Is(err, auth.ErrMissing) {
		return
	}
	a.Metrics.invalidCredentials.Inc()
	a.warning.Do(func() {
		a.event(c).WithField("path", c.Request.URL.Path).WithError(err).
			Warn("Credentials rejected; others within a minute are not logged")
	})
	a.Audit.LoginFailed(
		models.Origin{Actor: a.claimedName(c), SourceIP: c.ClientIP()}, c.Request.Method+" "+c.FullPath(),
	)
}

// unknownName stands for an unknown user name in the audit log.
const unknownName = "unknown"

// claimedName returns the user name of invalid credentials if it is known, else unknownName:
// an unknown name may be a password that was typed into the wrong field.
func (a *API) claimedName(c *call) string {
	name, _, _ := c.Request.BasicAuth()
	if name == a.AdminName || name == a.AgentName {
		return name
	}
	if known, err := a.Agents.Agent(name); err == nil {
		return known.ID
	}
	return unknownName
}

var errInvalidCredentials = errors.New("the user name, the password or the token is wrong")

// identify authenticates a request. It tries agents first, because most requests are theirs
// and no agent may have the name of an account. Their tokens are random and too long to be
// guessed. Passwords may be guessed, so the guesses from one source are limited.
func (a *API) identify(c *call) (caller, *registry.Agent, error) {
	basic := credentials.Get().(*auth.Basic)
	defer credentials.Put(basic)
	if err := basic.Read(c.GetHeader("Authorization")); err != nil {
		return anonymous, nil, err
	}
	if self := a.Agents.Authenticate(basic.User, basic.Password); self != nil {
		return agent, self, nil
	}
	who := anonymous
	switch {
	case a.AdminAccount.Matches(basic.User, basic.Password):
		who = admin
	case a.AgentAccount.Matches(basic.User, basic.Password):
		who = enroller
	}
	source := limit.Source(c.source())
	if who != anonymous {
		if wait := a.guesses.Right(a.name(who, nil), source); wait > 0 {
			return anonymous, nil, tooManyGuesses(wait)
		}
		return who, nil, nil
	}
	if name := string(basic.User); name == a.AdminName || name == a.AgentName {
		if wait := a.guesses.Wrong(name, source); wait > 0 {
			return anonymous, nil, tooManyGuesses(wait)
		}
	}
	return anonymous, nil, errInvalidCredentials
}
