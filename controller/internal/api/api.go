// Package api is the HTTP contract of the controller: who may call what, how a
// document is read, which status an error gets. The rules are package service's.
//
//	@title						Fleetconf controller
//	@version					1.0
//	@description				Publish one configuration; the whole fleet follows. Errors are problem documents (RFC 9457).
//	@securityDefinitions.basic	Admin
//	@securityDefinitions.basic	Agent
package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
	"github.com/fleetconf/fleetconf/pkg/auth"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// Options is what the API is made of.
type Options struct {
	Configs *service.Configs
	Agents  *service.Agents
	Store   interface{ Ping(context.Context) error } // asked by /ready

	AgentAccount *auth.Account // what agents register with
	AdminName    string
	AdminAccount *auth.Account

	Log logrus.FieldLogger
}

// API answers the controller's requests.
type API struct {
	Options
	served servedConfig
}

// New returns the handler of the whole contract.
func New(o Options) http.Handler {
	a := &API{Options: o}
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false // a redirect would lose the body of a publish
	engine.RemoveExtraSlash = false
	_ = engine.SetTrustedProxies(nil) // X-Forwarded-For is anybody's to write
	engine.NoRoute(a.answer(func(*gin.Context) error {
		return problem.New(http.StatusNotFound, "there is nothing here; /swagger/index.html lists what there is")
	}))
	engine.NoMethod(a.answer(func(c *gin.Context) error {
		return problem.New(http.StatusMethodNotAllowed, "%s is not for this path; it takes %s", c.Request.Method, c.Writer.Header().Get("Allow"))
	}))
	for _, r := range a.routes() {
		handler := a.answer(a.guarded(r))
		engine.Handle(r.method, r.path, handler)
		if r.method == http.MethodGet {
			engine.HEAD(r.path, handler) // RFC 9110 §9.3.2: net/http leaves out the body
		}
	}
	return server.Wrap(engine, o.Log)
}

// guarded lets a request through to its route if its caller may, and if it
// asks for nothing that the route does not know: a misspelt parameter must not
// be taken for its absence.
func (a *API) guarded(r route) func(*gin.Context) error {
	known := strings.Fields(r.query)
	return func(c *gin.Context) error {
		if err := a.admit(c, r.who); err != nil {
			return err
		}
		if r.query != "*" && c.Request.URL.RawQuery != "" {
			for name := range c.Request.URL.Query() {
				if !slices.Contains(known, name) {
					return wire.Bad(name, "is not a known parameter here")
				}
			}
		}
		return r.handle(c)
	}
}

// notReady is what keeps the controller from doing its job.
func (a *API) notReady(r *http.Request) (reasons []wire.FieldError) {
	if err := a.Store.Ping(r.Context()); err != nil {
		reasons = append(reasons, wire.FieldError{Field: "database", Detail: "does not answer: " + err.Error()})
	}
	if err := a.Agents.Failing(); err != nil {
		reasons = append(reasons, wire.FieldError{Field: "database", Detail: "cannot be written: " + err.Error()})
	}
	return reasons
}

// desired is the version that agents should run, 0 while nothing was published.
func desired(current *models.Config) int64 {
	if current == nil {
		return 0
	}
	return current.Version
}
