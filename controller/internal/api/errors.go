package api

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// statuses maps kinds of errors to statuses.
var statuses = server.Errors{
	{Kind: models.ErrNotFound, Status: http.StatusNotFound},
	{Kind: models.ErrCertificate, Status: http.StatusForbidden},
	{Kind: models.ErrPrecondition, Status: http.StatusPreconditionFailed},
}

// storeFailures maps failures of the store to statuses. They are logged.
var storeFailures = server.Errors{
	{Kind: database.ErrBusy, Status: http.StatusServiceUnavailable},
	{Kind: database.ErrReadOnly, Status: http.StatusServiceUnavailable},
	{Kind: database.ErrFull, Status: http.StatusInsufficientStorage},
	{Kind: database.ErrIO, Status: http.StatusServiceUnavailable},
	{Kind: database.ErrCorrupt, Status: http.StatusServiceUnavailable},
	{Kind: database.ErrMoved, Status: http.StatusServiceUnavailable},
}

// A 503 gets a random Retry-After between these bounds, so that clients do not retry at the
// same time.
const (
	minRetryAfter = 5 * time.Second
	maxRetryAfter = 10 * time.Second
)

// answer returns a gin handler that runs handle and answers its error. The request is
// measured as the given class.
func (a *API) answer(as *measured, handle func(*call) error) gin.HandlerFunc {
	return func(g *gin.Context) { server.Answer(&call{Context: g, api: a, measured: as}, handle) }
}

// HTTP implements server.Call.
func (c *call) HTTP() (server.ResponseWriter, *http.Request) { return c.Writer, c.Request }

// Problem implements server.Call.
func (c *call) Problem(err error) *problem.Problem {
	p := c.problem(err)
	if p != nil && p.Status == http.StatusServiceUnavailable && p.RetryAfter == 0 &&
		c.Writer.Header().Get("Retry-After") == "" {
		p.RetryAfter = minRetryAfter + rand.N(maxRetryAfter-minRetryAfter+1)
	}
	return p
}

// Observe implements server.Call. Responses that were held are counted, but not timed.
func (c *call) Observe(status int, duration time.Duration) {
	if c.measured.timed {
		c.measured.class.Answered(status, duration)
	} else {
		c.measured.class.Counted(status)
	}
}

// Logger implements server.Call.
func (c *call) Logger() logrus.FieldLogger {
	return c.api.event(c).WithFields(logrus.Fields{"method": c.Request.Method, "path": c.FullPath()})
}

// problem returns the response to err, nil if err has no status of its own.
func (c *call) problem(err error) *problem.Problem {
	var (
		invalid  *models.InvalidError
		frozen   *models.FrozenError
		tooMany  *models.TooManyAgentsError
		tooOften *models.TooOftenError
	)
	if p := statuses.Problem(err); p != nil {
		return p
	}
	switch {
	case errors.As(err, &invalid):
		return problem.Invalid(wire.Bad(invalid.Field, "%s", invalid.Detail))
	case errors.As(err, &frozen):
		return problem.New(
			http.StatusConflict, "%v; lift it with DELETE /api/v1/freeze, or publish despite it with ?override=true",
			frozen,
		)
	case errors.As(err, &tooMany):
		return problem.New(http.StatusInsufficientStorage,
			"%v; remove agents that no longer exist (DELETE /api/v1/agents/{id}), or raise MAX_AGENTS", tooMany)
	case errors.As(err, &tooOften):
		p := problem.New(http.StatusTooManyRequests, "%v; retry after the time in Retry-After", tooOften)
		p.RetryAfter = tooOften.Wait
		return p
	case errors.Is(err, models.ErrDraining):
		return problem.New(http.StatusServiceUnavailable, "%v; retry", err)
	}
	for _, s := range storeFailures {
		if errors.Is(err, s.Kind) {
			c.Logger().WithError(err).Error("Request failed")
			return problem.New(s.Status, "%v%s", s.Kind, c.effect(err))
		}
	}
	return nil
}

// effect returns a sentence on whether a request whose store access failed changed anything,
// "" for one that only reads.
func (c *call) effect(err error) string {
	switch {
	case c.Request.Method == http.MethodGet, c.Request.Method == http.MethodHead:
		return ""
	case !errors.Is(err, database.ErrInDoubt):
		return "; nothing was changed"
	}
	return "; the change may or may not be stored: send it again, the same content makes no second version"
}
