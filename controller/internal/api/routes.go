package api

import (
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// call is a request, with the identity of its caller and its slot.
type call struct {
	*gin.Context
	class *class          // the class of the request's slot, nil without a slot
	self  *registry.Agent // the calling agent, nil for other callers
	by    string          // user name of the caller, "" if it is not authenticated

	api      *API
	measured *measured
}

// origin returns the caller's name and address, for the audit log.
func (c *call) origin() models.Origin { return models.Origin{Actor: c.by, SourceIP: c.ClientIP()} }

// event returns a logger with the id, source address and caller of a request.
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

// route is a row of the table of routes.
type route struct {
	method   string
	path     string
	who      access // who may call, and which class of limits applies
	measured string // route class in the metrics
	query    string // known parameters of the query, separated by spaces; "*": any
	handle   func(*call) error
}

// Names are reserved: no agent may have one as its id. They stand for an id in paths, or for
// an actor in the audit log.
var Names = []string{"summary", "resume", "unknown", "controller", "INITIAL_URL"}

// routes returns the table of all routes of the controller.
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
	server.Link{Href: "swagger/", Title: "the API in Swagger UI"},
	server.Link{Href: "openapi.json", Title: "the API as an OpenAPI 3 document"},
	server.Link{Href: "api/v1/config", Title: "the current configuration; POST publishes a new one"},
	server.Link{Href: "api/v1/configs", Title: "the published versions"},
	server.Link{Href: "api/v1/agents", Title: "the agents"},
	server.Link{Href: "api/v1/agents/summary", Title: "the number of agents by status and version"},
	server.Link{Href: "api/v1/audit", Title: "the audit log"},
)

// plain adapts a handler of net/http.
func plain(h http.HandlerFunc) func(*call) error {
	return func(c *call) error {
		h(c.Writer, c.Request)
		return nil
	}
}
