// Package api is the controller's HTTP API: its routes with their access rules, and the status
// of each error. Package access enforces the access rules. The rules of publishing are in
// package publish, those of agents in package registry, and those of polls in package poll.
package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/poll"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/rollout"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/query"
	"github.com/fleetconf/fleetconf/pkg/router"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// Options are the parts and settings of the API. All are required, except where noted.
type Options struct {
	access.Options // who may call the API; its Agents, Audit, Draining and Log are the API's too

	Publisher     *publish.Publisher
	Rollouts      *rollout.Rollouts
	Polls         *poll.Service
	Announcements interface{ Lost() error }                // why announcements fail, for /ready; may be nil
	Store         interface{ Ping(context.Context) error } // why the store fails, for /ready

	Metrics *Metrics     // nil: nothing is measured
	Scrape  http.Handler // answers GET /metrics; nil: 404
}

// API serves the controller's HTTP API.
type API struct {
	Options
	guard *access.Guard
}

// New returns the handler of all routes.
func New(o Options) http.Handler {
	a := newAPI(o)
	return a.handler(a.routes())
}

func newAPI(o Options) *API {
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Scrape == nil {
		o.Scrape = http.NotFoundHandler()
	}
	pollInterval := func() time.Duration { return o.Publisher.Plan().PollInterval() }
	return &API{
		Options: o,
		guard:   access.New(o.Options, o.Metrics.access, pollInterval),
	}
}

// handler returns the handler of the given routes.
func (a *API) handler(routes []route) http.Handler {
	table := make([]router.Route, len(routes))
	for i, r := range routes {
		table[i] = router.Route{
			Method: r.method, Path: r.path, Handle: a.answer(a.Metrics.measured(r.measured), a.guarded(r)),
		}
	}
	unrouted := a.Metrics.measured(other)
	engine := router.New(table, a.answer(unrouted, notFound), a.answer(unrouted, methodNotAllowed))
	return server.Wrap(server.SameOrigin(engine, unrouted.class.Counted), a.Log)
}

func notFound(*call) error {
	return problem.New(http.StatusNotFound, "no such path; /swagger/index.html lists the API")
}

func methodNotAllowed(c *call) error {
	return problem.New(http.StatusMethodNotAllowed, "method %s is not allowed here; allowed: %s",
		c.Request.Method, c.Writer.Header().Get("Allow"))
}

// guarded returns r's handler behind its access rule, its limits and the check of the query.
func (a *API) guarded(r route) func(*call) error {
	known := strings.Fields(r.query)
	return func(c *call) error {
		var err error
		if c.Caller, err = a.guard.Admit(c.guardRequest(), r.who); err != nil {
			return err
		}
		defer c.Release()
		if r.query != "*" && c.Request.URL.RawQuery != "" {
			if err := query.Check(c.Request.URL.RawQuery, known); err != nil {
				return err
			}
		}
		return r.handle(c)
	}
}

// ready answers GET /ready: 503 if the store fails, and else 200 with any warnings. A
// conflict and a lost broker are warnings: an admin must reach the controller to end a
// conflict, and agents poll while the broker is unavailable.
func (a *API) ready(c *call) error {
	detail := a.warnings()
	if detail == "" || a.notReady(c.Request) != nil {
		server.Ready(a.notReady)(c.Writer, c.Request)
		return nil
	}
	c.Header("Cache-Control", "no-store")
	return server.WriteJSON(c.Writer, http.StatusOK, server.Status{Status: "ready", Detail: detail})
}

// warnings returns the conditions that an admin should look at, "" if there are none.
func (a *API) warnings() string {
	var found []string
	if plan := a.Publisher.Plan(); plan.Conflict() {
		found = append(found, fmt.Sprintf(
			"conflict: agents run versions up to %d and the store ends at %d, "+
				"as after the restore of an older backup; they keep their version until you publish, "+
				"or POST /api/v1/agents/resume",
			plan.Observed.Highest, plan.Version()))
	}
	if a.Announcements != nil {
		if err := a.Announcements.Lost(); err != nil {
			found = append(
				found, fmt.Sprintf("push: new versions are not announced, and agents find them by polling: %v", err),
			)
		}
	}
	return strings.Join(found, "; ")
}

// notReady returns why the controller cannot serve, nil if it can.
func (a *API) notReady(r *http.Request) (reasons []wire.FieldError) {
	if err := a.Store.Ping(r.Context()); err != nil {
		reasons = append(reasons, wire.FieldError{Field: "database", Detail: err.Error()})
	}
	return reasons
}
