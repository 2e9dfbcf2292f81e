package api

import (
	"net/http"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/poll"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

// config answers a poll. It is the hot path: no database, no JSON, no log line.
//
//	@ID				getConfig
//	@Summary		Fetch the current configuration
//	@Description	Answers 304 while If-None-Match (lists and * too) names the current one. An agent that reported the current version FAILED is not offered it again; and one that runs a later version than the store has keeps it until an admin decides.
//	@Description	With wait the answer is held until there is something else to say than 304, or than 404, and given when the wait and up to a sixteenth of it are over. X-Wait-Seconds says that it was.
//	@Tags			configuration
//	@Produce		json
//	@Security		Admin
//	@Security		Enroller
//	@Security		Agent
//	@Param			If-None-Match	header		string	false	"ETag of the configuration that the caller runs"
//	@Param			wait			query		string	false	"how long to hold the answer, such as 30s; longer than 5m is taken for 5m (0s)"
//	@Param			X-Transport		header		string	false	"the broker that an agent receives hints over; poll for none, although it asks to wait"	Enums(redis, nats, poll)
//	@Param			X-Applied-Version	header	int		false	"the version that the agent's worker runs"
//	@Param			X-Applied-Content	header	string	false	"the hash of the content that the agent holds for it; where it is not that of the version, the answer is 200"
//	@Param			X-Worker-Error	header		string	false	"why an agent cannot reach or feed its worker; absent while it can"
//	@Param			X-Push-Error	header		string	false	"why an agent polls although its PUSH is another"
//	@Success		200				{object}	wire.Config
//	@Success		304				"unchanged"
//	@Failure		400,401			{object}	problem.Problem
//	@Failure		404				{object}	problem.Problem	"nothing was ever published"
//	@Failure		429				{object}	problem.Problem	"more polls came than are let in at once"
//	@Failure		503				{object}	problem.Problem	"as 429, while the controller stops"
//	@Header			200,304,404,429	{integer}	X-Poll-Interval-Seconds		"seconds until the next poll; always"
//	@Header			200,304,404		{integer}	X-Sweep-Interval-Seconds	"to an agent that hears the broker that is announced over: seconds until its next poll"
//	@Header			200,304,404		{integer}	X-Wait-Seconds				"how long the answer was held at most; missing where nothing is held"
//	@Header			200,304,404		{string}	X-Fleet						"id of the controller's fleet"
//	@Header			200				{string}	X-Older-Because				"why the version is below X-Applied-Version: publish or resume"
//	@Header			200				{integer}	X-Spread-Milliseconds		"while the whole fleet fetches: how much later the report is best sent"
//	@Header			429,503			{integer}	Retry-After					"seconds, randomized"
//	@Header			200,304			{string}	ETag						"strong validator; always"
//	@Router			/api/v1/config [get]
func (a *API) config(c *call) error {
	wait, err := waitOf(c)
	if err != nil {
		return err
	}
	request := poll.Request{Self: c.self, Header: c.Request.Header, Wait: wait, StartedAt: time.Now().UTC()}
	var response poll.Response
	if wait <= 0 {
		response, _ = a.polls.Begin(request)
	} else if response, err = a.hold(c, request); err != nil {
		return err
	}
	return respond(c, &response)
}

// waitOf reads how long the response to a poll may be held, below 0 if the caller did
// not ask. A caller that asks for 0 learns whether responses are held.
func waitOf(c *call) (time.Duration, error) {
	if c.Request.URL.RawQuery == "" {
		return -1, nil
	}
	text, asked := c.GetQuery("wait")
	if !asked {
		return -1, nil
	}
	wait, ok := duration(text)
	if !ok || wait < 0 {
		return 0, wire.Bad("wait", "must be a duration such as 30s")
	}
	return min(wait, wire.MaxWait), nil
}

// hold answers a poll whose response may be held.
func (a *API) hold(c *call, request poll.Request) (poll.Response, error) {
	woken := make(chan struct{}, 1)
	request.OnWake = func() {
		select {
		case woken <- struct{}{}:
		default: // it is woken already
		}
	}
	response, ticket := a.polls.Begin(request)
	if ticket == nil {
		return response, nil
	}
	extend(c, request.Wait)
	reacquire := c.releaseWhileHeld()
	for {
		select {
		case <-woken:
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
		return unauthorized(c, errInvalidCredentials)
	case poll.StatusNotFound:
		return problem.New(http.StatusNotFound, "%s", r.Detail)
	case poll.StatusNotModified:
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
	default:
		c.Status(http.StatusOK)
		_, _ = c.Writer.Write(r.Body) // the client has disconnected, if this fails
	}
	return nil
}
