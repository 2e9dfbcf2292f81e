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

// access is who may call a route.
type access int

const (
	closed        access = iota // anonymous: the rule of a route that was given none
	open                        // everybody
	enrolling                   // who holds the shared agent credentials, an agent as itself
	reading                     // these, an agent as itself, the admin
	reporting                   // the agent that the path names
	removing                    // that agent, or the admin
	administering               // the admin
)

// caller is who a request's credentials belong to.
type caller int

const (
	anonymous caller = iota
	enroller
	agent
	admin
)

// credentials are the buffers that Authorization headers are read into.
var credentials = sync.Pool{New: func() any { return new(auth.Basic) }}

// admit authenticates a request, checks that it may call the route, and takes a
// place of the route's class for it, which it must leave. 401 is for invalid
// credentials, 403 for valid ones that may not do this, 429 for too many requests.
//
// Only callers that may do this are charged to the class. All others are charged to
// where they come from, so they take nothing from those.
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

// allow rejects what an agent does too often: before the class is charged, so that
// one agent takes nothing from the others.
func (a *API) allow(self *registry.Agent, rule access) error {
	switch {
	case self != nil && rule == enrolling:
		return a.Agents.Allow(self, registry.Registering)
	case rule == reporting:
		return a.Agents.Allow(self, registry.Reporting)
	}
	return nil
}

// authorize checks that a caller may pass a door: 403 if not.
func (a *API) authorize(c *call, rule access, who caller) error {
	if who != admin && a.Mutual && !certified(c.Request) {
		return errUncertified
	}
	if who == agent && a.Mutual && rule != enrolling { // a registration may bind another certificate
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
		return problem.New(http.StatusForbidden, "an agent reports as itself: its own id and token")
	case rule == removing && !itself && who != admin:
		return problem.New(http.StatusForbidden, "these credentials are good, but this is for the admin (ADMIN_USERNAME), or for that agent itself")
	case rule == administering && who != admin:
		return problem.New(http.StatusForbidden, "these credentials are good, but this is for the admin (ADMIN_USERNAME)")
	}
	return nil
}

// reject answers a request that may not pass a door, for the reason err: with 429
// if too many such requests came from its source.
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
		return problem.New(http.StatusForbidden, "%v; a registration with the agent's own token binds this one", err)
	case errors.Is(err, errUncertified):
		c.Header("Connection", "close") // on the next one it may show another
		return problem.New(http.StatusForbidden, "%v", err)
	}
	return unauthorized(c, err)
}

func tooManyGuesses(wait time.Duration) error {
	return &limit.TooManyGuesses{Of: "passwords of this account", Wait: wait}
}

var errUncertified = errors.New("agents come with a TLS certificate of their own that is valid (TLS_CLIENT_CA_FILE): set CONTROLLER_CERT_FILE and CONTROLLER_KEY_FILE of the agent")

// checkCertificate compares the certificate of a connection with the one that an
// agent registered over. Only another one is a sign of an intruder.
func checkCertificate(c *call) error {
	err := c.self.CheckCertificate(certificate(c.Request))
	if errors.Is(err, registry.ErrUnbound) {
		return problem.New(http.StatusForbidden, "%v", err)
	}
	return err
}

// certificate is the client's, of a request that is certified.
func certificate(r *http.Request) *x509.Certificate { return r.TLS.VerifiedChains[0][0] }

// certified reports whether a request came over a connection whose client showed a
// certificate that TLS_CLIENT_CA_FILE signed, and that has not ended since.
func certified(r *http.Request) bool {
	return r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && time.Now().Before(certificate(r).NotAfter)
}

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

// unauthorized is the answer to invalid credentials (RFC 9110 §15.5.2).
func unauthorized(c *call, err error) error {
	c.Header("WWW-Authenticate", `Basic realm="fleetconf", charset="UTF-8"`)
	return problem.New(http.StatusUnauthorized, "%v", err)
}

// refuse notes refused credentials: invalid ones, and an agent's that came without its
// certificate. A request without any is no refused login.
func (a *API) recordInvalid(c *call, err error) {
	if errors.Is(err, auth.ErrMissing) {
		return
	}
	a.Metrics.invalidCredentials.Inc()
	a.warning.Do(func() {
		a.event(c).WithField("path", c.Request.URL.Path).WithError(err).Warn("Credentials refused; more within a minute are not logged")
	})
	a.Audit.LoginFailed(models.Origin{Actor: a.claimedName(c), SourceIP: c.ClientIP()}, c.Request.Method+" "+c.FullPath())
}

// unknownName is the audit log's entry for an unknown name.
const unknownName = "unknown"

// claimedName is the name that refused credentials came with, if it is a known one:
// any other may be a password in the wrong field.
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

// identify finds out whose credentials these are. Agents come first: they are
// the many, and no agent has an account's name. Their tokens are random and too long
// to be guessed; passwords are not, so guesses of these are limited.
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
