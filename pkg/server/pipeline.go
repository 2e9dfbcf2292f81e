package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/limit"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

// Route is a line of a program's table of routes.
type Route struct {
	Method string
	Path   string
	Class  string                    // the route class, by which requests are measured
	Access func(*http.Request) error // returns why a request is denied; nil denies all
	Handle HandlerFunc
}

// HandlerFunc answers a request, or returns the error to answer it with.
type HandlerFunc func(http.ResponseWriter, *http.Request) error

// Plain returns a HandlerFunc that does not fail.
func Plain(h http.HandlerFunc) HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		h(w, r)
		return nil
	}
}

// Public is the access rule of a route that everyone may call.
func Public(*http.Request) error { return nil }

// Pipeline turns the routes of a program into handlers: access rule, handler, problem
// document of an error, metrics.
type Pipeline struct {
	Errors   Errors
	Requests *metrics.Requests
	Log      logrus.FieldLogger
}

// Handler returns the handler of a route.
func (p *Pipeline) Handler(route Route) http.Handler {
	class, access := p.Requests.Class(route.Class), route.Access
	if access == nil {
		access = denyAll
	}
	handle := func(c *plainCall) error {
		if err := access(c.r); err != nil {
			return err
		}
		return route.Handle(&c.statusWriter, c.r)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Answer(&plainCall{statusWriter{ResponseWriter: w, status: http.StatusOK}, r, p, class}, handle)
	})
}

func denyAll(*http.Request) error {
	return problem.New(http.StatusForbidden, "this route has no access rule")
}

// plainCall is the Call of a Pipeline.
type plainCall struct {
	statusWriter
	r        *http.Request
	pipeline *Pipeline
	class    *metrics.Class
}

func (c *plainCall) HTTP() (ResponseWriter, *http.Request)      { return &c.statusWriter, c.r }
func (c *plainCall) Problem(err error) *problem.Problem         { return c.pipeline.Errors.Problem(err) }
func (c *plainCall) Observe(status int, duration time.Duration) { c.class.Answered(status, duration) }

func (c *plainCall) Logger() logrus.FieldLogger {
	return c.pipeline.Log.WithFields(logrus.Fields{
		"request_id": RequestID(c.r), "method": c.r.Method, "path": c.r.URL.Path,
	})
}

// ResponseWriter is an http.ResponseWriter that knows what it has sent. gin has one.
type ResponseWriter interface {
	http.ResponseWriter
	Status() int
	Written() bool // the status or a part of the body
}

// Call is one request in the pipeline of a program.
type Call interface {
	HTTP() (ResponseWriter, *http.Request)
	// Problem returns the response to an error, nil for an error that has no status.
	Problem(err error) *problem.Problem
	// Observe measures the response. status is 499 if the client disconnected before it.
	Observe(status int, duration time.Duration)
	// Logger returns the logger of this request.
	Logger() logrus.FieldLogger
}

// Answer runs handle, answers its error with a problem document, and measures the
// response. An error without a status is logged and answered 500.
func Answer[C Call](c C, handle func(C) error) {
	w, r := c.HTTP()
	start, returned := time.Now(), false
	defer func() {
		c.Observe(outcome(r, w.Status(), w.Written() || returned && r.Context().Err() == nil), time.Since(start))
	}()
	if err := handle(c); err != nil && !clientGone(r, err) {
		writeError(c, w, r, err)
	}
	returned = true
}

// clientGone reports whether err only means that the client disconnected.
func clientGone(r *http.Request, err error) bool {
	return r.Context().Err() != nil && errors.Is(err, context.Canceled)
}

func writeError(c Call, w http.ResponseWriter, r *http.Request, err error) {
	p := c.Problem(err)
	if p == nil {
		c.Logger().WithError(err).Error("Request failed")
		p = Internal(r)
	}
	problem.Write(w, p)
}

// Errors gives kinds of errors their status. Of several kinds that an error is, the first
// counts.
type Errors []ErrorStatus

// ErrorStatus is the response to a kind of error.
type ErrorStatus struct {
	Kind       error
	Status     int
	RetryAfter time.Duration // of a 503; 0: no such header
	Challenge  string        // the WWW-Authenticate of a 401
}

// Problem returns the response to an error: a *problem.Problem as it is, 400 for a
// *models.Invalid, 429 for a *limit.TooManyGuesses, else that of its kind; nil for an error
// of no kind.
func (e Errors) Problem(err error) *problem.Problem {
	var (
		p       *problem.Problem
		invalid *models.Invalid
		guesses *limit.TooManyGuesses
	)
	switch {
	case errors.As(err, &guesses):
		p = problem.New(http.StatusTooManyRequests, "%v", guesses)
		p.RetryAfter = guesses.RetryAfter()
		return p
	case errors.As(err, &p):
		return p
	case errors.As(err, &invalid):
		return problem.Invalid(invalid)
	}
	for _, s := range e {
		if errors.Is(err, s.Kind) {
			p = problem.New(s.Status, "%s", models.Trim(err.Error()))
			p.RetryAfter, p.Challenge = s.RetryAfter, s.Challenge
			return p
		}
	}
	return nil
}

// clientClosedRequest is the code under which metrics count a request whose client
// disconnected before the response.
const clientClosedRequest = 499

// outcome returns the code that metrics count r with: status if r was answered, else 499
// if the client has disconnected, else 500, which a panic is answered with.
func outcome(r *http.Request, status int, answered bool) int {
	switch {
	case answered:
		return status
	case r.Context().Err() != nil:
		return clientClosedRequest
	}
	return http.StatusInternalServerError
}
