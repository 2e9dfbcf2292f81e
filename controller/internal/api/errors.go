package api

import (
	"context"
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
var statuses = []struct {
	kind   error
	status int
}{
	{models.ErrNotFound, http.StatusNotFound},
	{models.ErrCertificate, http.StatusForbidden},
	{models.ErrPrecondition, http.StatusPreconditionFailed},
	{database.ErrBusy, http.StatusServiceUnavailable},
	{database.ErrReadOnly, http.StatusServiceUnavailable},
	{database.ErrFull, http.StatusInsufficientStorage},
	{database.ErrIO, http.StatusServiceUnavailable},
	{database.ErrCorrupt, http.StatusServiceUnavailable},
	{database.ErrMoved, http.StatusServiceUnavailable},
}

// A caller whose request the store could not take may try again after a time
// that is drawn from between these, so that not all come at once.
const (
	soonest = 5 * time.Second
	latest  = 10 * time.Second
)

// answer makes a gin handler of one that returns an error, and is the only
// place where an error is answered and an answer measured.
func (a *API) answer(as *measured, handle func(*call) error) gin.HandlerFunc {
	return func(g *gin.Context) {
		c := &call{Context: g, api: a, measured: as}
		began, ended := time.Now(), false
		defer func() { c.measure(began, ended) }()
		err := handle(c)
		ended = true
		if err == nil || c.clientGone(err) {
			return
		}
		p := a.problemOf(c, err)
		if h := c.Writer.Header(); p.Status == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
			problem.RetryAfter(h, soonest+rand.N(latest-soonest+1))
		}
		problem.Write(c.Writer, p)
	}
}

// clientGone reports whether an error is that of a caller who did not wait: who has gone
// reads no answer.
func (c *call) clientGone(err error) bool {
	return c.Request.Context().Err() != nil && errors.Is(err, context.Canceled)
}

func (a *API) problemOf(c *call, err error) *problem.Problem {
	var (
		p       *problem.Problem
		bad     *wire.Invalid
		refused *models.InvalidError
		frozen  *models.FrozenError
		many    *models.TooManyAgentsError
		often   *models.TooOftenError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &bad):
		return problem.Invalid(bad)
	case errors.As(err, &refused):
		return problem.Invalid(wire.Bad(refused.Field, "%s", refused.Detail))
	case errors.As(err, &frozen):
		return problem.New(http.StatusConflict, "%v; DELETE /api/v1/freeze lifts it, and ?override=true publishes in spite of it", frozen)
	case errors.As(err, &many):
		return problem.New(http.StatusInsufficientStorage,
			"%v; remove agents that will not come back (DELETE /api/v1/agents/{id}), or raise it", many)
	case errors.As(err, &often):
		problem.RetryAfter(c.Writer.Header(), often.Wait)
		return problem.New(http.StatusTooManyRequests, "%v; it may again after the time in Retry-After", often)
	case errors.Is(err, models.ErrDraining): // no failure
		return problem.New(http.StatusServiceUnavailable, "%v; ask again", err)
	}
	for _, s := range statuses {
		if !errors.Is(err, s.kind) {
			continue
		}
		if s.status >= http.StatusInternalServerError {
			a.logFailure(c, err)
			return problem.New(s.status, "%v%s", s.kind, c.aftermath(err))
		}
		return problem.New(s.status, "%v", err)
	}
	a.logFailure(c, err)
	return server.Internal(c.Request)
}

// aftermath says what became of a request that the store failed: "" where it only read.
func (c *call) aftermath(err error) string {
	switch {
	case c.Request.Method == http.MethodGet, c.Request.Method == http.MethodHead:
		return ""
	case !errors.Is(err, database.ErrInDoubt):
		return "; nothing was changed"
	}
	return "; it may or may not have been done: send it again, the same content makes no second version"
}

func (a *API) logFailure(c *call, err error) {
	a.event(c).WithFields(logrus.Fields{"method": c.Request.Method, "path": c.FullPath()}).WithError(err).Error("Request failed")
}
