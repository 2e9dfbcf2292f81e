// Package worker is the client of the worker's HTTP API. It asks what the worker runs and
// pushes what it should run, and maps status codes to the errors of package protocol.
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

// Timeouts. A push has longer, because the worker may first resolve the host, for up to
// 2 s, and try the URL, for up to 5 s.
const (
	readTimeout = 2 * time.Second
	pushTimeout = 10 * time.Second
)

const path = "/config"

// Client is a client of one worker.
type Client struct {
	http  *httpclient.Client
	token string
}

// New returns a client of the worker at baseURL. token is the worker's WORKER_TOKEN, "" if
// it has none.
func New(baseURL, token string) *Client {
	return &Client{
		http: httpclient.New("the worker", baseURL, httpclient.KeepAlive{}, httpclient.TLS{}, nil), token: token,
	}
}

// Running returns what the worker runs, or protocol.ErrNothingRuns.
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

// Push makes the worker run config. It returns nil if the worker says that it runs exactly
// that version, *protocol.Refused if it will not run it, and another error if it could not
// be asked, or is not a worker.
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

var errToken = errors.New("the worker does not accept this agent's token; set WORKER_TOKEN to the worker's own")

// advise returns the error of an unexpected answer, with what an operator can do about it.
func (c *Client) advise(answer httpclient.Answer, request httpclient.Request) error {
	err := c.http.Unexpected(answer, request)
	switch {
	case answer.Status == http.StatusUnauthorized, answer.Status == http.StatusTooManyRequests && answer.IsProblem():
		return errToken // the same error for both: a wrong token that is sent often gets them in turns
	case answer.Status == http.StatusForbidden:
		return fmt.Errorf(
			"%w; set WORKER_TOKEN on worker and agent, "+
				"or run the agent on the worker's machine with WORKER_URL on a loopback address", err,
		)
	}
	return err
}
