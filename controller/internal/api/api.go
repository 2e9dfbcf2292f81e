// Package api is the HTTP contract of the controller: who may call what, how a
// document is read, which status an error gets. The rules are package service's.
//
//	@title						Fleetconf controller
//	@version					1.0
//	@description				Publish one configuration; the whole fleet follows. Errors are problem documents (RFC 9457).
//	@x-secured					[400,401,403,429,503]
//	@x-body						[408,413,415]
//	@x-problem-400				"a parameter, header or field is unknown or invalid; errors names it"
//	@x-problem-401				"no credentials, or invalid ones"
//	@x-problem-403				"these credentials do not allow it, or agents need a certificate too, or a page of another site sent it"
//	@x-problem-404				"nothing of that name exists"
//	@x-problem-408				"the body did not arrive in time"
//	@x-problem-412				"If-Match or If-None-Match does not hold: something else is current"
//	@x-problem-413				"the body is larger than 64 KiB"
//	@x-problem-415				"the body is not application/json in UTF-8, or is compressed"
//	@x-problem-429				"more requests of this kind came than are let in at once"
//	@x-problem-503				"the database is locked, read-only or damaged, its disk fails, its files were moved away, or the controller is stopping"
//	@x-problem-507				"the disk is full; nothing was changed"
//
//	@securityDefinitions.apikey	Admin
//	@in							header
//	@name						Authorization
//	@description				Basic: ADMIN_USERNAME and ADMIN_PASSWORD.
//	@securityDefinitions.apikey	Enroller
//	@in							header
//	@name						Authorization
//	@description				Basic: AGENT_USERNAME and AGENT_PASSWORD, which all agents share.
//	@securityDefinitions.apikey	Agent
//	@in							header
//	@name						Authorization
//	@description				Basic: the id of an agent and the token that its registration was answered with.
package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/fleetconf/fleetconf/controller/internal/audit"
	"github.com/fleetconf/fleetconf/controller/internal/poll"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/controller/internal/rollout"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/limit"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/router"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// Options is what the API is made of.
type Options struct {
	Publisher     *publish.Publisher
	Agents        *registry.Registry
	Rollouts      *rollout.Rollouts
	Audit         *audit.Log
	Waiters       *poll.Waiters                            // nil: no poll is held
	Announcements interface{ Lost() error }                // asked by /ready; nil where nothing is announced
	Store         interface{ Ping(context.Context) error } // asked by /ready
	Draining      <-chan struct{}                          // closed when held answers are to be let go
	Limits        Limits

	TrustedProxies []netip.Prefix // whose X-Forwarded-For names the client

	Fleet         string         // the id of the fleet
	Transport     wire.Transport // how agents hear of a newer version
	SweepInterval time.Duration  // how often agents poll while a broker tells them of newer versions

	AgentName    string
	AgentAccount *auth.Account // what agents register with
	Mutual       bool          // agents must show a TLS certificate too, which whoever serves this has verified
	AdminName    string
	AdminAccount *auth.Account

	Log     logrus.FieldLogger
	Metrics *Metrics     // nil: measured for nobody
	Scrape  http.Handler // answers GET /metrics; nil: nothing is there
}

// API answers the controller's requests.
type API struct {
	Options
	classes         map[access]*class
	rejectedCallers *limit.Table // the requests of a class that may not pass, by source
	churn           *limit.Table // new agents and removals of agents by themselves, by source
	guesses         *limit.Guesses
	polls           *poll.Service
	warning         rate.Sometimes // how often refused credentials are worth a warning
}

// New returns the handler of the whole contract.
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
	a := &API{
		Options: o, classes: newClasses(o.Limits), rejectedCallers: limit.NewTable(), churn: limit.NewTable(), guesses: limit.NewGuesses(),
		polls: poll.New(poll.Options{
			Publisher: o.Publisher, Agents: o.Agents, Waiters: o.Waiters, Fleet: o.Fleet, Broker: broker(o.Transport), SweepInterval: o.SweepInterval,
		}),
		warning: rate.Sometimes{First: 1, Interval: time.Minute},
	}
	a.Metrics.limits(a.classes[enrolling], a.classes[reading], a.classes[reporting], a.classes[administering])
	return a
}

// broker is the broker among the transports that versions are announced over, "" for none.
func broker(over wire.Transport) wire.Transport {
	if over == wire.Redis || over == wire.NATS {
		return over
	}
	return ""
}

// handler returns the handler of these routes.
func (a *API) handler(routes []route) http.Handler {
	table := make([]router.Route, len(routes))
	for i, r := range routes {
		table[i] = router.Route{Method: r.method, Path: r.path, Handle: a.answer(a.Metrics.measured(r.measured), a.guarded(r))}
	}
	unrouted := a.Metrics.measured(other)
	return server.Wrap(sameOrigin(router.New(table, a.answer(unrouted, notFound), a.answer(unrouted, methodNotAllowed)), unrouted), a.Log)
}

func notFound(*call) error {
	return problem.New(http.StatusNotFound, "there is nothing here; /swagger/index.html lists what there is")
}

func methodNotAllowed(c *call) error {
	return problem.New(http.StatusMethodNotAllowed, "%s is not for this path; it takes %s", c.Request.Method, c.Writer.Header().Get("Allow"))
}

// sameOrigin keeps other sites' pages from changing anything with the
// credentials that an admin's browser remembers. No program sends what browsers
// say of a page, so it concerns nobody else.
func sameOrigin(next http.Handler, as *measured) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		as.class.Counted(http.StatusForbidden)
		problem.Write(w, problem.New(http.StatusForbidden, "a page of another site may not do this"))
	}))
	return protection.Handler(next)
}

// guarded lets a request through to its route if its caller may, if there is room
// for it, and if it asks for nothing that the route does not know: a
// misspelt parameter must not be taken for its absence.
func (a *API) guarded(r route) func(*call) error {
	known := strings.Fields(r.query)
	return func(c *call) error {
		if err := a.admit(c, r.who); err != nil {
			return err
		}
		defer c.release()
		if r.query != "*" && c.Request.URL.RawQuery != "" {
			if err := checkQuery(c.Request.URL.RawQuery, known); err != nil {
				return err
			}
		}
		return r.handle(c)
	}
}

func checkQuery(query string, known []string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return problem.New(http.StatusBadRequest, "the query cannot be read: %v", err)
	}
	for name, value := range values {
		switch {
		case !slices.Contains(known, name):
			return wire.Bad(name, "is not a known parameter here")
		case len(value) > 1:
			return wire.Bad(name, "stands there twice")
		}
	}
	return nil
}

// ready answers GET /ready. What does not keep the controller from its job is
// reported, no more: to end a conflict an admin must be able to reach it, and
// without a broker agents poll.
func (a *API) ready(c *call) error {
	detail := a.warnings()
	if detail == "" || a.notReady(c.Request) != nil {
		server.Ready(a.notReady)(c.Writer, c.Request)
		return nil
	}
	c.Header("Cache-Control", "no-store")
	return server.WriteJSON(c.Writer, http.StatusOK, server.Status{Status: "ready", Detail: detail})
}

// warnings is what somebody should look at, "" for nothing.
func (a *API) warnings() string {
	var found []string
	if plan := a.Publisher.Plan(); plan.Conflict() {
		found = append(found, fmt.Sprintf(
			"conflict: agents run versions up to %d and the store ends at %d, as if it was restored from an older backup; they keep what they run until you publish, or POST /api/v1/agents/resume",
			plan.Observed.Highest, plan.Version()))
	}
	if a.Announcements != nil {
		if err := a.Announcements.Lost(); err != nil {
			found = append(found, fmt.Sprintf("push: agents are not told of new versions and follow by polling: %v", err))
		}
	}
	return strings.Join(found, "; ")
}

// notReady is what keeps the controller from doing its job.
func (a *API) notReady(r *http.Request) (reasons []wire.FieldError) {
	if err := a.Store.Ping(r.Context()); err != nil {
		reasons = append(reasons, wire.FieldError{Field: "database", Detail: err.Error()})
	}
	return reasons
}
