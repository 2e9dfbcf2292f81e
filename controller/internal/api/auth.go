package api

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

// door is who may call a route.
type door int

const (
	open          door = iota // everybody
	enrolling                 // who holds the shared agent credentials, an agent as itself
	reading                   // these, an agent as itself, the admin
	reporting                 // the agent that the path names
	removing                  // that agent, or the admin
	administering             // the admin
)

// caller is who a request's credentials belong to.
type caller int

const (
	nobody caller = iota
	enrolled
	agent
	admin
)

// credentials are the buffers that Authorization headers are read into.
var credentials = sync.Pool{New: func() any { return new(auth.Basic) }}

// admit lets a request through a door and notes whose it is: 401 for
// credentials that are nobody's, 403 for somebody's at the wrong door.
func (a *API) admit(c *call, d door) error {
	if d == open {
		return nil
	}
	who, self, err := a.identify(c.GetHeader("Authorization"))
	if err != nil {
		a.refuse(c, err)
		return unauthorized(c, err)
	}
	if who != admin && a.Mutual && !certified(c.Request) {
		a.refuse(c, errUncertified)
		c.Header("Connection", "close") // on the next one it may show another
		return problem.New(http.StatusForbidden, "%v", errUncertified)
	}
	itself := who == agent && self.ID() == c.Param("id")
	switch {
	case d == enrolling && who != enrolled && who != agent:
		return problem.New(http.StatusForbidden, "registering requires the shared agent credentials (AGENT_USERNAME) or the agent's own id and token")
	case d == reporting && !itself:
		return problem.New(http.StatusForbidden, "an agent reports as itself: its own id and token")
	case d == removing && !itself && who != admin:
		return problem.New(http.StatusForbidden, "these credentials are good, but this is for the admin (ADMIN_USERNAME), or for that agent itself")
	case d == administering && who != admin:
		return problem.New(http.StatusForbidden, "these credentials are good, but this is for the admin (ADMIN_USERNAME)")
	}
	c.self, c.by = self, a.name(who, self)
	return nil
}

var errUncertified = errors.New("agents come with a TLS certificate of their own that is valid (TLS_CLIENT_CA_FILE): set CONTROLLER_CERT_FILE and CONTROLLER_KEY_FILE of the agent")

// certified reports whether a request came over a connection whose client showed a
// certificate that TLS_CLIENT_CA_FILE signed, and that has not ended since.
func certified(r *http.Request) bool {
	return r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && time.Now().Before(r.TLS.VerifiedChains[0][0].NotAfter)
}

func (a *API) name(who caller, self *service.Agent) string {
	switch who {
	case agent:
		return self.ID()
	case admin:
		return a.AdminName
	case enrolled:
		return a.AgentName
	case nobody:
	}
	return ""
}

// unauthorized is the answer to credentials that are nobody's (RFC 9110 §15.5.2).
func unauthorized(c *call, err error) error {
	c.Header("WWW-Authenticate", `Basic realm="fleetconf", charset="UTF-8"`)
	return problem.New(http.StatusUnauthorized, "%v", err)
}

// refuse notes refused credentials: those that are nobody's, and an agent's that
// came without its certificate. Who sent none was not told yet that some
// are needed.
func (a *API) refuse(c *call, err error) {
	if errors.Is(err, auth.ErrMissing) {
		return
	}
	a.Metrics.refused.Inc()
	a.refused.Do(func() {
		a.event(c).WithField("path", c.Request.URL.Path).WithError(err).Warn("Credentials refused; more within a minute are not logged")
	})
	a.Trail.LoginFailed(models.Origin{Actor: a.claimed(c), SourceIP: c.ClientIP()}, c.Request.Method+" "+c.FullPath())
}

// claimed is the name that refused credentials came with, if it is a known one:
// any other may be a password in the wrong field.
func (a *API) claimed(c *call) string {
	name, _, _ := c.Request.BasicAuth()
	if name == a.AdminName || name == a.AgentName {
		return name
	}
	if known, err := a.Agents.Agent(name); err == nil {
		return known.ID
	}
	return "unknown"
}

// isAdmin reports whether these are the admin's credentials.
func (a *API) isAdmin(header string) bool {
	basic := credentials.Get().(*auth.Basic)
	defer credentials.Put(basic)
	return basic.Read(header) == nil && a.AdminAccount.Matches(basic.User, basic.Password)
}

var errWrong = errors.New("the user name, the password or the token is wrong")

// identify finds out whose credentials these are. Agents come first: they are
// the many, and no agent has an account's name.
func (a *API) identify(header string) (caller, *service.Agent, error) {
	basic := credentials.Get().(*auth.Basic)
	defer credentials.Put(basic)
	if err := basic.Read(header); err != nil {
		return nobody, nil, err
	}
	if self := a.Agents.Authenticate(basic.User, basic.Password); self != nil {
		return agent, self, nil
	}
	switch {
	case a.AdminAccount.Matches(basic.User, basic.Password):
		return admin, nil, nil
	case a.AgentAccount.Matches(basic.User, basic.Password):
		return enrolled, nil, nil
	}
	return nobody, nil, errWrong
}
