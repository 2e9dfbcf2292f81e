// Package controller is the client of the controller's HTTP API. It registers, fetches and
// reports, and maps status codes to the errors of package protocol.
package controller

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/httpclient"
	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/etag"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const (
	timeout           = 10 * time.Second // of one answer
	deregisterTimeout = 5 * time.Second  // which delays the end of the agent

	// Bounds on what the controller asks for.
	maxSpread     = time.Second // before a report
	maxRetryAfter = time.Hour
)

// Client is a client of one controller.
type Client struct {
	http               *httpclient.Client
	username, password string // shared by all agents: to register

	// etags says that the controller takes ETags in reports. A controller that names its
	// fleet does; older builds reject them.
	etags atomic.Bool
}

// Options say where the controller is, and how to reach it.
type Options struct {
	URL                string
	Username, Password string // what all agents register with

	// Pushed says that polls are long, or far apart, because the agent learns of newer
	// versions between them. Then the connection is kept from one to the next without
	// TCP keep-alive probes, which would cost more than all the rest. The timeout of a
	// fetch detects a connection that is dead.
	Pushed bool

	// TLS returns the configuration of the next connection; nil: the system's.
	TLS func() *tls.Config

	// Proxy is the forward proxy to use; nil: none.
	Proxy *url.URL
}

// New returns a client of a controller. It opens no connection.
func New(o Options) *Client {
	var keep httpclient.KeepAlive
	if o.Pushed {
		keep = httpclient.KeepAlive{Idle: wire.KeepAlive, Probe: -1}
	}
	secure := httpclient.TLS{Config: o.TLS, CA: "CONTROLLER_CA_FILE", Certificate: "CONTROLLER_CERT_FILE"}
	client := httpclient.New("the controller", o.URL, keep, secure, o.Proxy)
	return &Client{http: client, username: o.Username, password: o.Password}
}

// Register registers the agent, and returns its identity. It authenticates with the token
// of as, or with the shared credentials if there is none. It returns
// protocol.ErrUnauthorized if the credentials are wrong, or if the id is another agent's.
func (c *Client) Register(
	ctx context.Context, as protocol.Identity, self wire.RegisterRequest,
) (protocol.Registration, error) {
	request := httpclient.Request{
		Method: http.MethodPost, Path: "/api/v1/register",
		User: c.username, Password: c.password, Body: self, Secret: self.AgentSecret,
	}
	advice := "set CONTROLLER_USERNAME and CONTROLLER_PASSWORD to the controller's AGENT_USERNAME and AGENT_PASSWORD: "
	if as.AgentToken != "" {
		request.User, request.Password, advice = as.AgentID, as.AgentToken, ""
	}
	answer, err := c.http.Do(ctx, timeout, request)
	if err != nil {
		return protocol.Registration{}, err
	}
	unexpected := c.http.Unexpected(answer, request)
	switch {
	case answer.Status == http.StatusOK, answer.Status == http.StatusCreated:
	case answer.Status == http.StatusForbidden: // the credentials are valid, and the answer says what is wrong
		return protocol.Registration{}, fmt.Errorf("%w: %w", protocol.ErrForbidden, unexpected)
	case answer.Status == http.StatusUnauthorized:
		return protocol.Registration{}, fmt.Errorf("%w: %s%w", protocol.ErrUnauthorized, advice, unexpected)
	case answer.Status == http.StatusConflict && answer.IsProblem(): // agent_id has another agent_secret
		return protocol.Registration{}, fmt.Errorf("%w: %w", protocol.ErrUnauthorized, unexpected)
	default:
		return protocol.Registration{}, c.outage(answer, request)
	}
	registered, err := decodeRegistration(answer)
	if err != nil {
		return protocol.Registration{}, errors.Join(c.http.Foreign(answer, "a controller", "CONTROLLER_URL"), err)
	}
	return protocol.Registration{
		Identity:     protocol.Identity{AgentID: registered.AgentID, AgentToken: registered.AgentToken},
		PollInterval: clampInterval(registered.PollIntervalSeconds),
	}, nil
}

// Fetch asks for the release that id should run. The error is one of package protocol's,
// or an outage. The answer's intervals may be set with an error too.
func (c *Client) Fetch(ctx context.Context, id protocol.Identity, q protocol.Query) (protocol.Answer, error) {
	request := httpclient.Request{
		Method: http.MethodGet, Path: wire.ConfigPath,
		User: id.AgentID, Password: id.AgentToken, IfNoneMatch: q.ETag,
	}
	if q.MayWait {
		request.Path += "?wait=" + strconv.Itoa(int(q.Wait/time.Second)) + "s"
		request.Once = q.Wait > 0 // the whole fleet may have lost its connections
	}
	request.Header = http.Header{}
	setText(request.Header, wire.HeaderWorkerError, q.WorkerError)
	setText(request.Header, wire.HeaderPushError, q.PushError)
	if q.Transport == wire.Redis || q.Transport == wire.NATS || q.Transport == wire.Polling && q.Wait > 0 {
		request.Header.Set(wire.HeaderTransport, string(q.Transport))
	}
	if q.Applied != nil {
		request.Header.Set(wire.HeaderAppliedVersion, strconv.FormatInt(q.Applied.Version, 10))
		request.Header.Set(wire.HeaderAppliedContent, q.Applied.ContentHash())
	}
	answer, err := c.http.Do(ctx, timeoutOf(q.Wait), request)
	if err != nil {
		return protocol.Answer{}, err
	}
	fleet := answer.Header.Get(wire.HeaderFleet)
	if !wire.IsFleet(fleet) {
		fleet = ""
	}
	c.etags.Store(fleet != "")
	result := protocol.Answer{
		Fleet:          fleet,
		PollInterval:   headerInterval(answer.Header, wire.HeaderPollInterval),
		ResyncInterval: headerInterval(answer.Header, wire.HeaderSweepInterval),
	}
	if held, err := strconv.Atoi(answer.Header.Get(wire.HeaderWait)); err == nil && held >= 0 && q.MayWait {
		result.CanWait, result.Waited = true, min(
			q.Wait, time.Duration(min(held, int(wire.MaxWait/time.Second)))*time.Second,
		)
	}
	switch answer.Status {
	case http.StatusOK:
		config, err := wire.DecodeConfig(answer.Body)
		if err != nil {
			return result, fmt.Errorf("%w: %w", protocol.ErrInvalidConfig, err)
		}
		if result.PollInterval == 0 {
			result.PollInterval = config.PollInterval()
		}
		if ms, err := strconv.Atoi(answer.Header.Get(wire.HeaderSpread)); err == nil && ms > 0 {
			result.Spread = min(time.Duration(ms)*time.Millisecond, maxSpread)
		}
		result.OlderBecause = answer.Header.Get(wire.HeaderOlderBecause)
		result.Release = &protocol.Release{ETag: usableETag(answer.Header), Config: config, FetchedAt: time.Now().UTC()}
		return result, nil
	case http.StatusNotModified:
		if q.ETag == "" {
			return result, c.http.Foreign(answer, "a controller", "CONTROLLER_URL")
		}
		return result, protocol.ErrNotModified
	case http.StatusNotFound:
		if result.PollInterval == 0 && !answer.IsProblem() {
			return result, c.http.Foreign(answer, "a controller", "CONTROLLER_URL")
		}
		return result, protocol.ErrNothingPublished
	case http.StatusUnauthorized:
		return result, fmt.Errorf("%w: %w", protocol.ErrUnauthorized, c.http.Unexpected(answer, request))
	case http.StatusForbidden:
		return result, fmt.Errorf("%w: %w", protocol.ErrForbidden, c.http.Unexpected(answer, request))
	}
	if q.Wait > 0 && answer.Status >= 400 && !answer.IsProblem() { // of a proxy, not of the controller
		if answer.Status == http.StatusRequestTimeout || answer.Status == http.StatusGatewayTimeout {
			return result, fmt.Errorf("%w: %w", protocol.ErrCut, c.http.Unexpected(answer, request))
		}
		return result, fmt.Errorf("%w: %w", protocol.ErrProxy, c.outage(answer, request))
	}
	return result, c.outage(answer, request)
}

// timeoutOf returns the timeout of a long poll, which the controller may delay for wait and
// wire.WaitSlack longer.
func timeoutOf(wait time.Duration) time.Duration { return timeout + wait + wire.WaitSlack(wait) }

// setText sets a header to text as one line, unless it is empty.
func setText(h http.Header, name, text string) {
	if text != "" {
		h.Set(name, wire.HeaderText(text))
	}
}

// Report sends the outcome of an attempt. It returns protocol.ErrUnwanted if the report
// need not be sent again.
func (c *Client) Report(ctx context.Context, id protocol.Identity, report wire.Report) error {
	if !c.etags.Load() {
		report.ETag = ""
	}
	request := httpclient.Request{
		Method: http.MethodPost, Path: "/api/v1/agents/" + url.PathEscape(id.AgentID) + "/status",
		User: id.AgentID, Password: id.AgentToken, Body: report,
	}
	answer, err := c.http.Do(ctx, timeout, request)
	switch {
	case err != nil:
		return err
	case answer.Status >= 200 && answer.Status < 300:
		return nil
	case answer.Status == http.StatusUnauthorized, answer.Status == http.StatusForbidden:
		return fmt.Errorf("%w: %w", protocol.ErrUnauthorized, c.http.Unexpected(answer, request))
	case !answer.IsProblem(): // of a proxy, not of the controller
		return c.outage(answer, request)
	case answer.Status == http.StatusBadRequest, answer.Status == http.StatusNotFound,
		answer.Status == http.StatusMethodNotAllowed, answer.Status == http.StatusConflict,
		answer.Status == http.StatusUnprocessableEntity:
		return fmt.Errorf("%w: %w", protocol.ErrUnwanted, c.http.Unexpected(answer, request))
	}
	return c.outage(answer, request)
}

// Deregister removes the agent from the controller. It returns nil if the agent is not
// there.
func (c *Client) Deregister(ctx context.Context, id protocol.Identity) error {
	request := httpclient.Request{
		Method: http.MethodDelete, Path: "/api/v1/agents/" + url.PathEscape(id.AgentID),
		User: id.AgentID, Password: id.AgentToken,
	}
	answer, err := c.http.Do(ctx, deregisterTimeout, request)
	switch {
	case err != nil:
		return err
	case answer.Status >= 200 && answer.Status < 300:
		return nil
	case answer.IsProblem() && (answer.Status == http.StatusNotFound || answer.Status == http.StatusUnauthorized):
		return nil
	}
	return c.http.Unexpected(answer, request)
}

// outage returns the error of an answer after which the request is retried.
func (c *Client) outage(answer httpclient.Answer, request httpclient.Request) error {
	err := c.http.Unexpected(answer, request)
	if after := retryAfter(answer.Header); after > 0 {
		return &protocol.RetryLater{After: after, Err: err}
	}
	return err
}

// decodeRegistration reads an identity, and validates it.
func decodeRegistration(answer httpclient.Answer) (wire.RegisterResponse, error) {
	r, err := httpclient.Decode[wire.RegisterResponse](answer)
	if err != nil {
		return r, err
	}
	if r.AgentID == "" || r.AgentToken == "" || len(r.AgentToken) > 512 {
		return r, wire.Bad("agent_id", "and agent_token must be there")
	}
	return r, wire.RegisterRequest{Hostname: "answer", AgentID: r.AgentID}.Validate()
}

// headerInterval returns an interval that is given in seconds; 0 if it is missing or not a
// number.
func headerInterval(h http.Header, name string) time.Duration {
	seconds, err := strconv.Atoi(strings.TrimSpace(h.Get(name)))
	if err != nil {
		return 0
	}
	return clampInterval(seconds)
}

// clampInterval returns the interval that the controller asks for, within the bounds of the
// contract; 0 if it asks for none.
func clampInterval(seconds int) time.Duration {
	if seconds == 0 {
		return 0
	}
	seconds = min(max(seconds, int(wire.MinPollInterval/time.Second)), int(wire.MaxPollInterval/time.Second))
	return time.Duration(seconds) * time.Second
}

// usableETag returns the ETag as the controller sent it, without the suffix that a
// compressing gateway adds; "" if it is missing or not valid (RFC 9110 §8.8.3).
func usableETag(h http.Header) string {
	tag := h.Get("ETag")
	opaque := strings.TrimPrefix(tag, "W/")
	if len(tag) > wire.MaxETagBytes || len(opaque) < 2 || opaque[0] != '"' || opaque[len(opaque)-1] != '"' {
		return ""
	}
	for _, c := range []byte(opaque[1 : len(opaque)-1]) {
		if c <= ' ' || c == '"' || c >= 0x7f {
			return ""
		}
	}
	return etag.Original(tag)
}

// retryAfter returns the Retry-After (RFC 9110 §10.2.3), which is a number of seconds or a
// date. A date is compared with the answer's own Date, if there is one, because clocks
// may differ.
func retryAfter(h http.Header) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	seconds, err := strconv.ParseUint(text, 10, 32)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return maxRetryAfter
	case err == nil:
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
