// Package worker is the agent's side of the worker's HTTP API: it asks what
// runs and pushes what should, and turns the answers' status codes into the
// errors of protocol.
package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/httpclient"
	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Bounds on one answer. A push has longer: the worker may look the host up, for
// 2 s, and try the URL, for 5 s, first.
const (
	readTimeout = 2 * time.Second
	pushTimeout = 10 * time.Second
)

const path = "/config"

// Client speaks to one worker.
type Client struct {
	http  *httpclient.Client
	token string
}

// New returns a client of the worker at baseURL. token is the worker's
// WORKER_TOKEN, "" if it has none.
func New(baseURL, token string) *Client {
	return &Client{
		http: httpclient.New("the worker", baseURL, httpclient.KeepAlive{}, httpclient.TLS{}, nil), token: token,
	}
}

// Running is what the worker runs. protocol.ErrNothingRuns: nothing yet.
func (c *Client) Running(ctx context.Context) (wire.WorkerState, error) {
	request := httpclient.Request{Method: http.MethodGet, Path: path, Bearer: c.token}
	answer, err := c.http.Do(ctx, readTimeout, request)
	if err != nil {
		return wire.WorkerState{}, err
	}
	switch {
	case answer.Status == http.StatusOK:
		state, err := httpclient.Decode[wire.WorkerState](answer)
		if err != nil || state.Instance == "" {
			return wire.WorkerState{}, c.http.Foreign(answer, "a worker", "WORKER_URL")
		}
		return state, nil
	case answer.Status == http.StatusNotFound && answer.IsProblem():
		return wire.WorkerState{}, protocol.ErrNothingRuns
	case answer.Status == http.StatusNotFound:
		return wire.WorkerState{}, c.http.Foreign(answer, "a worker", "WORKER_URL")
	}
	return wire.WorkerState{}, c.advise(answer, request)
}

// Push makes the worker run config. nil: it says that it runs exactly that
// version. *protocol.Refused: it will not run it. Any other error: it could not
// be asked, or was not a worker.
func (c *Client) Push(ctx context.Context, config wire.WorkerConfig) error {
	request := httpclient.Request{Method: http.MethodPost, Path: path, Bearer: c.token, Body: config}
	answer, err := c.http.Do(ctx, pushTimeout, request)
	if err != nil {
		return err
	}
	switch {
	case answer.Status >= 200 && answer.Status < 300:
		accepted, err := httpclient.Decode[wire.WorkerAccepted](answer)
		switch {
		case err != nil:
			return c.http.Foreign(answer, "a worker", "WORKER_URL")
		case accepted.Version != config.Version:
			return fmt.Errorf(
				"the worker was pushed version %d and says that it runs %d", config.Version, accepted.Version,
			)
		}
		return nil
	case answer.Status == http.StatusBadRequest, answer.Status == http.StatusUnprocessableEntity:
		p := answer.Problem(request)
		if p.Detail == "" {
			p.Detail = p.Error()
		}
		return &protocol.Refused{Message: p.Detail}
	}
	return c.advise(answer, request)
}

var errToken = errors.New("the worker does not take this agent's token; set WORKER_TOKEN to the worker's own")

// advise is the error of an answer that should be another one later, with what
// an operator can do about it.
func (c *Client) advise(answer httpclient.Answer, request httpclient.Request) error {
	err := c.http.Unexpected(answer, request)
	switch {
	case answer.Status == http.StatusUnauthorized, answer.Status == http.StatusTooManyRequests && answer.IsProblem():
		return errToken // one text: a wrong token that is sent often gets both in turns
	case answer.Status == http.StatusForbidden:
		return fmt.Errorf(
			"%w; set WORKER_TOKEN on worker and agent, or run the agent on the worker's machine with WORKER_URL on a loopback address",
			err,
		)
	}
	return err
}
