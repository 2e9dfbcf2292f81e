package api

import (
	"net/http"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/poll"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/query"
)

// config answers a poll. It is the hot path: it uses no database, encodes no JSON and writes
// no log line.
//
//	@ID				getConfig
//	@Summary		Fetch the current configuration
//	@Description	Returns 304 if If-None-Match (a list or * too) matches the current configuration. An agent that reported the current version FAILED is not offered it again. An agent that runs a later version than the store has keeps it until an admin publishes or resumes.
//	@Description	With wait, a 304 or 404 is delayed until the configuration changes or the wait, lengthened by up to a sixteenth, expires. X-Wait-Seconds is the granted wait.
//	@Tags			configuration
//	@Produce		json
//	@Security		Admin
//	@Security		Enroller
//	@Security		Agent
//	@Param			If-None-Match	header		string	false	"ETag of the configuration that the caller runs"
//	@Param			wait			query		string	false	"how long to delay a 304 or 404, such as 30s; more than 5m counts as 5m (0s)"
//	@Param			X-Transport		header		string	false	"the broker over which the agent receives hints; poll: none, even if the request has wait"	Enums(redis, nats, poll)
//	@Param			X-Applied-Version	header	int		false	"the version that the agent's worker runs"
//	@Param			X-Applied-Content	header	string	false	"hash of the content that the agent holds for that version; if it differs from the version's, the response is 200"
//	@Param			X-Worker-Error	header		string	false	"why the agent cannot reach or configure its worker; absent if it can"
//	@Param			X-Push-Error	header		string	false	"why the agent polls although its PUSH selects another transport"
//	@Success		200				{object}	wire.Config
//	@Success		304				"unchanged"
//	@Failure		400,401			{object}	problem.Problem
//	@Failure		404				{object}	problem.Problem	"no configuration is published"
//	@Failure		429				{object}	problem.Problem	"too many polls"
//	@Failure		503				{object}	problem.Problem	"too many polls, and the controller is stopping"
//	@Header			200,304,404,429	{integer}	X-Poll-Interval-Seconds		"seconds until the next poll; always"
//	@Header			200,304,404		{integer}	X-Sweep-Interval-Seconds	"seconds until the next poll of an agent that receives hints over the controller's broker"
//	@Header			200,304,404		{integer}	X-Wait-Seconds				"the granted wait, in seconds; absent if the controller does not hold the response"
//	@Header			200,304,404		{string}	X-Fleet						"id of the controller's fleet"
//	@Header			200				{string}	X-Older-Because				"why the version is older than X-Applied-Version: publish or resume"
//	@Header			200				{integer}	X-Spread-Milliseconds		"during a rollout window: how long the agent should delay its report"
//	@Header			429,503			{integer}	Retry-After					"seconds, randomized"
//	@Header			200,304			{string}	ETag						"strong validator of the configuration; always"
//	@Router			/api/v1/config [get]
func (a *API) config(c *call) error {
	wait, err := waitOf(c)
	if err != nil {
		return err
	}
	request := poll.Request{Self: c.Self, Header: c.Request.Header, Wait: wait, StartedAt: time.Now().UTC()}
	var response poll.Response
	if wait <= 0 {
		response, _ = a.Polls.Begin(request)
	} else if response, err = a.hold(c, request); err != nil {
		return err
	}
	return respond(c, &response)
}

// waitOf returns how long the response to a poll may be held: the query's wait, at most
// wire.MaxWait, or a negative value if the query has none. With a wait of 0 the response
// shows only whether long polls are supported.
func waitOf(c *call) (time.Duration, error) {
	if c.Request.URL.RawQuery == "" {
		return -1, nil
	}
	text, asked := c.GetQuery("wait")
	if !asked {
		return -1, nil
	}
	wait, ok := query.Duration(text)
	if !ok || wait < 0 {
		return 0, wire.Bad("wait", "must be a duration such as 30s")
	}
	return min(wait, wire.MaxWait), nil
}

// hold begins a long poll and returns its response. It returns the context's error if the
// client disconnects first.
func (a *API) hold(c *call, request poll.Request) (poll.Response, error) {
	woken := make(chan struct{}, 1)
	request.OnWake = func() {
		select {
		case woken <- struct{}{}:
		default: // a wake-up is pending
		}
	}
	response, ticket := a.Polls.Begin(request)
	if ticket == nil {
		return response, nil
	}
	extend(c, request.Wait)
	reacquire := c.releaseWhileHeld()
	for {
		select {
		case <-woken:
			if c.Request.Context().Err() != nil {
				continue // the client disconnected, which is the other case
			}
			if response, done := ticket.Resume(); done {
				reacquire()
				return response, nil
			}
		case <-c.Request.Context().Done():
			ticket.Disconnect()
			return poll.Response{}, c.Request.Context().Err()
		}
	}
}

// respond writes the response to a poll.
func respond(c *call, r *poll.Response) error {
	r.SetHeader(c.Writer.Header())
	switch r.Status {
	case poll.StatusUnauthorized:
		return access.Unauthorized(c.Writer.Header(), access.ErrInvalid)
	case poll.StatusNotFound:
		return problem.New(http.StatusNotFound, "%s", r.Detail)
	case poll.StatusNotModified:
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
	default:
		c.Status(http.StatusOK)
		_, _ = c.Writer.Write(r.Body) // an error means that the client disconnected
	}
	return nil
}
