package api

import (
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// call is a request that was let in.
type call struct {
	*gin.Context
	class *class          // where it has a place, nil where it is counted nowhere
	self  *registry.Agent // the agent that calls, nil for anybody else
	by    string          // the name of who calls, "" for anybody at an open door

	api      *API
	measured *measured
}

// origin is who calls, and from where.
func (c *call) origin() models.Origin { return models.Origin{Actor: c.by, SourceIP: c.ClientIP()} }

// event is the logger of what a request did: whose it was, as far as it is known.
func (a *API) event(c *call) *logrus.Entry {
	log := a.Log.WithFields(logrus.Fields{"request_id": server.RequestID(c.Request), "source_ip": c.ClientIP()})
	switch {
	case c.self != nil:
		return log.WithField("agent", c.self.ID())
	case c.by != "":
		return log.WithField("by", c.by)
	}
	return log
}

// route is one line of the table of all that the controller answers.
type route struct {
	method   string
	path     string
	who      access // who may call, and with whom it shares a limit
	measured string // with which others
	query    string // the parameters that are known, with spaces between; "*" takes any
	handle   func(*call) error
}

// Names is what no agent may be called: a path has it in the place of an id, or
// the audit trail in the place of a name.
var Names = []string{"summary", "resume", "unknown", "controller", "INITIAL_URL"}

func (a *API) routes() []route {
	return []route{
		{"POST", "/api/v1/register", enrolling, registering, "", a.register},

		{"GET", "/api/v1/config", reading, polls, "*", a.config},
		{"POST", "/api/v1/config", administering, publishing, "poll_interval dry_run override", a.publish},
		{"GET", "/api/v1/configs", administering, admins, "limit before", a.history},
		{"GET", "/api/v1/configs/:version", administering, admins, "", a.version},
		{"GET", "/api/v1/configs/:version/diff/:other", administering, admins, "", a.diff},
		{"POST", "/api/v1/configs/:version/rollback", administering, publishing, "dry_run override", a.rollback},
		{"GET", "/api/v1/rollouts/:version", administering, admins, "wait applied", a.rollout},
		{"GET", "/api/v1/freeze", administering, admins, "", a.frozen},
		{"PUT", "/api/v1/freeze", administering, admins, "", a.freeze},
		{"DELETE", "/api/v1/freeze", administering, admins, "", a.unfreeze},
		{"GET", "/api/v1/audit", administering, admins, "limit before action", a.audit},

		{"GET", "/api/v1/agents", administering, admins, "limit cursor status version transport hostname", a.agents},
		{"GET", "/api/v1/agents/summary", administering, admins, "", a.summary},
		{"POST", "/api/v1/agents/resume", administering, admins, "", a.resume},
		{"GET", "/api/v1/agents/:id", administering, admins, "", a.agent},
		{"DELETE", "/api/v1/agents/:id", removing, registering, "", a.decommission},
		{"POST", "/api/v1/agents/:id/retry", administering, admins, "", a.retry},
		{"POST", "/api/v1/agents/:id/reset", administering, admins, "", a.reset},
		{"POST", "/api/v1/agents/:id/status", reporting, reports, "", a.report},

		{"GET", "/", open, documents, "*", plain(index)},
		{"GET", "/health", open, probing, "*", plain(server.Health)},
		{"GET", "/ready", open, probing, "*", a.ready},
		{"GET", "/version", open, probing, "*", plain(server.Version)},
		{"GET", "/metrics", open, probing, "*", a.scrape},
		{"GET", "/openapi.json", open, documents, "*", openAPI},
		{"GET", "/swagger", open, documents, "*", swaggerUI},
		{"GET", "/swagger/*page", open, documents, "*", swaggerUI},
	}
}

var index = server.IndexOf("controller",
	server.Link{Href: "swagger/", Title: "the API, to read and try"},
	server.Link{Href: "openapi.json", Title: "the API, as OpenAPI 3"},
	server.Link{Href: "api/v1/config", Title: "the current configuration; POST publishes another"},
	server.Link{Href: "api/v1/configs", Title: "what was published"},
	server.Link{Href: "api/v1/agents", Title: "the agents"},
	server.Link{Href: "api/v1/agents/summary", Title: "how many agents run what"},
	server.Link{Href: "api/v1/audit", Title: "the audit log"},
)

func plain(h http.HandlerFunc) func(*call) error {
	return func(c *call) error {
		h(c.Writer, c.Request)
		return nil
	}
}
