// Package httpclient sends one HTTP request and reads one answer, with the
// bounds that keep a neighbour from harming the agent: a time limit, at most
// models.MaxBodyBytes of answer, no redirect followed (it would take the
// credentials along), no cookie kept. Its errors read the same each time the
// same thing goes wrong, and hold no credentials: they are logged and shown.
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
	"syscall"
	"time"

	"github.com/go-json-experiment/json"

	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/requestid"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// Client talks to one server.
type Client struct {
	base   string
	server string // what errors call it
	tls    TLS
	http   *http.Client
}

// TLS is how TLS is spoken. The zero TLS trusts what the system trusts.
type TLS struct {
	Config          func() *tls.Config // of the next connection
	CA, Certificate string             // the settings that say whom to trust, and with which certificate to come
}

// KeepAlive is how a connection is kept between two requests. The zero KeepAlive does for
// a server that is asked all the time.
type KeepAlive struct {
	Idle  time.Duration // closed after that; 0: 90 s
	Probe time.Duration // between TCP keep-alive probes; 0: 15 s, negative: none
}

// Bounds on the way to an answer.
const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
)

// New returns a client of the server at base, a URL, which is reached by proxy, nil
// for none. name is what its errors call it: "the worker". It opens no connection.
//
// It speaks HTTP/1.1: it has one request at a time to send, and HTTP/2 would cost
// memory, and frames beside it.
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
		server += " (by the proxy at " + proxy.Host + ")" // not its user
	}
	return &Client{
		base:   strings.TrimRight(base, "/"),
		server: server,
		tls:    secure,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// connected returns an error if a proxy does not connect.
func connected(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	status := answer.StatusCode
	return notConnectedError(fmt.Sprintf("the proxy answered %d %s", status, http.StatusText(status)))
}

type notConnectedError string

func (e notConnectedError) Error() string { return string(e) }

// transport is an http.Transport that is replaced when the trusted authorities
// change, so that the next request opens a connection.
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

// Request is what to send.
type Request struct {
	Method, Path   string
	User, Password string      // Basic credentials, unless User is empty
	Bearer         string      // a Bearer token, unless empty
	Secret         string      // is in Body, and must not be in an error
	IfNoneMatch    string      // unless empty
	Header         http.Header // more of them
	Once           bool        // not sent again where the connection breaks before an answer
	Body           any         // sent as JSON, unless nil
}

// Answer is what came back, whole.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends r and reads the answer, whatever its status, within timeout. The
// request id of ctx goes along. The error says what is wrong with the server or the way to it.
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
	defer func() { _ = resp.Body.Close() }() // read to its end, or given up
	body, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxBodyBytes+1))
	switch {
	case err != nil:
		return Answer{}, c.explain(err, r, timeout)
	case len(body) > wire.MaxBodyBytes:
		return Answer{}, fmt.Errorf("%s sent more than %d bytes", c.server, wire.MaxBodyBytes)
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
		return nil, fmt.Errorf("make a request to %s: %w", c.server, err)
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
		// net/http takes it for a body that it cannot send twice, and sends none;
		// TestFetch_WaitBroken_NotResent would show if it did otherwise.
		req.Body = io.NopCloser(http.NoBody)
	}
	return req, nil
}

// explain puts what can go wrong on the way into words without port numbers
// and times, which differ at each attempt.
func (c *Client) explain(err error, r Request, timeout time.Duration) error {
	var (
		timedOut interface{ Timeout() bool }
		dns      *net.DNSError
		record   tls.RecordHeaderError
		errno    syscall.Errno
		wrapped  *url.Error
		refused  notConnectedError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &dns):
		return fmt.Errorf("%s cannot be found: no address for %s", c.server, dns.Name)
	case errors.As(err, &timedOut) && timedOut.Timeout():
		return fmt.Errorf("%s did not answer within %s", c.server, timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s cannot be reached: nothing listens there", c.server)
	case errors.As(err, &refused):
		return fmt.Errorf("%s cannot be reached: %w", c.server, refused)
	case c.tlsError(err) != nil:
		return c.tlsError(err)
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s does not speak TLS; is it http rather than https?", c.server)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%s cut the connection before its answer was whole", c.server)
	case errors.As(err, &errno):
		return fmt.Errorf("%s cannot be reached: %w", c.server, errno)
	case errors.As(err, &wrapped):
		err = wrapped.Err
	}
	if text := err.Error(); r.redact(text) != text { // it quotes what the server sent
		err = errors.New(r.redact(text))
	}
	return fmt.Errorf("%s does not answer as an HTTP server: %w", c.server, err)
}

// redact takes out of text what r was authenticated with and the secret in its
// body, also where they stand in quotes.
func (r Request) redact(text string) string {
	for _, secret := range []string{r.Password, r.Bearer, basic(r), r.Secret} {
		if secret != "" {
			quoted := strings.Trim(strconv.Quote(secret), `"`)
			text = strings.NewReplacer(secret, "[secret]", quoted, "[secret]").Replace(text)
		}
	}
	return text
}

// tlsError puts a failed handshake into words, in which no time of this attempt
// stands; nil if err is of another kind.
func (c *Client) tlsError(err error) error {
	var (
		untrusted *tls.CertificateVerificationError
		own       *tlsfiles.Error
		remote    *net.OpError
	)
	switch {
	case errors.As(err, &untrusted):
		return fmt.Errorf("%s is not trusted: %w", c.server, c.certificateError(untrusted.Err))
	case errors.As(err, &own):
		return fmt.Errorf("%s would not take this agent's certificate: %w", c.server, own)
	case errors.As(err, &remote) && remote.Op == "remote error":
		alert := strings.TrimPrefix(remote.Err.Error(), "tls: ")
		if strings.Contains(alert, "certificate") {
			return fmt.Errorf(
				"%s does not take this agent's certificate%s: %s", c.server, settingHint(c.tls.Certificate), alert,
			)
		}
		return fmt.Errorf("%s refuses TLS with this agent: %s", c.server, alert)
	}
	return nil
}

// certificateError says why a certificate is not trusted.
func (c *Client) certificateError(err error) error {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("its certificate is signed by an authority that is not known here%s", settingHint(c.tls.CA))
	case errors.As(err, &name) && tlsfiles.NamesNoHost(name):
		return fmt.Errorf(
			"its certificate has no subject alternative name (SAN), as it must for %s; its common name does not count",
			name.Host,
		)
	case errors.As(err, &name):
		return fmt.Errorf("its certificate is not for %s", name.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf(
			"its certificate is valid from %s to %s only", invalid.Cert.NotBefore.Format(time.RFC3339),
			invalid.Cert.NotAfter.Format(time.RFC3339),
		)
	}
	return err
}

// settingHint points to a setting, if there is one for it.
func settingHint(setting string) string {
	if setting == "" {
		return ""
	}
	return " (see " + setting + ")"
}

// Problem reads an error answer: the server's own problem document, or the
// beginning of what it sent instead. What r was authenticated with is struck
// out, should the server have sent it back, as is the secret in its body.
func (a Answer) Problem(r Request) *problem.Problem {
	body := strings.NewReader(r.redact(string(a.Body))) // whole: Read may cut a secret in two
	p := problem.Read(&http.Response{StatusCode: a.Status, Body: io.NopCloser(body)})
	if p.Title == "" {
		p.Title = "a status of no meaning"
	}
	p.Detail = wire.Trim(r.redact(p.Detail)) // what JSON had escaped
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

// IsProblem reports whether the answer is one of ours, or could be: a page of
// some other server is not.
func (a Answer) IsProblem() bool {
	return strings.HasPrefix(a.Header.Get("Content-Type"), problem.ContentType)
}

// Unexpected is the error of an answer that the caller can do nothing with.
func (c *Client) Unexpected(a Answer, r Request) error {
	if a.Status >= 300 && a.Status < 400 {
		to := "nowhere"
		if u, err := url.Parse(a.Header.Get("Location")); err == nil && u.Host != "" {
			to = u.Scheme + "://" + u.Host // the rest may hold what it was sent
		}
		return fmt.Errorf(
			"%s redirects to %s, which is not followed: set its URL to where it really is", c.server, wire.Trim(to),
		)
	}
	return fmt.Errorf("%s answered %w", c.server, a.Problem(r))
}

// Foreign is the error of a server that is not of this system.
func (c *Client) Foreign(a Answer, want, setting string) error {
	return fmt.Errorf("%s answered %d, but not as %s does: check %s", c.server, a.Status, want, setting)
}

// Decode reads the JSON document of an answer. Members that a newer server may
// have added are passed over.
func Decode[T any](a Answer) (T, error) {
	var v T
	if err := json.Unmarshal(a.Body, &v); err != nil {
		return v, fmt.Errorf("decode answer: %w", err)
	}
	return v, nil
}
