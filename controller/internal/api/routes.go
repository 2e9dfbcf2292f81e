package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/fleetconf/fleetconf/controller/internal/service"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// call is a request that was let in.
type call struct {
	*gin.Context
	self *service.Agent // the agent that calls, nil for anybody else
}

// route is one line of the table of all that the controller answers.
type route struct {
	method string
	path   string
	who    door
	query  string // the parameters that are known, with spaces between; "*" takes any
	handle func(*call) error
}

func (a *API) routes() []route {
	return []route{
		{"POST", "/api/v1/register", enrolling, "", a.register},

		{"GET", "/api/v1/config", reading, "*", a.config},
		{"POST", "/api/v1/config", administering, "poll_interval", a.publish},
		{"GET", "/api/v1/configs", administering, "limit before", a.history},
		{"GET", "/api/v1/configs/:version", administering, "", a.version},

		{"GET", "/api/v1/agents", administering, "limit cursor status version", a.agents},
		{"GET", "/api/v1/agents/:id", administering, "", a.agent},
		{"DELETE", "/api/v1/agents/:id", administering, "", a.decommission},
		{"POST", "/api/v1/agents/:id/status", reporting, "", a.report},

		{"GET", "/health", open, "*", plain(server.Health)},
		{"GET", "/ready", open, "*", plain(server.Ready(a.notReady))},
		{"GET", "/version", open, "*", plain(server.Version)},
		{"GET", "/swagger/*page", open, "*", swaggerUI()},
	}
}

func plain(h http.HandlerFunc) func(*call) error {
	return func(c *call) error {
		h(c.Writer, c.Request)
		return nil
	}
}
