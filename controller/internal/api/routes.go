package api

import (
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/docs"
	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// call is a request, with the identity of its caller and its slot.
type call struct {
	*gin.Context
	access.Caller
	api      *API
	measured *measured
}

// guardRequest returns the request, as the guard sees it.
func (c *call) guardRequest() access.Request {
	return access.Request{
		Request: c.Request, Response: c.Writer.Header(), Route: c.FullPath(), Agent: c.Param("id"),
	}
}

// origin returns the caller's name and address, for the audit log.
func (c *call) origin() models.Origin { return c.api.guard.Origin(c.Request, c.Caller) }

// ClientIP returns the address of the client. It hides gin's ClientIP, which trusts other
// headers.
func (c *call) ClientIP() string { return c.api.guard.ClientIP(c.Request) }

// releaseWhileHeld releases the request's slot while its response is held, and has the response
// measured as a held one. reacquire takes a slot again.
func (c *call) releaseWhileHeld() (reacquire func()) {
	c.measured = c.measured.held
	return c.ReleaseWhileHeld()
}

// event returns a logger with the id, source address and caller of a request.
func (a *API) event(c *call) *logrus.Entry {
	return a.guard.Logger(c.Request, c.Caller)
}

// route is a row of the table of routes.
type route struct {
	method   string
	path     string
	who      access.Rule // who may call, and which class of limits applies
	measured string      // route class in the metrics
	query    string      // known parameters of the query, separated by spaces; "*": any
	handle   func(*call) error
}

// Names are reserved: no agent may have one as its id. They stand for an id in paths, or for
// an actor in the audit log.
var Names = []string{"summary", "resume", "unknown", "controller", "INITIAL_URL"}

// routes returns the table of all routes of the controller.
func (a *API) routes() []route {
	return []route{
		{"POST", "/api/v1/register", access.Enrollers, registering, "", a.register},

		{"GET", "/api/v1/config", access.Readers, polls, "*", a.config},
		{"POST", "/api/v1/config", access.Admin, publishing, "poll_interval dry_run override", a.publish},
		{"GET", "/api/v1/configs", access.Admin, admins, "limit before", a.history},
		{"GET", "/api/v1/configs/:version", access.Admin, admins, "", a.version},
		{"GET", "/api/v1/configs/:version/diff/:other", access.Admin, admins, "", a.diff},
		{"POST", "/api/v1/configs/:version/rollback", access.Admin, publishing, "dry_run override", a.rollback},
		{"GET", "/api/v1/rollouts/:version", access.Admin, admins, "wait applied", a.rollout},
		{"GET", "/api/v1/freeze", access.Admin, admins, "", a.frozen},
		{"PUT", "/api/v1/freeze", access.Admin, admins, "", a.freeze},
		{"DELETE", "/api/v1/freeze", access.Admin, admins, "", a.unfreeze},
		{"GET", "/api/v1/audit", access.Admin, admins, "limit before action", a.audit},

		{"GET", "/api/v1/agents", access.Admin, admins, "limit cursor status version transport hostname", a.agents},
		{"GET", "/api/v1/agents/summary", access.Admin, admins, "", a.summary},
		{"POST", "/api/v1/agents/resume", access.Admin, admins, "", a.resume},
		{"GET", "/api/v1/agents/:id", access.Admin, admins, "", a.agent},
		{"DELETE", "/api/v1/agents/:id", access.ItselfOrAdmin, registering, "", a.decommission},
		{"POST", "/api/v1/agents/:id/retry", access.Admin, admins, "", a.retry},
		{"POST", "/api/v1/agents/:id/reset", access.Admin, admins, "", a.reset},
		{"POST", "/api/v1/agents/:id/status", access.Itself, reports, "", a.report},

		{"GET", "/", access.Anyone, documents, "*", plain(index)},
		{"GET", "/health", access.Anyone, probing, "*", plain(server.Health)},
		{"GET", "/ready", access.Anyone, probing, "*", a.ready},
		{"GET", "/version", access.Anyone, probing, "*", plain(server.Version)},
		{"GET", "/metrics", access.Anyone, probing, "*", a.scrape},
		{"GET", "/openapi.json", access.Anyone, documents, "*", openAPI},
		{"GET", "/swagger", access.Anyone, documents, "*", swagger},
		{"GET", "/swagger/*page", access.Anyone, documents, "*", swagger},
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

// openAPI serves the OpenAPI document.
//
//	@ID			getOpenAPI
//	@Summary	Get the OpenAPI 3 document
//	@Tags		process
//	@Produce	json
//	@Success	200	{object}	object
//	@Router		/openapi.json [get]
func openAPI(c *call) error {
	docs.Document(c.Writer, c.Request)
	return nil
}

func swagger(c *call) error { return docs.SwaggerUI(c.Context) }
