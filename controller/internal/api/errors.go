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

// statuses is the one place where a kind of error gets its status.
var statuses = server.Errors{
	{Kind: models.ErrNotFound, Status: http.StatusNotFound},
	{Kind: models.ErrCertificate, Status: http.StatusForbidden},
	{Kind: models.ErrPrecondition, Status: http.StatusPreconditionFailed},
}

// storeFailures are the statuses of what keeps the store from its work.
var storeFailures = server.Errors{
	{Kind: database.ErrBusy, Status: http.StatusServiceUnavailable},
	{Kind: database.ErrReadOnly, Status: http.StatusServiceUnavailable},
	{Kind: database.ErrFull, Status: http.StatusInsufficientStorage},
	{Kind: database.ErrIO, Status: http.StatusServiceUnavailable},
	{Kind: database.ErrCorrupt, Status: http.StatusServiceUnavailable},
	{Kind: database.ErrMoved, Status: http.StatusServiceUnavailable},
}

// A client whose request got a 503 may try again after a random time between these, so
// that not all come at once.
const (
	minRetryAfter = 5 * time.Second
	maxRetryAfter = 10 * time.Second
)

// answer makes a gin handler of one that returns an error.
func (a *API) answer(as *measured, handle func(*call) error) gin.HandlerFunc {
	return func(g *gin.Context) { server.Answer(&call{Context: g, api: a, measured: as}, handle) }
}

// HTTP implements server.Call.
func (c *call) HTTP() (server.ResponseWriter, *http.Request) { return c.Writer, c.Request }

// Problem implements server.Call.
func (c *call) Problem(err error) *problem.Problem {
	p := c.problem(err)
	if p != nil && p.Status == http.StatusServiceUnavailable && p.RetryAfter == 0 && c.Writer.Header().Get("Retry-After") == "" {
		p.RetryAfter = minRetryAfter + rand.N(maxRetryAfter-minRetryAfter+1)
	}
	return p
}

// Observe implements server.Call. The time that a response was held says nothing.
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

func (c *call) problem(err error) *problem.Problem {
	var (
		refused *models.InvalidError
		frozen  *models.FrozenError
		many    *models.TooManyAgentsError
		often   *models.TooOftenError
	)
	if p := statuses.Problem(err); p != nil {
		return p
	}
	switch {
	case errors.As(err, &refused):
		return problem.Invalid(wire.Bad(refused.Field, "%s", refused.Detail))
	case errors.As(err, &frozen):
		return problem.New(http.StatusConflict, "%v; DELETE /api/v1/freeze lifts it, and ?override=true publishes in spite of it", frozen)
	case errors.As(err, &many):
		return problem.New(http.StatusInsufficientStorage,
			"%v; remove agents that will not come back (DELETE /api/v1/agents/{id}), or raise it", many)
	case errors.As(err, &often):
		p := problem.New(http.StatusTooManyRequests, "%v; it may again after the time in Retry-After", often)
		p.RetryAfter = often.Wait
		return p
	case errors.Is(err, models.ErrDraining): // no failure
		return problem.New(http.StatusServiceUnavailable, "%v; ask again", err)
	}
	for _, s := range storeFailures {
		if errors.Is(err, s.Kind) {
			c.Logger().WithError(err).Error("Request failed")
			return problem.New(s.Status, "%v%s", s.Kind, c.effect(err))
		}
	}
	return nil
}

// effect says what became of a request that the store failed: "" where it only read.
func (c *call) effect(err error) string {
	switch {
	case c.Request.Method == http.MethodGet, c.Request.Method == http.MethodHead:
		return ""
	case !errors.Is(err, database.ErrInDoubt):
		return "; nothing was changed"
	}
	return "; it may or may not have been done: send it again, the same content makes no second version"
}
