package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// call is a request that was let in.
type call struct {
	*gin.Context
	class *class         // where it has a place, nil where it is counted nowhere
	self  *service.Agent // the agent that calls, nil for anybody else
	by    string         // the name of who calls, "" for anybody at an open door
}

// origin is who calls, and from where.
func (c *call) origin() models.Origin { return models.Origin{Actor: c.by, SourceIP: c.ClientIP()} }

// route is one line of the table of all that the controller answers.
type route struct {
	method string
	path   string
	who    door   // who may call, and with whom it shares a limit
	query  string // the parameters that are known, with spaces between; "*" takes any
	handle func(*call) error
}

// Names is what no agent may be called: a path has it in the place of an id, or
// the audit trail in the place of a name.
var Names = []string{"summary", "resume", "unknown", "controller", "INITIAL_URL"}

func (a *API) routes() []route {
	return []route{
		{"POST", "/api/v1/register", enrolling, "", a.register},

		{"GET", "/api/v1/config", reading, "*", a.config},
		{"POST", "/api/v1/config", administering, "poll_interval dry_run override", a.publish},
		{"GET", "/api/v1/configs", administering, "limit before", a.history},
		{"GET", "/api/v1/configs/:version", administering, "", a.version},
		{"GET", "/api/v1/configs/:version/diff/:other", administering, "", a.diff},
		{"POST", "/api/v1/configs/:version/rollback", administering, "dry_run override", a.rollback},
		{"GET", "/api/v1/rollouts/:version", administering, "wait applied", a.rollout},
		{"GET", "/api/v1/freeze", administering, "", a.frozen},
		{"PUT", "/api/v1/freeze", administering, "", a.freeze},
		{"DELETE", "/api/v1/freeze", administering, "", a.unfreeze},
		{"GET", "/api/v1/audit", administering, "limit before action", a.audit},

		{"GET", "/api/v1/agents", administering, "limit cursor status version transport hostname", a.agents},
		{"GET", "/api/v1/agents/summary", administering, "", a.summary},
		{"POST", "/api/v1/agents/resume", administering, "", a.resume},
		{"GET", "/api/v1/agents/:id", administering, "", a.agent},
		{"DELETE", "/api/v1/agents/:id", removing, "", a.decommission},
		{"POST", "/api/v1/agents/:id/retry", administering, "", a.retry},
		{"POST", "/api/v1/agents/:id/status", reporting, "", a.report},

		{"GET", "/health", open, "*", plain(server.Health)},
		{"GET", "/ready", open, "*", a.ready},
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
