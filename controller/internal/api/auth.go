package api

import (
	"errors"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"

	"github.com/fleetconf/fleetconf/controller/internal/service"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

// door is who may call a route.
type door int

const (
	open          door = iota // everybody
	enrolling                 // who holds the shared agent credentials
	reading                   // these, an agent as itself, the admin
	reporting                 // the agent that the path names
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

// agentKey is where admit leaves the agent that calls, for the handler.
const agentKey = "agent"

// credentials are the buffers that Authorization headers are read into.
var credentials = sync.Pool{New: func() any { return new(auth.Basic) }}

// admit lets a request through a door: 401 for credentials that are nobody's,
// 403 for somebody's at the wrong door.
func (a *API) admit(c *gin.Context, d door) error {
	if d == open {
		return nil
	}
	who, self, err := a.identify(c.GetHeader("Authorization"))
	if err != nil {
		c.Header("WWW-Authenticate", `Basic realm="fleetconf", charset="UTF-8"`)
		return problem.New(http.StatusUnauthorized, "%v", err)
	}
	switch {
	case d == enrolling && who != enrolled:
		return problem.New(http.StatusForbidden, "only the shared agent credentials (AGENT_USERNAME) may register")
	case d == reporting && (who != agent || self.ID() != c.Param("id")):
		return problem.New(http.StatusForbidden, "an agent reports as itself: its own id and token")
	case d == administering && who != admin:
		return problem.New(http.StatusForbidden, "these credentials are good, but this is for the admin (ADMIN_USERNAME)")
	}
	if self != nil {
		c.Set(agentKey, self)
	}
	return nil
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

// self is the agent that a request authenticated as, nil for anybody else.
func self(c *gin.Context) *service.Agent {
	if v, ok := c.Get(agentKey); ok {
		return v.(*service.Agent)
	}
	return nil
}
