package api

import (
	"math"
	"net/http"
	"strconv"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/query"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// rollout returns the state of a version's rollout, or waits for a share of the targets.
//
//	@ID				getRollout
//	@Summary		Get the rollout of a version
//	@Description	With wait or applied, the request is a gate: it returns 200 as soon as the given share of the targets has applied the version, and 408 with the same body if the wait expires first or the version is superseded.
//	@Description	Targets are all agents that are not inactive. Without targets the gate returns 408.
//	@Tags			rollouts
//	@Produce		json
//	@Security		Admin
//	@Param			version	path		int		true	"the version"
//	@Param			wait	query		string	false	"how long to wait, such as 60s, at most 5m (0s)"
//	@Param			applied	query		number	false	"share of the targets to wait for, above 0 to 1 (1)"
//	@Success		200		{object}	wire.Rollout
//	@Failure		408		{object}	wire.Rollout	"the share was not reached"
//	@Failure		400,401,403,404,429,503	{object}	problem.Problem
//	@Router			/api/v1/rollouts/{version} [get]
func (a *API) rollout(c *call) error {
	version, err := query.Positive("version", c.Param("version"), math.MaxInt64)
	if err != nil {
		return err
	}
	wait, share, isGate, err := gate(c)
	if err != nil {
		return err
	}
	c.Header("Cache-Control", "no-store")
	if !isGate {
		rollout, err := a.Rollouts.Rollout(c.Request.Context(), version)
		if err != nil {
			return err
		}
		return server.WriteJSON(c.Writer, http.StatusOK, toRollout(rollout))
	}
	extend(c, wait)
	reacquire := c.releaseWhileHeld()
	rollout, reached, err := a.Rollouts.Wait(c.Request.Context(), version, share, wait, a.Draining)
	reacquire()
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !reached {
		status = http.StatusRequestTimeout
	}
	return server.WriteJSON(c.Writer, status, toRollout(rollout))
}

// gate reads the gate of a request: how long to wait for which share of the targets. isGate
// is false if the query has neither.
func gate(c *call) (wait time.Duration, share float64, isGate bool, err error) {
	share = 1
	if text, ok := c.GetQuery("wait"); ok {
		if wait, ok = query.Duration(text); !ok || wait < 0 || wait > wire.MaxWait {
			return 0, 0, false, wire.Bad("wait", "must be a duration such as 60s, at most %s", wire.MaxWait)
		}
		isGate = true
	}
	if text, ok := c.GetQuery("applied"); ok {
		share, err = strconv.ParseFloat(text, 64)
		if err != nil || !(share > 0 && share <= 1) {
			return 0, 0, false, wire.Bad("applied", "must be a share, above 0 to 1, such as 0.99")
		}
		isGate = true
	}
	return wait, share, isGate, nil
}

// extend moves the write deadline behind the longest time that a response may be held. Test
// writers without deadlines are ignored.
func extend(c *call, wait time.Duration) {
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(
		time.Now().Add(wait + wire.WaitSlack(wait) + server.WriteTimeout),
	)
}
