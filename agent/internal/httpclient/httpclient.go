// Package httpclient sends one HTTP request and reads one answer. It bounds what a server
// can do to the agent: each request has a timeout, an answer has at most
// models.MaxBodyBytes, redirects are not followed, because they would receive the
// credentials, and cookies are not kept. Its errors are logged and shown: they are the
// same each time that the same goes wrong, and contain no credentials.
package httpclient

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/neterr"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/requestid"
)

// Client is a client of one server.
type Client struct {
	base string
	peer neterr.Peer
	http *http.Client
}

// TLS configures TLS. The zero TLS trusts what the system trusts.
type TLS struct {
	Config func() *tls.Config // of the next connection
	// the settings of the trusted authorities and of the client certificate, for errors
	CA, Certificate string
}

// KeepAlive is how long an idle connection is kept. The zero KeepAlive is for a server
// that is asked often.
type KeepAlive struct {
	Idle  time.Duration // until the connection is closed; 0: 90 s
	Probe time.Duration // between TCP keep-alive probes; 0: 15 s, negative: none
}

const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
)

// New returns a client of the server at the URL base, which is reached through proxy, nil
// for none. name is how errors call the server, such as "the worker". New opens no
// connection.
//
// The client uses HTTP/1.1: it sends one request at a time, and HTTP/2 would cost more
// memory and more packets.
func New(name, base string, keep KeepAlive, secure TLS, proxy *url.URL) *Client {
	idle, probe := cmp.Or(keep.Idle, 90*time.Second), cmp.Or(keep.Probe, 15*time.Second)
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: probe}
	transport := &transport{tls: secure, with: func(config *tls.Config) *http.Transport {
		return &http.Transport{
			Proxy:                  http.ProxyURL(proxy),
			OnProxyConnectResponse: connected,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    handshakeTimeout,
			MaxIdleConns:           2,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        idle,
			MaxResponseHeaderBytes: wire.MaxBodyBytes,
			ReadBufferSize:         4 << 10,
			WriteBufferSize:        4 << 10,
			ForceAttemptHTTP2:      false,
		}
	}}
	server := name + " at " + base
	if proxy != nil {
		server += " (by the proxy at " + proxy.Host + ")" // without its credentials
	}
	return &Client{
		base: strings.TrimRight(base, "/"),
		peer: neterr.Peer{Name: server, CA: secure.CA, Cert: secure.Certificate},
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// connected returns an error if a proxy refuses to connect.
func connected(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	status := answer.StatusCode
	return notConnectedError(fmt.Sprintf("the proxy answered %d %s", status, http.StatusText(status)))
}

type notConnectedError string

func (e notConnectedError) Error() string { return string(e) }

// transport is an http.Transport that is replaced when the trusted authorities change, so
// that the next request opens a new connection.
type transport struct {
	tls  TLS
	with func(*tls.Config) *http.Transport

	mu    sync.Mutex // guards the rest
	roots *x509.CertPool
	now   *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current().RoundTrip(r)
}

// CloseIdleConnections closes the connections that no request uses.
func (t *transport) CloseIdleConnections() { t.current().CloseIdleConnections() }

func (t *transport) current() *http.Transport {
	var config *tls.Config
	var roots *x509.CertPool
	if t.tls.Config != nil {
		config = t.tls.Config()
		roots = config.RootCAs
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.now == nil:
		t.now, t.roots = t.with(config), roots
	case t.roots != roots:
		old := t.now
		t.now, t.roots = t.with(config), roots
		old.CloseIdleConnections()
	}
	return t.now
}

// Request is a request to send.
type Request struct {
	Method, Path   string
	User, Password string      // Basic credentials, unless User is empty
	Bearer         string      // a Bearer token, unless empty
	Secret         string      // that Body contains, and that errors must not
	IfNoneMatch    string      // unless empty
	Header         http.Header // additional ones
	Once           bool        // do not resend if the connection breaks before an answer
	Body           any         // sent as JSON, unless nil
}

// Answer is a complete answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends r with the request id of ctx, and reads the answer within timeout. An answer of
// any status is not an error. The error says what is wrong with the server, or with the
// way to it.
func (c *Client) Do(ctx context.Context, timeout time.Duration, r Request) (Answer, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := c.request(bounded, r)
	if err != nil {
		return Answer{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Answer{}, c.explain(err, r, timeout)
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or is not needed
	body, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxBodyBytes+1))
	switch {
	case err != nil:
		return Answer{}, c.explain(err, r, timeout)
	case len(body) > wire.MaxBodyBytes:
		return Answer{}, fmt.Errorf("%s sent more than %d bytes", c.peer.Name, wire.MaxBodyBytes)
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

func (c *Client) request(ctx context.Context, r Request) (*http.Request, error) {
	body, err := io.Reader(http.NoBody), error(nil)
	if r.Body != nil {
		document, encodeErr := wire.Encode(r.Body)
		body, err = bytes.NewReader(document), encodeErr
	}
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, c.base+r.Path, body)
	if err != nil {
		return nil, fmt.Errorf("make a request to %s: %w", c.peer.Name, err)
	}
	req.Header.Set("User-Agent", "fleetconf-agent")
	req.Header.Set("Accept-Encoding", "identity") // a gateway that compresses may change or drop the ETag
	maps.Copy(req.Header, r.Header)
	if id := requestid.Of(ctx); id != "" {
		req.Header.Set(requestid.Header, id)
	}
	req.Header.Set("Accept", "application/json, "+problem.ContentType)
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.User != "" {
		req.SetBasicAuth(r.User, r.Password)
	}
	if r.Bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.Bearer)
	}
	if r.IfNoneMatch != "" {
		req.Header.Set("If-None-Match", r.IfNoneMatch)
	}
	if r.Once {
		// net/http cannot send such a body twice, so that it does not retry, and sends
		// nothing for it: see TestFetch_WaitBroken_NotResent.
		req.Body = io.NopCloser(http.NoBody)
	}
	return req, nil
}

// explain returns an error for operators. It contains no port number and no time, which
// would differ from one attempt to the next.
func (c *Client) explain(err error, r Request, timeout time.Duration) error {
	var (
		refused notConnectedError
		wrapped *url.Error
	)
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case neterr.IsTimeout(err):
		return fmt.Errorf("%s did not answer within %s", c.peer.Name, timeout)
	case errors.As(err, &refused):
		return fmt.Errorf("%s cannot be reached: %w", c.peer.Name, refused)
	}
	if described := c.peer.Describe(err); described != nil {
		return described
	}
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if text := err.Error(); r.redact(text) != text { // the error quotes what the server sent
		err = errors.New(r.redact(text))
	}
	return fmt.Errorf("%s does not answer as an HTTP server: %w", c.peer.Name, err)
}

// redact replaces the credentials of r and the secret in its body, also where they are
// escaped.
func (r Request) redact(text string) string {
	for _, secret := range []string{r.Password, r.Bearer, basic(r), r.Secret} {
		if secret != "" {
			quoted := strings.Trim(strconv.Quote(secret), `"`)
			text = strings.NewReplacer(secret, "[secret]", quoted, "[secret]").Replace(text)
		}
	}
	return text
}

// Problem returns the problem document of an error answer to r, or one with the beginning
// of what the server sent instead. The credentials of r and the secret in its body are
// redacted, in case the server has sent them back.
func (a Answer) Problem(r Request) *problem.Problem {
	body := strings.NewReader(r.redact(string(a.Body))) // before Read, which may truncate a secret
	p := problem.Read(&http.Response{StatusCode: a.Status, Body: io.NopCloser(body)})
	if p.Title == "" {
		p.Title = "an unknown status"
	}
	p.Detail = wire.Trim(r.redact(p.Detail)) // which JSON may have escaped
	return p
}

func basic(r Request) string {
	if r.User == "" {
		return ""
	}
	req := http.Request{Header: http.Header{}}
	req.SetBasicAuth(r.User, r.Password)
	return strings.TrimPrefix(req.Header.Get("Authorization"), "Basic ")
}

// IsProblem reports whether the answer is a problem document, as this system's servers
// send, and not the page of another server.
func (a Answer) IsProblem() bool {
	return strings.HasPrefix(a.Header.Get("Content-Type"), problem.ContentType)
}

// Unexpected returns the error of an answer that the caller does not handle.
func (c *Client) Unexpected(a Answer, r Request) error {
	if a.Status >= 300 && a.Status < 400 {
		to := "nowhere"
		if u, err := url.Parse(a.Header.Get("Location")); err == nil && u.Host != "" {
			to = u.Scheme + "://" + u.Host // the rest may contain credentials
		}
		return fmt.Errorf(
			"%s redirects to %s, which is not followed: set its URL to where it really is", c.peer.Name, wire.Trim(to),
		)
	}
	return fmt.Errorf("%s answered %w", c.peer.Name, a.Problem(r))
}

// Foreign returns the error of a server that is not one of this system. want is what it
// should be, such as "a worker".
func (c *Client) Foreign(a Answer, want, setting string) error {
	return fmt.Errorf("%s answered %d, but not as %s does: check %s", c.peer.Name, a.Status, want, setting)
}

// Decode returns the JSON document of an answer. Unknown members are ignored.
func Decode[T any](a Answer) (T, error) {
	var v T
	if err := json.Unmarshal(a.Body, &v); err != nil {
		return v, fmt.Errorf("decode answer: %w", err)
	}
	return v, nil
}
