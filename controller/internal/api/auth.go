package api

import (
	"errors"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/service"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
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

// credentials are the buffers that Authorization headers are read into.
var credentials = sync.Pool{New: func() any { return new(auth.Basic) }}

// admit lets a request through a door: 401 for credentials that are nobody's,
// 403 for somebody's at the wrong door. It returns the agent that calls, nil for
// anybody else.
func (a *API) admit(c *gin.Context, d door) (*service.Agent, error) {
	if d == open {
		return nil, nil
	}
	who, self, err := a.identify(c.GetHeader("Authorization"))
	if err != nil {
		a.refused.Do(func() {
			a.Log.WithFields(logrus.Fields{"source_ip": c.ClientIP(), "path": c.Request.URL.Path, "request_id": server.RequestID(c.Request)}).
				WithError(err).Warn("Credentials refused; more within a minute are not logged")
		})
		c.Header("WWW-Authenticate", `Basic realm="fleetconf", charset="UTF-8"`)
		return nil, problem.New(http.StatusUnauthorized, "%v", err)
	}
	switch {
	case d == enrolling && who != enrolled:
		return nil, problem.New(http.StatusForbidden, "only the shared agent credentials (AGENT_USERNAME) may register")
	case d == reporting && (who != agent || self.ID() != c.Param("id")):
		return nil, problem.New(http.StatusForbidden, "an agent reports as itself: its own id and token")
	case d == administering && who != admin:
		return nil, problem.New(http.StatusForbidden, "these credentials are good, but this is for the admin (ADMIN_USERNAME)")
	}
	return self, nil
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
