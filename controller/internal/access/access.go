// Package access decides which requests the controller answers: who may call a route, and how
// often. A request is admitted if its credentials and its client certificate satisfy the
// route's rule, and if its agent, its source and its route class are within their limits.
// Requests that are not authorized take no capacity from those that are. Invalid credentials
// are counted, logged and audited.
package access

import (
	"crypto/x509"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/fleetconf/fleetconf/controller/internal/audit"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/connlimit"
	"github.com/fleetconf/fleetconf/pkg/limit"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// Rule is the access rule of a route. It also selects the route's class of limits. The zero
// Rule allows no caller.
type Rule int

// The access rules, by who may call.
const (
	closed        Rule = iota // no caller: a route without a rule
	Anyone                    // every caller, also without credentials
	Enrollers                 // the shared agent account, or an agent
	Readers                   // the shared agent account, an agent, or the admin
	Itself                    // the agent that the path names
	ItselfOrAdmin             // the agent that the path names, or the admin
	Admin                     // the admin
)

// Options are the parts and settings of a Guard. All are required.
type Options struct {
	Agents   *registry.Registry
	Audit    *audit.Log
	Draining <-chan struct{} // closed when the controller stops
	Limits   Limits

	TrustedProxies []netip.Prefix // proxies whose X-Forwarded-For is trusted

	AgentName    string
	AgentAccount *auth.Account // the shared credentials that agents register with
	Mutual       bool          // agents must also present a client certificate; the TLS server verifies it
	AdminName    string
	AdminAccount *auth.Account

	Log logrus.FieldLogger
}

// Guard admits requests, or rejects them.
type Guard struct {
	Options
	pollInterval    func() time.Duration
	metrics         *Metrics
	classes         map[Rule]*class
	rejectedCallers *limit.Table // requests that were not authorized, by class and source
	churn           *limit.Table // registrations of new agents and removals of agents by themselves, by source
	guesses         *limit.Guesses
	warning         rate.Sometimes // limits the log lines about rejected credentials
}

// New returns a Guard. pollInterval returns the poll interval, which the responses to rejected
// polls carry.
func New(o Options, m *Metrics, pollInterval func() time.Duration) *Guard {
	g := &Guard{
		Options: o, pollInterval: pollInterval, metrics: m, classes: newClasses(o.Limits),
		rejectedCallers: limit.NewTable(), churn: limit.NewTable(), guesses: limit.NewGuesses(),
		warning: rate.Sometimes{First: 1, Interval: time.Minute},
	}
	m.limits(g.classes[Enrollers], g.classes[Readers], g.classes[Itself], g.classes[Admin])
	return g
}

// Request is a request to a route.
type Request struct {
	*http.Request
	Response http.Header // the header of the response
	Route    string      // the pattern of the path
	Agent    string      // id of the agent that the path names, if any
}

// Caller is who sent a request, and the slot that the request holds.
type Caller struct {
	Self  *registry.Agent // the calling agent, nil for other callers
	By    string          // user name of the caller, "" if it is not authenticated
	class *class          // the class of the request's slot, nil without a slot
}

// kind is the kind of account that a request's credentials belong to.
type kind int

const (
	anonymous kind = iota
	enroller
	agent
	admin
)

// credentials pools the buffers that Authorization headers are decoded into.
var credentials = sync.Pool{New: func() any { return new(auth.Basic) }}

// Admit authenticates a request, checks the access rule, and acquires a slot of the route's
// class, which Caller.Release releases. It fails with 401 for invalid credentials, 403 for
// valid ones that the rule does not allow, and 429 for too many requests. With an error it
// returns what is known of the caller, without a slot.
//
// Authorized requests count against their class. All others count against their source
// only, so they take no capacity from authorized callers.
func (g *Guard) Admit(r Request, rule Rule) (Caller, error) {
	switch {
	case rule == Anyone:
		return Caller{}, nil
	case g.classes[rule] == nil: // closed
		return Caller{}, problem.New(http.StatusForbidden, "this route has no access rule")
	}
	var c Caller
	who, self, err := g.identify(r)
	if err == nil {
		c.Self, c.By = self, g.name(who, self)
		err = g.authorize(r, rule, who, self)
	}
	if err != nil {
		return c, g.reject(r, c, rule, err)
	}
	connlimit.Authenticated(r.Request)
	if err := g.allow(self, rule); err != nil {
		return c, err
	}
	c.class, err = g.acquire(r, rule, who)
	return c, err
}

// Origin returns the caller's name and address, for the audit log.
func (g *Guard) Origin(r *http.Request, c Caller) models.Origin {
	return models.Origin{Actor: c.By, SourceIP: g.ClientIP(r)}
}

// Logger returns a logger with the id, source address and caller of a request.
func (g *Guard) Logger(r *http.Request, c Caller) *logrus.Entry {
	log := g.Log.WithFields(logrus.Fields{"request_id": server.RequestID(r), "source_ip": g.ClientIP(r)})
	switch {
	case c.Self != nil:
		return log.WithField("agent", c.Self.ID())
	case c.By != "":
		return log.WithField("by", c.By)
	}
	return log
}

// allow applies the limits of a single agent. It runs before the request counts against its
// class, so that one agent cannot use up the capacity of the others.
func (g *Guard) allow(self *registry.Agent, rule Rule) error {
	switch {
	case self != nil && rule == Enrollers:
		return g.Agents.Allow(self, registry.Registering)
	case rule == Itself:
		return g.Agents.Allow(self, registry.Reporting)
	}
	return nil
}

// authorize checks that an access rule allows a caller. It fails with 403, or with an error
// that reject turns into 403.
func (g *Guard) authorize(r Request, rule Rule, who kind, self *registry.Agent) error {
	if who != admin && g.Mutual && !certified(r.Request) {
		return errUncertified
	}
	if who == agent && g.Mutual && rule != Enrollers { // a registration may bind a new certificate
		if err := checkCertificate(r.Request, self); err != nil {
			return err
		}
	}
	itself := who == agent && self.ID() == r.Agent
	switch {
	case rule == Enrollers && who != enroller && who != agent:
		return problem.New(http.StatusForbidden,
			"registering requires the shared agent credentials (AGENT_USERNAME) or the agent's own id and token")
	case rule == Itself && !itself:
		return problem.New(http.StatusForbidden, "a report requires the id and token of the agent that the path names")
	case rule == ItselfOrAdmin && !itself && who != admin:
		return problem.New(
			http.StatusForbidden,
			"these credentials are valid, but only the admin (ADMIN_USERNAME) or the agent itself may do this",
		)
	case rule == Admin && who != admin:
		return problem.New(
			http.StatusForbidden, "these credentials are valid, but only the admin (ADMIN_USERNAME) may do this",
		)
	}
	return nil
}

// reject returns the response to an unauthorized request, whose reason is err: 429 if its
// source sent too many of them, and else 401 or 403.
func (g *Guard) reject(r Request, c Caller, rule Rule, err error) error {
	var forbidden *problem.Problem
	if !errors.As(err, &forbidden) {
		g.RecordInvalid(r, c, err)
	}
	if overflow := g.countRejected(r, rule); overflow != nil {
		return overflow
	}
	var guessed *limit.TooManyGuesses
	switch {
	case forbidden != nil:
		return forbidden
	case errors.As(err, &guessed):
		return guessed
	case errors.Is(err, models.ErrCertificate):
		r.Response.Set("Connection", "close")
		return problem.New(http.StatusForbidden, "%v; to bind the new one, register with the agent's own token", err)
	case errors.Is(err, errUncertified):
		r.Response.Set("Connection", "close") // a new connection may present a valid one
		return problem.New(http.StatusForbidden, "%v", err)
	}
	return Unauthorized(r.Response, err)
}

func tooManyGuesses(wait time.Duration) error {
	return &limit.TooManyGuesses{Of: "passwords of this account", Wait: wait}
}

var errUncertified = errors.New("agents require a valid TLS client certificate (TLS_CLIENT_CA_FILE): " +
	"set CONTROLLER_CERT_FILE and CONTROLLER_KEY_FILE of the agent")

// checkCertificate checks that a connection uses the certificate that the agent registered
// with. A different certificate is an invalid credential (models.ErrCertificate); an agent
// that registered without one only gets 403.
func checkCertificate(r *http.Request, self *registry.Agent) error {
	err := self.CheckCertificate(Certificate(r))
	if errors.Is(err, registry.ErrUnbound) {
		return problem.New(http.StatusForbidden, "%v", err)
	}
	return err
}

// Certificate returns the client certificate of a request. It has one if it was admitted by a
// Guard with Mutual, and its caller is not the admin.
func Certificate(r *http.Request) *x509.Certificate { return r.TLS.VerifiedChains[0][0] }

// certified reports whether the client presented a certificate that is signed by an authority
// of TLS_CLIENT_CA_FILE and has not expired since the handshake.
func certified(r *http.Request) bool {
	return r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && time.Now().Before(Certificate(r).NotAfter)
}

// name returns the user name of a caller, "" for an anonymous one.
func (g *Guard) name(who kind, self *registry.Agent) string {
	switch who {
	case agent:
		return self.ID()
	case admin:
		return g.AdminName
	case enroller:
		return g.AgentName
	case anonymous:
	}
	return ""
}

// ErrInvalid means that credentials are those of no account and no agent.
var ErrInvalid = errors.New("the user name, the password or the token is wrong")

// Unauthorized returns 401 with the reason err, and adds a challenge to the response header h
// (RFC 9110 §15.5.2).
func Unauthorized(h http.Header, err error) error {
	h.Set("WWW-Authenticate", `Basic realm="fleetconf", charset="UTF-8"`)
	return problem.New(http.StatusUnauthorized, "%v", err)
}

// RecordInvalid counts, logs and audits invalid credentials, including those of an agent
// without its certificate. Requests without credentials are not recorded.
func (g *Guard) RecordInvalid(r Request, c Caller, err error) {
	if errors.Is(err, auth.ErrMissing) {
		return
	}
	g.metrics.invalidCredentials.Inc()
	g.warning.Do(func() {
		g.Logger(r.Request, c).WithField("path", r.URL.Path).WithError(err).
			Warn("Credentials rejected; others within a minute are not logged")
	})
	g.Audit.LoginFailed(
		models.Origin{Actor: g.claimedName(r.Request), SourceIP: g.ClientIP(r.Request)}, r.Method+" "+r.Route,
	)
}

// unknownName stands for an unknown user name in the audit log.
const unknownName = "unknown"

// claimedName returns the user name of invalid credentials if it is known, else unknownName:
// an unknown name may be a password that was typed into the wrong field.
func (g *Guard) claimedName(r *http.Request) string {
	name, _, _ := r.BasicAuth()
	if name == g.AdminName || name == g.AgentName {
		return name
	}
	if known, err := g.Agents.Agent(name); err == nil {
		return known.ID
	}
	return unknownName
}

// identify authenticates a request. It tries agents first, because most requests are theirs
// and no agent may have the name of an account. Their tokens are random and too long to be
// guessed. Passwords may be guessed, so the guesses from one source are limited.
func (g *Guard) identify(r Request) (kind, *registry.Agent, error) {
	basic := credentials.Get().(*auth.Basic)
	defer credentials.Put(basic)
	if err := basic.Read(r.Header.Get("Authorization")); err != nil {
		return anonymous, nil, err
	}
	if self := g.Agents.Authenticate(basic.User, basic.Password); self != nil {
		return agent, self, nil
	}
	who := anonymous
	switch {
	case g.AdminAccount.Matches(basic.User, basic.Password):
		who = admin
	case g.AgentAccount.Matches(basic.User, basic.Password):
		who = enroller
	}
	source := limit.Source(g.source(r.Request))
	if who != anonymous {
		if wait := g.guesses.Right(g.name(who, nil), source); wait > 0 {
			return anonymous, nil, tooManyGuesses(wait)
		}
		return who, nil, nil
	}
	if name := string(basic.User); name == g.AdminName || name == g.AgentName {
		if wait := g.guesses.Wrong(name, source); wait > 0 {
			return anonymous, nil, tooManyGuesses(wait)
		}
	}
	return anonymous, nil, ErrInvalid
}
