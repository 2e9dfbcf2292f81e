// Package api is the HTTP API of the worker: its routes, who may push a configuration, and
// the status code of each failure.
package api

import (
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/etag"
	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/requestid"
	"github.com/fleetconf/fleetconf/pkg/router"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/worker/internal/proxy"
)

// retryAfter is the Retry-After of a hit while nothing is configured: an agent checks its
// worker every second.
const retryAfter = time.Second

// Parts are the dependencies of an API.
type Parts struct {
	Proxy   *proxy.Proxy
	Token   string       // required by POST and GET /config; empty: they must come from this machine
	Hosts   []string     // names of this machine besides localhost, for their Host header
	Metrics *Metrics     // nil: not measured
	Scrape  http.Handler // answers GET /metrics; nil: 404
	Log     logrus.FieldLogger
}

// API answers the requests to one worker.
type API struct{ Parts }

// New returns the handler of every route.
func New(parts Parts) http.Handler {
	a := newAPI(parts)
	return a.handler(a.routes())
}

func newAPI(parts Parts) *API {
	if parts.Metrics == nil {
		parts.Metrics = NewMetrics(nil)
	}
	if parts.Scrape == nil {
		parts.Scrape = http.NotFoundHandler()
	}
	return &API{parts}
}

func (a *API) routes() []server.Route {
	access := newAccess(a.Token, a.Hosts).check
	return []server.Route{
		{Method: "GET", Path: "/", Class: docsClass, Access: server.Public, Handle: server.Plain(index)},
		{Method: "GET", Path: "/hit", Class: hitClass, Access: server.Public, Handle: a.hit},
		{Method: "POST", Path: "/config", Class: pushClass, Access: a.Metrics.countForbidden(access), Handle: a.push},
		{Method: "GET", Path: "/config", Class: stateClass, Access: access, Handle: a.state},
		{Method: "GET", Path: "/health", Class: probeClass, Access: server.Public, Handle: server.Plain(server.Health)},
		{Method: "GET", Path: "/ready", Class: probeClass, Access: server.Public,
			Handle: server.Plain(server.Ready(a.notReady))},
		{Method: "GET", Path: "/metrics", Class: probeClass, Access: server.Public,
			Handle: server.Plain(a.Scrape.ServeHTTP)},
		{Method: "GET", Path: "/version", Class: probeClass, Access: server.Public,
			Handle: server.Plain(server.Version)},
		{Method: "GET", Path: "/openapi.json", Class: docsClass, Access: server.Public, Handle: server.Plain(openAPI)},
		{Method: "GET", Path: "/swagger", Class: docsClass, Access: server.Public, Handle: swagger},
		{Method: "GET", Path: "/swagger/*file", Class: docsClass, Access: server.Public, Handle: swagger},
	}
}

// handler returns the handler of these routes.
func (a *API) handler(routes []server.Route) http.Handler {
	pipeline := server.Pipeline{Errors: statuses, Requests: a.Metrics.requests, Log: a.Log}
	handle := func(r server.Route) gin.HandlerFunc { return gin.WrapH(pipeline.Handler(r)) }
	table := make([]router.Route, len(routes))
	for i, r := range routes {
		table[i] = router.Route{Method: r.Method, Path: r.Path, Handle: handle(r)}
	}
	return router.New(table,
		handle(server.Route{Class: otherClass, Access: server.Public, Handle: notFound}),
		handle(server.Route{Class: otherClass, Access: server.Public, Handle: methodNotAllowed}))
}

func notFound(http.ResponseWriter, *http.Request) error {
	return problem.New(http.StatusNotFound, "no such path; GET /swagger/index.html lists the API")
}

func methodNotAllowed(w http.ResponseWriter, _ *http.Request) error {
	return problem.New(http.StatusMethodNotAllowed, "this path accepts %s only", w.Header().Get("Allow"))
}

// statuses gives each kind of failure its status.
var statuses = server.Errors{
	{Kind: errNothingRuns, Status: http.StatusNotFound},
	{Kind: errToken, Status: http.StatusUnauthorized, Challenge: `Bearer realm="worker"`},
	{Kind: errRemote, Status: http.StatusForbidden},
	{Kind: proxy.ErrRefused, Status: http.StatusUnprocessableEntity}, // before the reason that it wraps
	{Kind: proxy.ErrRequest, Status: http.StatusBadRequest},
	{Kind: proxy.ErrUnreachable, Status: http.StatusBadGateway},
	{Kind: proxy.ErrForbidden, Status: http.StatusBadGateway},
	{Kind: proxy.ErrNotConfigured, Status: http.StatusServiceUnavailable, RetryAfter: retryAfter},
	{Kind: proxy.ErrTimeout, Status: http.StatusGatewayTimeout},
	{Kind: proxy.ErrLoop, Status: http.StatusLoopDetected},
}

var errNothingRuns = errors.New("no configuration has been applied yet; an agent pushes one with POST /config")

var index = server.IndexOf("worker",
	server.Link{Href: "hit", Title: "what the configured URL answers"},
	server.Link{Href: "config", Title: "what runs (on this machine, or with WORKER_TOKEN); POST pushes another"},
	server.Link{Href: "swagger/", Title: "the API, to read and try"},
	server.Link{Href: "openapi.json", Title: "the API, as OpenAPI 3"},
)

// hit answers GET /hit.
//
//	@ID				hit
//	@Summary		Fetch the configured URL
//	@Description	Answers with the status, the headers and the body that the configured URL answers, streamed.
//	@Description	The caller's Accept, Accept-Language, Range, If-Range, If-None-Match, If-Modified-Since and User-Agent go along, and X-Request-Id, which names this hit in the log (one is made if there is none); cookies and credentials never do.
//	@Tags			hit
//	@Produce		*/*
//	@Success		default	{file}	binary			"what the configured URL answers"
//	@Failure		400	{object}	problem.Problem	"the request cannot be passed on; the target was not asked"
//	@Failure		502	{object}	problem.Problem	"the target cannot be reached, or may not be fetched"
//	@Failure		503	{object}	problem.Problem	"no configuration has been applied yet"
//	@Failure		504	{object}	problem.Problem	"the target did not answer within HIT_TIMEOUT"
//	@Failure		508	{object}	problem.Problem	"the target leads back to this worker"
//	@Header			default,400,502,504,508	{integer}	X-Config-Version	"the version that this hit was served with; always"
//	@Header			503	{integer}	X-Config-Version	"of a 503 of the target: the version that this hit was served with"
//	@Header			503	{integer}	Retry-After		"seconds"
//	@Router			/hit [get]
func (a *API) hit(w http.ResponseWriter, r *http.Request) error { return a.Proxy.Hit(w, r) }

// push answers POST /config.
//
//	@ID				pushConfig
//	@Summary		Push a configuration
//	@Description	Runs the configuration from the next hit on, if this worker's own settings let it and, where probe is true and the URL is new, one trial fetch of it answers with a status below 500 within 5 s.
//	@Description	Taken from this machine only, by its own name, and never from a page of another site; unless WORKER_TOKEN is set: then from anywhere that presents it.
//	@Tags			config
//	@Accept			json
//	@Produce		json
//	@Param			config	body		models.WorkerConfig	true	"what to run"
//	@Success		200		{object}	models.WorkerAccepted
//	@Failure		400		{object}	problem.Problem	"the document breaks the contract; errors names the fields"
//	@Failure		401		{object}	problem.Problem	"WORKER_TOKEN is set, and was not presented"
//	@Failure		403		{object}	problem.Problem	"not from this machine"
//	@Failure		413		{object}	problem.Problem	"larger than 64 KiB"
//	@Failure		415		{object}	problem.Problem	"not application/json"
//	@Failure		429		{object}	problem.Problem	"too many wrong tokens from this network"
//	@Header			429		{integer}	Retry-After	"seconds"
//	@Failure		422		{object}	problem.Problem	"this worker will not run it: ALLOW_HOSTS, DENY_CIDRS, or a probe that failed; the detail has the reason, and what ran before goes on"
//	@Security		WorkerToken
//	@Router			/config [post]
func (a *API) push(w http.ResponseWriter, r *http.Request) error {
	cfg, changed, err := a.apply(r)
	a.Metrics.pushed(changed, err)
	if err != nil {
		return err
	}
	return server.WriteJSON(w, http.StatusOK,
		models.WorkerAccepted{Message: "Configuration applied", Version: cfg.Version})
}

// apply decodes the configuration in r and applies it.
func (a *API) apply(r *http.Request) (cfg models.WorkerConfig, changed bool, err error) {
	if cfg, err = server.Decode[models.WorkerConfig](r); err != nil {
		return cfg, false, err
	}
	changed, err = a.Proxy.Apply(requestid.With(r.Context(), server.RequestID(r)), cfg)
	return cfg, changed, err
}

// state answers GET /config.
//
//	@ID				getState
//	@Summary		What runs
//	@Description	The configuration that hits are served with. The instance changes when the worker was restarted.
//	@Description	Answered to this machine only, by its own name or an IP address; unless WORKER_TOKEN is set: then to anyone that presents it. The query of the URL may hold a key.
//	@Tags			config
//	@Produce		json
//	@Param			If-None-Match	header		string	false	"entity tags that the caller holds"
//	@Success		200				{object}	models.WorkerState
//	@Success		304				"still what the caller holds"
//	@Header			200,304			{string}	ETag			"of this configuration in this process; always"
//	@Failure		401				{object}	problem.Problem	"WORKER_TOKEN is set, and was not presented"
//	@Failure		403				{object}	problem.Problem	"not from this machine"
//	@Failure		404				{object}	problem.Problem	"nothing runs yet"
//	@Failure		429				{object}	problem.Problem	"too many wrong tokens from this network"
//	@Header			429				{integer}	Retry-After	"seconds"
//	@Security		WorkerToken
//	@Router			/config [get]
func (a *API) state(w http.ResponseWriter, r *http.Request) error {
	state, tag, ok := a.Proxy.State()
	if !ok {
		return errNothingRuns
	}
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "no-cache")
	if etag.NoneMatch(r.Header["If-None-Match"], tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return server.WriteJSON(w, http.StatusOK, state)
}

func (a *API) notReady(*http.Request) []models.FieldError {
	if _, _, ok := a.Proxy.State(); !ok {
		return []models.FieldError{{Field: "configuration", Detail: "has not been pushed yet"}}
	}
	return nil
}
