package api

import (
	"math"
	"net/http"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/etag"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/query"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// publish publishes a configuration as a new version.
//
//	@ID				publishConfig
//	@Summary		Publish a configuration
//	@Description	Omitted fields keep their value. Publishing the current content again changes nothing and returns changed:false, unless agents are in conflict: then it makes a new version.
//	@Description	With dry_run=true nothing is stored, and the response is a wire.Preview: the configuration as agents would fetch it, the changes, and the number of agents that would follow.
//	@Tags			configuration
//	@Accept			json
//	@Produce		json
//	@Security		Admin
//	@Param			configuration	body		wire.PublishRequest	false	"the fields to change"
//	@Param			poll_interval	query		int					false	"seconds between two polls of an agent; replaces poll_interval_seconds"
//	@Param			dry_run			query		bool				false	"preview only"
//	@Param			override		query		bool				false	"publish despite a freeze"
//	@Param			If-Match		header		string				false	"publish only if this is the ETag of the current configuration"
//	@Success		200				{object}	wire.PublishResponse{dry_run=wire.Preview}
//	@Header			200				{string}	ETag	"ETag of the current configuration; absent on a dry run"
//	@Failure		400,401,403,412,413,415,429,503,507	{object}	problem.Problem
//	@Failure		409				{object}	problem.Problem	"publishing is frozen; detail gives the reason"
//	@Router			/api/v1/config [post]
func (a *API) publish(c *call) error {
	req, err := decodePublish(c)
	if err != nil {
		return err
	}
	draft := fromPublish(req)
	dry := false
	if draft.Terms, dry, err = terms(c, req.Message); err != nil {
		return err
	}
	if dry {
		outcome, err := a.Publisher.PreviewPublish(c.Request.Context(), draft)
		return preview(c, outcome, err)
	}
	outcome, err := a.Publisher.Publish(c.Request.Context(), draft)
	return a.published(c, outcome, err)
}

// rollback makes the content of a version current again.
//
//	@ID				rollbackConfig
//	@Summary		Roll back to a version
//	@Description	Publishes the content of an earlier version again, as a new version with restored_from. To undo a rollback, roll back again.
//	@Description	If that content is already current, nothing changes, unless agents are in conflict. With dry_run=true the response is a wire.Preview, as for a publish.
//	@Tags			configuration
//	@Accept			json
//	@Produce		json
//	@Security		Admin
//	@Param			version		path		int						true	"the version to restore"
//	@Param			why			body		wire.RollbackRequest	false	"the reason (optional)"
//	@Param			dry_run		query		bool					false	"preview only"
//	@Param			override	query		bool					false	"roll back despite a freeze"
//	@Param			If-Match	header		string					false	"roll back only if this is the ETag of the current configuration"
//	@Success		200			{object}	wire.PublishResponse{dry_run=wire.Preview}
//	@Header			200			{string}	ETag	"ETag of the current configuration; absent on a dry run"
//	@Failure		400,401,403,404,412,413,415,429,503,507	{object}	problem.Problem
//	@Failure		409			{object}	problem.Problem	"publishing is frozen; detail gives the reason"
//	@Router			/api/v1/configs/{version}/rollback [post]
func (a *API) rollback(c *call) error {
	version, err := query.Positive("version", c.Param("version"), math.MaxInt64)
	if err != nil {
		return err
	}
	var req wire.RollbackRequest
	if !server.Bodyless(c.Request) {
		if req, err = server.Decode[wire.RollbackRequest](c.Request); err != nil {
			return err
		}
	}
	if err := req.Validate(); err != nil {
		return err
	}
	terms, dry, err := terms(c, req.Message)
	if err != nil {
		return err
	}
	if dry {
		outcome, err := a.Publisher.PreviewRollback(c.Request.Context(), version, terms)
		return preview(c, outcome, err)
	}
	outcome, err := a.Publisher.Rollback(c.Request.Context(), version, terms)
	return a.published(c, outcome, err)
}

// terms reads the options that a publish and a rollback share. dry is whether to preview only.
func terms(c *call, message *string) (t models.Terms, dry bool, err error) {
	t.Origin = c.origin()
	if message != nil {
		t.Message = *message
	}
	values := c.Request.URL.Query()
	if dry, err = query.Flag(values, "dry_run"); err != nil {
		return t, dry, err
	}
	if t.Override, err = query.Flag(values, "override"); err != nil {
		return t, dry, err
	}
	t.Allowed, err = precondition(c.Request.Header)
	return t, dry, err
}

// published writes and logs the outcome of a publish or rollback.
func (a *API) published(c *call, outcome models.Outcome, err error) error {
	if err != nil {
		return err
	}
	cfg, message := outcome.Config, "This content is already current; nothing was changed"
	if outcome.Changed {
		message = "Configuration published"
		log := a.event(c).WithField("version", cfg.Version)
		if cfg.RestoredFrom != 0 {
			log = log.WithField("restored_from", cfg.RestoredFrom)
		}
		log.Info("Configuration published")
	}
	c.Header("ETag", cfg.ETag)
	return server.WriteJSON(c.Writer, http.StatusOK, wire.PublishResponse{
		Message: message, Version: cfg.Version, Changed: outcome.Changed,
	})
}

// preview writes what a publish or rollback would do.
func preview(c *call, outcome models.Outcome, err error) error {
	if err != nil {
		return err
	}
	return server.WriteJSON(c.Writer, http.StatusOK, toPreview(outcome))
}

// resume ends a conflict: agents that run later versions than the store has follow it again.
//
//	@ID				resumeFleet
//	@Summary		Let agents follow a restored store
//	@Description	Agents that run later versions than the store has, as after the restore of an older backup, keep their version. This request makes them follow the store's current configuration, even if it is older. A publish ends the conflict too.
//	@Tags			agents
//	@Produce		json
//	@Security		Admin
//	@Param			If-Match	header		string	false	"resume only if this is the ETag of the current configuration"
//	@Success		200			{object}	wire.PublishResponse	"changed is false if there was no conflict"
//	@Failure		400,401,403,412,429,503,507	{object}	problem.Problem
//	@Router			/api/v1/agents/resume [post]
func (a *API) resume(c *call) error {
	allowed, err := precondition(c.Request.Header)
	if err != nil {
		return err
	}
	resumed, err := a.Publisher.Resume(c.Request.Context(), c.origin(), allowed)
	if err != nil {
		return err
	}
	out := wire.PublishResponse{
		Message: "There is no conflict; nothing was changed",
		Version: a.Publisher.Plan().Version(), Changed: resumed,
	}
	if resumed {
		out.Message = "Agents follow the store again"
		a.event(c).WithField("version", out.Version).Info("Conflict resolved")
	}
	return server.WriteJSON(c.Writer, http.StatusOK, out)
}

// decodePublish reads a publish from the body and the query. The body may be omitted if the
// query has poll_interval.
func decodePublish(c *call) (req wire.PublishRequest, err error) {
	interval, inQuery := c.GetQuery("poll_interval")
	if !inQuery || !server.Bodyless(c.Request) {
		if req, err = server.Decode[wire.PublishRequest](c.Request); err != nil {
			return req, err
		}
	}
	if inQuery {
		n, err := wire.PollInterval("poll_interval", interval)
		if err != nil {
			return req, err
		}
		if req.PollIntervalSeconds != nil && *req.PollIntervalSeconds != n {
			return req, wire.Bad("poll_interval", "differs from poll_interval_seconds in the body; send one of them")
		}
		req.PollIntervalSeconds = &n
	}
	return req, req.Validate()
}

// precondition turns If-Match and If-None-Match into a predicate of the current ETag, which
// is "" if there is none (RFC 9110 §13.1).
func precondition(h http.Header) (func(string) bool, error) {
	match, none := h.Values("If-Match"), h.Values("If-None-Match")
	if _, ok := etag.Match(match, ""); !ok {
		return nil, wire.Bad("If-Match", `must be * or ETags in their quotes, such as "abc"`)
	}
	return func(current string) bool {
		matches, _ := etag.Match(match, current)
		return (len(match) == 0 || matches) && (current == "" || !etag.NoneMatch(none, current))
	}, nil
}
