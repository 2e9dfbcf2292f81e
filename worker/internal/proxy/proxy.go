// Package proxy holds the configuration of a worker and answers hits with the response of
// the configured URL. A hit streams: it needs one buffer, whatever the size of the response.
// It forwards only the client's headers for content negotiation and the request id, never a
// cookie or a credential, and connects only where the worker's settings allow it.
package proxy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"

	"github.com/fleetconf/fleetconf/pkg/etag"
	"github.com/fleetconf/fleetconf/pkg/logger"
	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/requestid"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// The kinds of failure of a hit. Hit has written nothing when it returns one.
var (
	ErrRequest       = errors.New("the request cannot be passed on")
	ErrNotConfigured = errors.New("no configuration has been applied yet")
	ErrUnreachable   = errors.New("the target cannot be reached")
	ErrForbidden     = errors.New("the target may not be fetched")
	ErrTimeout       = errors.New("the target did not answer in time")
	ErrLoop          = errors.New("the target leads back to this worker")
)

const (
	maxRedirects = 10

	// flushAfter is the longest time that bytes of a slow response are buffered.
	flushAfter = 20 * time.Millisecond

	// writeGrace is the time beyond the timeout of a hit in which the client can read the
	// response that reports the timeout.
	writeGrace = 5 * time.Second

	// sandbox gives a page of the target an origin other than the worker's: its scripts run,
	// but cannot push a configuration.
	sandbox = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"
)

// forwardedHeaders are the client's headers that the target receives: they select a form or
// a part of the content (RFC 9110 §12.5, §13.1, §14.2) and hold no secret.
var forwardedHeaders = []string{
	"Accept", "Accept-Language", "If-Modified-Since", "If-None-Match", "If-Range", "Range", "User-Agent",
}

// Options are the worker's own settings. No configuration changes them.
type Options struct {
	Timeout time.Duration      // of a hit, from its request to its last byte
	Deny    []netip.Prefix     // networks that no hit connects to
	Allow   []string           // hosts, or *. and a domain, that may be fetched; empty: all
	Log     logrus.FieldLogger // of changes, and of incomplete responses
	Metrics *Metrics           // nil: not measured

	// Proxy returns the forward proxy for a URL, nil for none. It may be nil. A forward proxy
	// resolves names itself, so Deny then applies only to addresses in URLs.
	Proxy func(*url.URL) (*url.URL, error)
}

// Proxy runs one configuration at a time. Its methods are safe for concurrent use.
type Proxy struct {
	instance  string
	timeout   time.Duration
	log       logrus.FieldLogger
	metrics   *Metrics
	errorLog  *stdlog.Logger
	allow     allowList
	deny      denyList
	applying  *semaphore.Weighted // held while a push is validated and applied
	running   atomic.Pointer[running]
	forward   func(*url.URL) (*url.URL, error) // Options.Proxy
	transport *http.Transport
	client    *http.Client
}

// running is an accepted configuration, with what its hits need. It is immutable.
type running struct {
	config  models.WorkerConfig
	target  *url.URL
	version string
	etag    string
}

// New returns a Proxy without a configuration. The caller must Close it.
func New(o Options) *Proxy {
	deny := newDenyList(o.Deny)
	dialer := net.Dialer{
		Timeout: o.Timeout, // a dial can outlive the hit that started it
		Control: deny.control,
	}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	transport := &http.Transport{
		OnProxyConnectResponse: connected,
		DialContext:            dialer.DialContext,
		Protocols:              &http1,
		DisableCompression:     true, // keeps the bytes, validators and ranges of the target
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: server.MaxHeaderBytes,
	}
	p := &Proxy{
		instance:  rand.Text(),
		timeout:   o.Timeout,
		log:       o.Log,
		metrics:   o.Metrics,
		errorLog:  logger.Debug(o.Log, "Response incomplete", "proxy"),
		allow:     newAllowList(o.Allow),
		deny:      deny,
		applying:  semaphore.NewWeighted(1),
		forward:   o.Proxy,
		transport: transport,
	}
	if o.Proxy != nil {
		transport.Proxy = func(r *http.Request) (*url.URL, error) { return o.Proxy(r.URL) }
	}
	if p.metrics == nil {
		p.metrics = NewMetrics(nil)
	}
	p.client = &http.Client{Transport: lenient{transport}, CheckRedirect: p.checkRedirect}
	return p
}

// Close closes the idle connections to targets.
func (p *Proxy) Close() { p.transport.CloseIdleConnections() }

// Apply runs cfg from the next hit on; hits in flight keep their configuration. changed
// reports whether cfg differs from what ran before. The error is a *models.Invalid if cfg
// breaks the contract, ErrRefused if this worker does not accept it, or that of ctx; then the
// configuration is unchanged. Apply may take as long as a probe. The log and the probe carry
// the request id of ctx.
func (p *Proxy) Apply(ctx context.Context, cfg models.WorkerConfig) (changed bool, err error) {
	next, err := p.prepare(cfg)
	if err != nil {
		return false, err
	}
	if err := p.applying.Acquire(ctx, 1); err != nil {
		return false, err
	}
	defer p.applying.Release(1)
	log := p.log.WithFields(logrus.Fields{"version": cfg.Version, "host": next.target.Host,
		"request_id": requestid.Of(ctx)})
	if err := p.judge(ctx, next); err != nil {
		if errors.Is(err, ErrRefused) {
			log.WithError(err).Warn("Configuration refused")
		}
		return false, err
	}
	last := p.running.Swap(next)
	p.metrics.version.Set(float64(cfg.Version))
	if last != nil && last.config == cfg {
		return false, nil
	}
	log.Info("Configuration applied")
	return true, nil
}

// prepare validates cfg and computes what its hits need.
func (p *Proxy) prepare(cfg models.WorkerConfig) (*running, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	target, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("parse the configured URL: %w", err)
	}
	version := strconv.FormatInt(cfg.Version, 10)
	hash := sha256.Sum256([]byte(p.instance + " " + version + " " + cfg.URL))
	return &running{
		config:  cfg,
		target:  encode(target),
		version: version,
		etag:    etag.Quote(base64.RawURLEncoding.EncodeToString(hash[:16])),
	}, nil
}

// State returns the configuration that runs, and its entity tag, which differs from process
// to process. ok is false while there is none.
func (p *Proxy) State() (state models.WorkerState, tag string, ok bool) {
	run := p.running.Load()
	if run == nil {
		return models.WorkerState{}, "", false
	}
	return models.WorkerState{URL: run.config.URL, Version: run.config.Version, Instance: p.instance}, run.etag, true
}

// Hit answers r with the response of the target. If it fails before the response has begun,
// it writes nothing and returns one of the errors above. After that it panics with
// http.ErrAbortHandler, which cuts the connection, so that the client sees that the response
// is incomplete.
func (p *Proxy) Hit(w http.ResponseWriter, r *http.Request) (err error) {
	hit := p.metrics.begin()
	defer func() { hit.end(r.Context(), err) }()
	run := p.running.Load()
	if run == nil {
		return ErrNotConfigured
	}
	w.Header().Set(models.HeaderConfigVersion, run.version)
	for _, line := range r.Header["Via"] {
		if strings.Contains(line, p.instance) {
			return ErrLoop
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), p.timeout)
	defer cancel()
	// The server's write timeout does not know HIT_TIMEOUT. It fails only in tests, whose
	// writers have no deadlines.
	_ = http.NewResponseController(w).SetWriteDeadline(hit.began.Add(p.timeout + writeGrace))

	var (
		failed error
		sent   bool // to the target
	)
	reverse := httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) { p.rewrite(pr, run.target) },
		// With ctx instead of the request's context, ReverseProxy forwards no interim
		// responses (103): it would clear our headers after each.
		Transport: roundTripper(func(out *http.Request) (*http.Response, error) {
			sent = true
			return p.fetch(out.WithContext(ctx))
		}),
		ModifyResponse: func(res *http.Response) error { hit.answered(res); merge(w.Header(), res.Header); return nil },
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
		FlushInterval:  flushAfter,
		BufferPool:     &buffers,
		ErrorLog:       p.errorLog,
	}
	reverse.ServeHTTP(w, r.WithContext(ctx))
	if failed == nil {
		hit.whole = true
		return nil
	}
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client has disconnected
	}
	if !sent { // ReverseProxy rejects an invalid Upgrade
		return fmt.Errorf("%w: %w", ErrRequest, failed)
	}
	return p.failure(failed, "HIT_TIMEOUT is "+p.timeout.String())
}

// rewrite makes the request to the target. ReverseProxy has removed the headers that the
// client's Connection header names from pr.Out.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest, target *url.URL) {
	header := make(http.Header, len(forwardedHeaders)+2)
	for _, name := range forwardedHeaders {
		if values := pr.Out.Header[name]; len(values) > 0 {
			header[name] = values
		}
	}
	if ids := pr.In.Header[requestid.Header]; len(ids) > 0 {
		header[requestid.Header] = ids[:1:1] // the id of this hit
	}
	via := pr.In.Header["Via"]
	header["Via"] = append(via[:len(via):len(via)], p.via(strings.TrimPrefix(pr.In.Proto, "HTTP/")))

	pr.Out.Header = header
	pr.Out.URL = target
	pr.Out.Host = ""
	pr.Out.RequestURI = ""
	pr.Out.Body, pr.Out.ContentLength, pr.Out.TransferEncoding, pr.Out.Trailer = nil, 0, nil, nil
}

// via returns this worker's entry of a Via header (RFC 9110 §7.6.3), by which it recognizes
// a loop, also through other workers.
func (p *Proxy) via(protocol string) string { return protocol + " fleetconf-" + p.instance }

// merge prepares the target's headers to be added to ours. The worker's own headers win:
// the request id and the version.
func merge(ours, target http.Header) {
	for name := range ours {
		target.Del(name)
	}
	if _, ok := target["Content-Type"]; !ok {
		ours["Content-Type"] = nil // keeps the server from guessing one
	}
	target.Add("Content-Security-Policy", sandbox)
}

// roundTripper is an http.RoundTripper that follows redirects.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func (p *Proxy) fetch(req *http.Request) (*http.Response, error) {
	res, err := p.client.Do(req)
	if err != nil {
		return nil, err // a response is closed already
	}
	if res.StatusCode < http.StatusOK {
		_ = res.Body.Close()
		return nil, fmt.Errorf("sent the unexpected status %d", res.StatusCode)
	}
	return res, nil
}

// checkRedirect decides whether to follow a redirect. The deny list checks its address when
// it is dialed.
func (p *Proxy) checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: it redirects more than %d times", ErrForbidden, maxRedirects)
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return fmt.Errorf("%w: it redirects to the scheme %q", ErrForbidden, req.URL.Scheme)
	case req.URL.User != nil:
		return fmt.Errorf("%w: it redirects to a URL with a user name", ErrForbidden)
	case req.URL.Hostname() == "":
		return fmt.Errorf("%w: it redirects to a URL with no host", ErrForbidden)
	}
	encode(req.URL)
	req.Header.Del("Referer")
	if err := p.allow.check(req.URL.Hostname()); err != nil {
		return err
	}
	return p.checkForwarded(req.URL)
}

// checkForwarded returns ErrForbidden for a URL that a forward proxy would fetch if its host
// is an address of the deny list, or could be parsed as one.
func (p *Proxy) checkForwarded(u *url.URL) error {
	if p.forward == nil {
		return nil // denyList.control checks the connection
	}
	if by, err := p.forward(u); by == nil || err != nil {
		return nil // likewise
	}
	if (models.WorkerConfig{URL: "http://" + u.Host + "/"}).Validate() != nil {
		return fmt.Errorf("%w: it redirects to a host that is no DNS name or address", ErrForbidden)
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		return p.deny.check(addr)
	}
	return nil
}

// connected returns an error unless a forward proxy has connected.
func connected(_ context.Context, by *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("the proxy at %s answered %d %s", by.Host, answer.StatusCode, http.StatusText(answer.StatusCode))
}

// failure returns err as one of the kinds of failure; limit describes the timeout that
// applied. It leaves out the URL, whose query may hold a secret.
func (p *Proxy) failure(err error, limit string) error {
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	var slow net.Error
	switch {
	case errors.Is(err, ErrForbidden):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s", ErrTimeout, limit)
	case strings.Contains(err.Error(), "parse Location header"): // net/http quotes the URL
		return fmt.Errorf("%w: it redirects to what is no URL", ErrForbidden)
	case errors.As(err, &slow) && slow.Timeout():
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// pool holds the buffers that responses are copied through.
type pool struct{ sync.Pool }

const bufferBytes = 32 << 10

var buffers = pool{sync.Pool{New: func() any { return new([bufferBytes]byte) }}}

func (b *pool) Get() []byte    { return b.Pool.Get().(*[bufferBytes]byte)[:] }
func (b *pool) Put(buf []byte) { b.Pool.Put((*[bufferBytes]byte)(buf)) }
