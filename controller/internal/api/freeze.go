package api

import (
	"net/http"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/etag"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// frozen returns the freeze that is in force, if any.
//
//	@ID			getFreeze
//	@Summary	Get the freeze
//	@Tags		freeze
//	@Produce	json
//	@Security	Admin
//	@Success	200	{object}	wire.Freeze
//	@Header		200	{string}	ETag	"ETag of the freeze; absent without a freeze"
//	@Failure	401,403,429	{object}	problem.Problem
//	@Router		/api/v1/freeze [get]
func (a *API) frozen(c *call) error { return a.showFreeze(c) }

// freeze sets a freeze, or replaces the one in force.
//
//	@ID				freezePublishing
//	@Summary		Freeze publishing
//	@Description	While publishing is frozen, a publish or rollback without override=true returns 409 with the reason. An existing freeze is replaced.
//	@Tags			freeze
//	@Accept			json
//	@Produce		json
//	@Security		Admin
//	@Param			freeze		body		wire.FreezeRequest	true	"the reason and the end of the freeze"
//	@Param			If-Match	header		string				false	"only if this is the ETag of the freeze"
//	@Success		200			{object}	wire.Freeze
//	@Header			200			{string}	ETag	"ETag of the freeze; always"
//	@Failure		400,401,403,412,413,415,429,503,507	{object}	problem.Problem
//	@Router			/api/v1/freeze [put]
func (a *API) freeze(c *call) error {
	req, err := server.Decode[wire.FreezeRequest](c.Request)
	if err != nil {
		return err
	}
	if err := req.Validate(time.Now()); err != nil {
		return err
	}
	allowed, err := freezePrecondition(c.Request.Header)
	if err != nil {
		return err
	}
	if err := a.Publisher.Freeze(c.Request.Context(), fromFreeze(req), c.origin(), allowed); err != nil {
		return err
	}
	a.event(c).WithField("reason", req.Reason).Info("Publishing frozen")
	return a.showFreeze(c)
}

// unfreeze lifts the freeze.
//
//	@ID			liftFreeze
//	@Summary	Lift the freeze
//	@Tags		freeze
//	@Security	Admin
//	@Param		If-Match	header	string	false	"only if this is the ETag of the freeze"
//	@Success	204	"publishing is not frozen"
//	@Failure	400,401,403,412,429,503,507	{object}	problem.Problem
//	@Router		/api/v1/freeze [delete]
func (a *API) unfreeze(c *call) error {
	allowed, err := freezePrecondition(c.Request.Header)
	if err != nil {
		return err
	}
	lifted, err := a.Publisher.Unfreeze(c.Request.Context(), c.origin(), allowed)
	if err != nil {
		return err
	}
	if lifted {
		a.event(c).Info("Freeze lifted")
	}
	return noContent(c)
}

// showFreeze writes the freeze that is in force, if any, with its ETag.
func (a *API) showFreeze(c *call) error {
	f := a.Publisher.Plan().FrozenAt(time.Now())
	if f != nil {
		c.Header("ETag", freezeETag(f))
	}
	c.Header("Cache-Control", "no-cache")
	return server.WriteJSON(c.Writer, http.StatusOK, toFreeze(f))
}

// freezePrecondition turns If-Match and If-None-Match into a predicate of the freeze that is
// in force, which is nil without one.
func freezePrecondition(h http.Header) (func(*models.Freeze) bool, error) {
	allowed, err := precondition(h)
	return func(f *models.Freeze) bool {
		if f == nil {
			return allowed("")
		}
		return allowed(freezeETag(f))
	}, err
}

func freezeETag(f *models.Freeze) string {
	return etag.Of(f.Reason, f.Until.String(), f.By, f.At.String())
}

func noContent(c *call) error {
	c.Status(http.StatusNoContent)
	c.Writer.WriteHeaderNow()
	return nil
}
