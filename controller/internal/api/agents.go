package api

import (
	"encoding/base64"
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/pkg/auth"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/query"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// pollURL is the URL to poll, relative to that of the registration, because a proxy may have
// stripped a prefix of the path.
const pollURL = "config"

// register registers an agent, or re-registers a known one.
//
//	@ID				registerAgent
//	@Summary		Register an agent
//	@Description	With the agent_id and agent_secret of a registered agent, it re-registers that agent. The token is returned only here. An agent may also re-register with its own id and token.
//	@Tags			agents
//	@Accept			json
//	@Produce		json
//	@Security		Enroller
//	@Security		Agent
//	@Param			agent	body		wire.RegisterRequest	true	"the agent"
//	@Success		200		{object}	wire.RegisterResponse	"re-registered"
//	@Success		201		{object}	wire.RegisterResponse	"registered"
//	@Failure		400,401,403,413,415,429,503,507	{object}	problem.Problem
//	@Failure		409		{object}	problem.Problem	"agent_secret is not that of the registered agent; an admin can reset it"
//	@Router			/api/v1/register [post]
func (a *API) register(c *call) error {
	req, err := server.Decode[wire.RegisterRequest](c.Request)
	if err != nil {
		return err
	}
	if err := req.Validate(); err != nil {
		return err
	}
	registration, err := fromRegister(req)
	if err != nil {
		return err
	}
	if c.Self != nil && req.AgentID != c.Self.ID() {
		return problem.New(http.StatusForbidden, "an agent's own token registers its own agent_id only")
	}
	if _, err := a.Agents.Agent(req.AgentID); err != nil { // new agents only: a registered agent has its own limit
		if err := a.guard.AllowChurn(c.guardRequest()); err != nil {
			return err
		}
	}
	registration.PollInterval = a.Publisher.Plan().PollInterval()
	registration.Self, registration.Origin = c.Self, c.origin()
	if _, token, ok := c.Request.BasicAuth(); ok && c.Self != nil {
		registration.Token = auth.DigestOf(token)
	}
	if a.Mutual {
		registration.Certificate = registry.CertificateName(access.Certificate(c.Request))
	}
	id, token, isNew, err := a.Agents.Register(c.Request.Context(), registration)
	if errors.Is(err, models.ErrSecret) || errors.Is(err, models.ErrCertificate) {
		a.guard.RecordInvalid(c.guardRequest(), c.Caller, err)
	}
	if errors.Is(err, models.ErrSecret) {
		return problem.New(http.StatusConflict,
			"%v; if it is the same agent, an admin can let it register once: POST /api/v1/agents/%s/reset",
			err, req.AgentID)
	}
	if err != nil {
		return err
	}
	status := http.StatusOK
	if isNew {
		status = http.StatusCreated
		a.event(c).WithFields(logrus.Fields{"agent": id, "hostname": req.Hostname}).Info("Agent registered")
	}
	c.Header("Cache-Control", "no-store")
	return server.WriteJSON(c.Writer, status, wire.RegisterResponse{
		AgentID: id, AgentToken: token, PollURL: pollURL, PollIntervalSeconds: seconds(registration.PollInterval),
	})
}

// agents lists the agents, a page at a time.
//
//	@ID			listAgents
//	@Summary	List agents, in order of registration
//	@Tags		agents
//	@Produce	json
//	@Security	Admin
//	@Param		limit	query		int		false	"maximum number of agents, 1 to 1000 (100)"
//	@Param		cursor	query		string	false	"start of the page, from the Link header of the previous one"
//	@Param		status	query		string	false	"only agents with this status; all includes the inactive ones, which are left out by default"	Enums(online, stale, offline, inactive, failed, conflict, degraded, all)
//	@Param		version	query		int		false	"only agents that run this version"
//	@Param		transport	query	string	false	"only agents that currently learn of new versions over this transport"	Enums(poll, longpoll, redis, nats)
//	@Param		hostname	query	string	false	"only agents on this host; a trailing * matches any suffix"
//	@Success	200		{array}		wire.Agent
//	@Header		200		{string}	Link			"rel=next: the next page; absent on the last page"
//	@Header		200		{integer}	X-Total-Count	"number of agents on all pages; always"
//	@Failure	400,401,403,429	{object}	problem.Problem
//	@Router		/api/v1/agents [get]
func (a *API) agents(c *call) error {
	selection, err := selected(c.Request.URL.Query())
	if err != nil {
		return err
	}
	plan, now := a.Publisher.Plan(), time.Now()
	page := a.Agents.List(selection, plan, now)
	out := make([]wire.Agent, 0, len(page.Agents))
	for _, agent := range page.Agents {
		out = append(out, toAgent(&agent, a.Agents.StatusOf(&agent, plan, now), plan))
	}
	c.Header("X-Total-Count", strconv.Itoa(page.Total))
	if page.More {
		next := c.Request.URL.Query()
		next.Set("cursor", toCursor(page.Agents[len(page.Agents)-1].Seq))
		// The reference is relative (RFC 8288 §3), because a proxy may have stripped a prefix.
		c.Header("Link", "<?"+next.Encode()+`>; rel="next"`)
	}
	return server.WriteJSON(c.Writer, http.StatusOK, out)
}

// Bounds of the number of entries on a page.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// allStatuses selects agents of every status, including inactive ones.
const allStatuses wire.AgentStatus = "all"

// selected returns which agents a list selects, and which page of them.
func selected(values url.Values) (q census.Query, err error) {
	limit, err := query.Number(values, "limit", defaultLimit, maxLimit)
	if err != nil {
		return q, err
	}
	q.Limit = int(limit)
	statuses := append([]wire.AgentStatus{allStatuses}, wire.AgentStatuses...)
	if q.Status, err = query.OneOf(values, "status", statuses); err != nil {
		return q, err
	}
	if q.Status == allStatuses {
		q.Status, q.All = "", true
	}
	if q.Transport, err = query.OneOf(values, "transport", wire.Transports); err != nil {
		return q, err
	}
	q.Hostname = values.Get("hostname")
	if q.Hostname == "" && values.Has("hostname") {
		return q, wire.Bad("hostname", "is empty; leave it out to see every host")
	}
	if q.Applied, err = query.Number(values, "version", 0, math.MaxInt64); err != nil {
		return q, err
	}
	if values.Has("cursor") {
		var ok bool
		if q.After, ok = fromCursor(values.Get("cursor")); !ok {
			return q, wire.Bad("cursor", "is not a cursor of this server; start again without it")
		}
	}
	return q, nil
}

// toCursor encodes a position in the list. Clients must not interpret it.
func toCursor(seq int64) string {
	return base64.RawURLEncoding.EncodeToString([]byte("s" + strconv.FormatInt(seq, 10)))
}

// fromCursor decodes a cursor; ok is false if this server did not make it.
func fromCursor(cursor string) (seq int64, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(b) < 2 || b[0] != 's' {
		return 0, false
	}
	seq, err = strconv.ParseInt(string(b[1:]), 10, 64)
	return seq, err == nil && seq > 0
}

// agent returns one agent.
//
//	@ID			getAgent
//	@Summary	Get an agent
//	@Tags		agents
//	@Produce	json
//	@Security	Admin
//	@Param		id	path		string	true	"its id"
//	@Success	200	{object}	wire.Agent
//	@Failure	401,403,404,429	{object}	problem.Problem
//	@Router		/api/v1/agents/{id} [get]
func (a *API) agent(c *call) error {
	agent, err := a.Agents.Agent(c.Param("id"))
	if err != nil {
		return err
	}
	plan := a.Publisher.Plan()
	return server.WriteJSON(
		c.Writer, http.StatusOK, toAgent(&agent, a.Agents.StatusOf(&agent, plan, time.Now()), plan),
	)
}

// summary counts the agents.
//
//	@ID			summarizeAgents
//	@Summary	Count agents by status, applied version and transport
//	@Tags		agents
//	@Produce	json
//	@Security	Admin
//	@Success	200	{object}	wire.AgentSummary
//	@Failure	401,403,429	{object}	problem.Problem
//	@Router		/api/v1/agents/summary [get]
func (a *API) summary(c *call) error {
	plan := a.Publisher.Plan()
	return server.WriteJSON(c.Writer, http.StatusOK, toSummary(a.Agents.Summary(plan, time.Now()), plan.Version()))
}

// decommission removes an agent.
//
//	@ID				deleteAgent
//	@Summary		Decommission an agent
//	@Description	The agent's token is revoked. An agent that still runs registers again. An agent may remove itself.
//	@Tags			agents
//	@Security		Admin
//	@Security		Agent
//	@Param			id			path	string	true	"its id"
//	@Param			If-Match	header	string	false	"only if this is the ETag of the current configuration"
//	@Success		204	"removed"
//	@Failure		400,401,403,404,412,429,503,507	{object}	problem.Problem
//	@Router			/api/v1/agents/{id} [delete]
func (a *API) decommission(c *call) error {
	if err := a.checkCurrent(c); err != nil {
		return err
	}
	if c.Self != nil {
		if err := a.guard.AllowChurn(c.guardRequest()); err != nil {
			return err
		}
	}
	if err := a.Agents.Decommission(c.Request.Context(), c.Param("id"), c.origin()); err != nil {
		return err
	}
	a.event(c).WithField("agent", c.Param("id")).Info("Agent decommissioned")
	return noContent(c)
}

// retry offers an agent again the version that its worker refused.
//
//	@ID				retryAgent
//	@Summary		Let an agent try a refused version again
//	@Description	The agent's next poll offers it the version that its worker refused.
//	@Tags			agents
//	@Security		Admin
//	@Param			id			path	string	true	"its id"
//	@Param			If-Match	header	string	false	"only if this is the ETag of the current configuration"
//	@Success		204	"the version will be offered again"
//	@Failure		400,401,403,404,412,429,503,507	{object}	problem.Problem
//	@Router			/api/v1/agents/{id}/retry [post]
func (a *API) retry(c *call) error {
	if err := a.checkCurrent(c); err != nil {
		return err
	}
	if err := a.Agents.Retry(c.Request.Context(), c.Param("id"), c.origin()); err != nil {
		return err
	}
	a.event(c).WithField("agent", c.Param("id")).Info("Agent retry requested")
	return noContent(c)
}

// reset lets an agent register once with a new secret and certificate.
//
//	@ID				resetAgent
//	@Summary		Reset an agent's secret and certificate
//	@Description	The next registration with this id sets a new secret and certificate. The agent's token stays valid.
//	@Tags			agents
//	@Security		Admin
//	@Param			id			path	string	true	"its id"
//	@Param			If-Match	header	string	false	"only if this is the ETag of the current configuration"
//	@Success		204	"reset"
//	@Failure		400,401,403,404,412,429,503,507	{object}	problem.Problem
//	@Router			/api/v1/agents/{id}/reset [post]
func (a *API) reset(c *call) error {
	if err := a.checkCurrent(c); err != nil {
		return err
	}
	if err := a.Agents.Reset(c.Request.Context(), c.Param("id"), c.origin()); err != nil {
		return err
	}
	a.event(c).WithField("agent", c.Param("id")).Info("Agent reset")
	return noContent(c)
}

// checkCurrent checks If-Match and If-None-Match of a write to an agent against the ETag of
// the current configuration. It returns models.ErrPrecondition if they do not hold.
func (a *API) checkCurrent(c *call) error {
	allowed, err := precondition(c.Request.Header)
	if err != nil {
		return err
	}
	if !allowed(a.Publisher.Plan().ETag()) {
		return models.ErrPrecondition
	}
	return nil
}

// report stores the outcome of an agent's attempt to apply a version.
//
//	@ID				reportAttempt
//	@Summary		Report the outcome of applying a version
//	@Description	A version that an agent reports FAILED is not offered to it again until a newer version is published or an admin requests a retry. After 204 the report is stored.
//	@Tags			agents
//	@Accept			json
//	@Security		Agent
//	@Param			id		path	string		true	"the agent's own id"
//	@Param			report	body	wire.Report	true	"the outcome"
//	@Success		204		"stored"
//	@Failure		400,401,403,413,415,429,503,507	{object}	problem.Problem
//	@Router			/api/v1/agents/{id}/status [post]
func (a *API) report(c *call) error {
	req, err := server.Decode[wire.Report](c.Request)
	if err != nil {
		return err
	}
	if err := req.Validate(); err != nil {
		return err
	}
	if !a.Publisher.ObserveReport(req.Version, req.ETag) {
		return wire.Bad("version", "%d is too high for this fleet; its newest version is %d",
			req.Version, a.Publisher.Plan().Version())
	}
	attempt := fromReport(req, models.Now())
	news, err := a.Agents.Report(c.Request.Context(), c.Self, attempt)
	if news && attempt.Status == wire.Failed && a.Agents.Allow(c.Self, registry.Logging) == nil {
		a.event(c).WithFields(logrus.Fields{"version": attempt.Version, "error": attempt.Error}).
			Warn("Worker refused a version")
	}
	if err != nil {
		return err
	}
	return noContent(c)
}
