package api

import (
	"math"
	"net/http"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/query"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// history lists the published versions.
//
//	@ID			listConfigs
//	@Summary	List published versions, newest first
//	@Tags		configuration
//	@Produce	json
//	@Security	Admin
//	@Param		limit	query		int	false	"maximum number of entries, 1 to 1000 (100)"
//	@Param		before	query		int	false	"only versions below this number"
//	@Success	200		{array}		wire.PublishedConfig
//	@Failure	400,401,403,429	{object}	problem.Problem
//	@Router		/api/v1/configs [get]
func (a *API) history(c *call) error {
	values := c.Request.URL.Query()
	limit, err := query.Number(values, "limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	before, err := query.Number(values, "before", math.MaxInt64, math.MaxInt64)
	if err != nil {
		return err
	}
	configs, err := a.Publisher.History(c.Request.Context(), before, int(limit))
	if err != nil {
		return err
	}
	out := make([]wire.PublishedConfig, 0, len(configs))
	for _, cfg := range configs {
		out = append(out, toPublished(cfg))
	}
	return server.WriteJSON(c.Writer, http.StatusOK, out)
}

// version returns one published version.
//
//	@ID			getConfigVersion
//	@Summary	Get a published version
//	@Tags		configuration
//	@Produce	json
//	@Security	Admin
//	@Param		version	path		int	true	"version number"
//	@Success	200		{object}	wire.PublishedConfig
//	@Failure	400,401,403,404,429	{object}	problem.Problem
//	@Router		/api/v1/configs/{version} [get]
func (a *API) version(c *call) error {
	n, err := query.Positive("version", c.Param("version"), math.MaxInt64)
	if err != nil {
		return err
	}
	cfg, err := a.Publisher.Version(c.Request.Context(), n)
	if err != nil {
		return err
	}
	return server.WriteJSON(c.Writer, http.StatusOK, toPublished(cfg))
}

// diff compares two versions.
//
//	@ID				diffConfigs
//	@Summary		Compare two versions
//	@Description	Lists the fields whose values differ. from is the value in the first version, to that in the second.
//	@Tags			configuration
//	@Produce		json
//	@Security		Admin
//	@Param			version	path		int	true	"the first version"
//	@Param			other	path		int	true	"the second version"
//	@Success		200		{array}		wire.Difference
//	@Failure		400,401,403,404,429	{object}	problem.Problem
//	@Router			/api/v1/configs/{version}/diff/{other} [get]
func (a *API) diff(c *call) error {
	var contents [2]*models.Content
	for i, name := range []string{"version", "other"} {
		n, err := query.Positive(name, c.Param(name), math.MaxInt64)
		if err != nil {
			return err
		}
		cfg, err := a.Publisher.Version(c.Request.Context(), n)
		if err != nil {
			return err
		}
		contents[i] = &cfg.Content
	}
	return server.WriteJSON(c.Writer, http.StatusOK, differences(contents[0], contents[1]))
}

// audit lists the entries of the audit log.
//
//	@ID				listAudit
//	@Summary		List the audit log, newest first
//	@Description	Entries are never changed or removed. Failed logins with the same name from the same address share one entry a minute.
//	@Tags			audit
//	@Produce		json
//	@Security		Admin
//	@Param			limit	query		int		false	"maximum number of entries, 1 to 1000 (100)"
//	@Param			before	query		int		false	"only entries with a lower id"
//	@Param			action	query		string	false	"only this action"	Enums(publish, rollback, decommission, retry, freeze, unfreeze, override, resume, login_failed, register, reregister, reset, certificate)
//	@Success		200		{array}		wire.AuditEntry
//	@Failure		400,401,403,429	{object}	problem.Problem
//	@Router			/api/v1/audit [get]
func (a *API) audit(c *call) error {
	values := c.Request.URL.Query()
	limit, err := query.Number(values, "limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	before, err := query.Number(values, "before", 0, math.MaxInt64)
	if err != nil {
		return err
	}
	action, err := query.OneOf(values, "action", models.Actions)
	if err != nil {
		return err
	}
	entries, err := a.Audit.Entries(c.Request.Context(), action, before, int(limit))
	if err != nil {
		return err
	}
	out := make([]wire.AuditEntry, 0, len(entries))
	for _, e := range entries {
		out = append(out, toAuditEntry(e))
	}
	return server.WriteJSON(c.Writer, http.StatusOK, out)
}
