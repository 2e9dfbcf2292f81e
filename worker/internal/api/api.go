// Package api is the worker's face to HTTP: who may push a configuration, and
// what each failure is called in a status code.
package api

import (
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/etag"
	"github.com/fleetconf/fleetconf/pkg/limit"
	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/requestid"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/worker/internal/proxy"
)

// retryAfter is told to who hits a worker that runs nothing yet: an agent
// looks after its worker every second.
const retryAfter = time.Second

// Parts are what an API is made of.
type Parts struct {
	Proxy   *proxy.Proxy
	Token   string       // what a push and GET /config must present; empty, they must come from this machine
	Hosts   []string     // names of this machine besides localhost, by which they may ask then
	Metrics *Metrics     // nil: nobody measures
	Scrape  http.Handler // answers GET /metrics; nil: nobody does
	Log     logrus.FieldLogger
}

// API answers for one proxy.
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

// route is who may ask for what, and its answer.
type route struct {
	method, path string
	class        string
	access       accessRule // nil refuses everyone
	handle       handler
}

func (a *API) routes() []route {
	local := newAccess(a.Token, a.Hosts).check
	push := a.Metrics.countForbidden(local)
	return []route{
		{http.MethodGet, "/", docsClass, anonymous, a.index},
		{http.MethodGet, "/hit", hitClass, anonymous, a.hit},
		{http.MethodPost, "/config", pushClass, push, a.push},
		{http.MethodGet, "/config", stateClass, local, a.state},
		{http.MethodGet, "/health", probeClass, anonymous, a.health},
		{http.MethodGet, "/ready", probeClass, anonymous, a.ready},
		{http.MethodGet, "/metrics", probeClass, anonymous, a.metrics},
		{http.MethodGet, "/version", probeClass, anonymous, a.version},
		{http.MethodGet, "/openapi.json", docsClass, anonymous, a.openAPI},
		{http.MethodGet, "/swagger", docsClass, anonymous, a.swagger},
		{http.MethodGet, "/swagger/*file", docsClass, anonymous, a.swagger},
	}
}

// handler answers these routes, and errors for all else.
func (a *API) handler(routes []route) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false
	_ = engine.SetTrustedProxies(nil) // fails only on a bad network
	for _, r := range routes {
		answer := a.answer(r.class, r.access, r.handle)
		engine.Handle(r.method, r.path, answer)
		if r.method == http.MethodGet {
			engine.HEAD(r.path, answer) // RFC 9110 §9.3.2: net/http leaves out the body
		}
	}
	engine.NoRoute(a.answer(otherClass, anonymous, func(*gin.Context) error {
		return problem.New(http.StatusNotFound, "there is nothing here; GET /swagger/index.html shows what there is")
	}))
	engine.NoMethod(a.answer(otherClass, anonymous, func(c *gin.Context) error {
		return problem.New(http.StatusMethodNotAllowed, "this takes %s only", c.Writer.Header().Get("Allow"))
	}))
	return engine
}

type (
	handler    func(*gin.Context) error
	accessRule func(*http.Request) error
)

func anonymous(*http.Request) error { return nil }

func denyAll(*http.Request) error {
	return problem.New(http.StatusForbidden, "this route has no access rule")
}

// answer makes a route of a handler: the access rule first, and one answer to
// whatever error comes of either. It is measured as one of its class.
func (a *API) answer(class string, access accessRule, handle handler) gin.HandlerFunc {
	requests := a.Metrics.requests[class]
	if access == nil {
		access = denyAll
	}
	return func(c *gin.Context) {
		began, ended := time.Now(), false
		defer func() {
			requests.Answered(server.Outcome(c.Request, c.Writer.Status(), ended || c.Writer.Written()), time.Since(began))
		}()
		err := access(c.Request)
		if err == nil {
			err = handle(c)
		}
		if err != nil {
			a.writeError(c, err)
		}
		ended = true
	}
}

// statuses says which status each kind of failure is.
var statuses = []struct {
	kind   error
	status int
}{
	{errNothingRuns, http.StatusNotFound},
	{errToken, http.StatusUnauthorized},
	{errRemote, http.StatusForbidden},
	{proxy.ErrRefused, http.StatusUnprocessableEntity}, // before the reason that it wraps
	{proxy.ErrRequest, http.StatusBadRequest},
	{proxy.ErrUnreachable, http.StatusBadGateway},
	{proxy.ErrForbidden, http.StatusBadGateway},
	{proxy.ErrNotConfigured, http.StatusServiceUnavailable},
	{proxy.ErrTimeout, http.StatusGatewayTimeout},
	{proxy.ErrLoop, http.StatusLoopDetected},
}

// writeError answers with the problem that err is. What has no status is a bug: the
// log has it, the caller learns where to look.
func (a *API) writeError(c *gin.Context, err error) {
	if c.Request.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the caller has gone: nobody is left to tell
	}
	log := a.Log.WithFields(logrus.Fields{
		"request_id": server.RequestID(c.Request), "method": c.Request.Method, "path": c.Request.URL.Path,
	})
	p := problemOf(err)
	if p == nil {
		log.WithError(err).Error("Request failed")
		p = server.Internal(c.Request)
	} else {
		log.WithFields(logrus.Fields{"status": p.Status, "detail": p.Detail}).Debug("Request refused")
	}
	switch p.Status {
	case http.StatusTooManyRequests:
		if guessed := (*limit.TooManyGuesses)(nil); errors.As(err, &guessed) {
			server.RetryAfter(c.Writer.Header(), guessed.RetryAfter())
		}
	case http.StatusUnauthorized:
		c.Header("WWW-Authenticate", `Bearer realm="worker"`)
	case http.StatusServiceUnavailable:
		server.RetryAfter(c.Writer.Header(), retryAfter)
	}
	problem.Write(c.Writer, p)
}

// problemOf returns nil for an error that is no kind of answer.
func problemOf(err error) *problem.Problem {
	var (
		p       *problem.Problem
		bad     *models.Invalid
		guessed *limit.TooManyGuesses
	)
	switch {
	case errors.As(err, &guessed):
		return problem.New(http.StatusTooManyRequests, "%v", guessed)
	case errors.As(err, &p):
		return p
	case errors.As(err, &bad):
		return problem.Invalid(bad)
	}
	for _, s := range statuses {
		if errors.Is(err, s.kind) {
			return problem.New(s.status, "%s", models.Trim(err.Error()))
		}
	}
	return nil
}

var errNothingRuns = errors.New("no configuration runs yet; an agent pushes one with POST /config")

var index = server.IndexOf("worker",
	server.Link{Href: "hit", Title: "what the configured URL answers"},
	server.Link{Href: "config", Title: "what runs (on this machine, or with WORKER_TOKEN); POST pushes another"},
	server.Link{Href: "swagger/", Title: "the API, to read and try"},
	server.Link{Href: "openapi.json", Title: "the API, as OpenAPI 3"},
)

// index answers GET /.
func (a *API) index(c *gin.Context) error {
	index(c.Writer, c.Request)
	return nil
}

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
func (a *API) hit(c *gin.Context) error { return a.Proxy.Hit(c.Writer, c.Request) }

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
func (a *API) push(c *gin.Context) error {
	cfg, changed, err := a.apply(c.Request)
	a.Metrics.pushed(changed, err)
	if err != nil {
		return err
	}
	return server.WriteJSON(c.Writer, http.StatusOK, models.WorkerAccepted{Message: "Configuration applied", Version: cfg.Version})
}

// apply runs what r pushes, as Proxy.Apply does.
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
func (a *API) state(c *gin.Context) error {
	state, tag, ok := a.Proxy.State()
	if !ok {
		return errNothingRuns
	}
	c.Header("ETag", tag)
	c.Header("Cache-Control", "no-cache")
	if etag.NoneMatch(c.Request.Header["If-None-Match"], tag) {
		c.Writer.WriteHeader(http.StatusNotModified)
		return nil
	}
	return server.WriteJSON(c.Writer, http.StatusOK, state)
}

// health answers GET /health.
func (a *API) health(c *gin.Context) error {
	server.Health(c.Writer, c.Request)
	return nil
}

// ready answers GET /ready.
func (a *API) ready(c *gin.Context) error {
	server.Ready(a.notReady)(c.Writer, c.Request)
	return nil
}

func (a *API) notReady(*http.Request) []models.FieldError {
	if _, _, ok := a.Proxy.State(); !ok {
		return []models.FieldError{{Field: "configuration", Detail: "has not been pushed yet"}}
	}
	return nil
}

// metrics answers GET /metrics.
func (a *API) metrics(c *gin.Context) error {
	a.Scrape.ServeHTTP(c.Writer, c.Request)
	return nil
}

// version answers GET /version.
func (a *API) version(c *gin.Context) error {
	server.Version(c.Writer, c.Request)
	return nil
}
