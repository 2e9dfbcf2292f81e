// Package proxy is what a worker does: it holds the configuration that runs,
// and answers a hit with what the configured URL answers. A hit streams: it
// holds one buffer, whatever the size of the answer. It takes to the target
// only the caller's headers that ask for a form of the content, never a
// cookie or a credential, and the id of the hit, and connects only where the
// worker's own settings let it.
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

// The kinds of failure of a hit. Nothing has been answered yet when Hit
// returns one.
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

	// flushAfter bounds how long bytes of a slow answer wait for more of it.
	flushAfter = 20 * time.Millisecond

	// writeGrace is what a caller gets beyond the time of its hit, to take the
	// answer that says that the time is over.
	writeGrace = 5 * time.Second

	// sandbox keeps a page of the target, shown by a browser as if it were the
	// worker's own, from being of the worker's origin: its scripts run, but
	// cannot push a configuration.
	sandbox = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"
)

// forwardedHeaders are the caller's headers that go along to the target: they ask for a
// form or a part of the content (RFC 9110 §12.5, §13.1, §14.2) and hold no
// secret of the caller.
var forwardedHeaders = []string{
	"Accept", "Accept-Language", "If-Modified-Since", "If-None-Match", "If-Range", "Range", "User-Agent",
}

// Options are what the machine that the worker runs on decides. No
// configuration changes them.
type Options struct {
	Timeout time.Duration      // of a whole hit, from its request to its last byte
	Deny    []netip.Prefix     // networks that are never connected to
	Allow   []string           // hosts, or *. and a domain, that are fetched; none: all
	Log     logrus.FieldLogger // of changes, and of answers that broke off
	Metrics *Metrics           // nil: nobody measures

	// Proxy returns the forward proxy for a URL, nil for none; nil: there are none. A
	// proxy looks names up and connects by itself, so that Deny holds for addresses in
	// URLs alone where there is one.
	Proxy func(*url.URL) (*url.URL, error)
}

// Proxy runs one configuration at a time. Its methods may be called from many
// goroutines.
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

// running is an accepted configuration, with all that a hit needs of it made
// beforehand. It is never changed.
type running struct {
	config  models.WorkerConfig
	target  *url.URL
	version string
	etag    string
}

// New returns a Proxy that runs nothing yet. Close frees its connections.
func New(o Options) *Proxy {
	deny := newDenyList(o.Deny)
	dialer := net.Dialer{
		Timeout: o.Timeout, // a dial outlives the hit that it was begun for
		Control: deny.control,
	}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	transport := &http.Transport{
		OnProxyConnectResponse: connected,
		DialContext:            dialer.DialContext,
		Protocols:              &http1,
		DisableCompression:     true, // bytes, validators and ranges stay the target's own
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

// Close frees the connections to targets that no hit uses.
func (p *Proxy) Close() { p.transport.CloseIdleConnections() }

// Apply runs cfg from the next hit on; hits in flight end with what they began
// with. changed says whether that is news. The error says why cfg is not run: a
// *models.Invalid if it breaks the contract, ErrRefused if this worker will not
// have it, or the error of ctx; then the worker goes on with what it ran before.
// It may take as long as a probe does. What it logs, and the probe, carry the
// request id of ctx.
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

// prepare holds cfg to the contract and makes what its hits need.
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

// State returns what runs, and the entity tag of exactly that in this process.
// ok is false while nothing does.
func (p *Proxy) State() (state models.WorkerState, tag string, ok bool) {
	run := p.running.Load()
	if run == nil {
		return models.WorkerState{}, "", false
	}
	return models.WorkerState{URL: run.config.URL, Version: run.config.Version, Instance: p.instance}, run.etag, true
}

// Hit answers r with what the target answers. If that fails before the answer
// has begun, it writes nothing and returns one of the errors above. After
// that it can only cut the connection, by http.ErrAbortHandler, so that the
// caller does not take a part for the whole.
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
	// The server's own bound does not know HIT_TIMEOUT. A writer without
	// deadlines is not a server's.
	_ = http.NewResponseController(w).SetWriteDeadline(hit.began.Add(p.timeout + writeGrace))

	var (
		failed error
		sent   bool // to the target
	)
	reverse := httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) { p.rewrite(pr, run.target) },
		// With ctx in place of the request's own, interim answers (103) stay
		// here: ReverseProxy would clear our headers after each.
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
		panic(http.ErrAbortHandler) // the caller has gone: nobody is left to tell
	}
	if !sent { // ReverseProxy refuses an Upgrade that no protocol is called
		return fmt.Errorf("%w: %w", ErrRequest, failed)
	}
	return p.failure(failed, "HIT_TIMEOUT is "+p.timeout.String())
}

// rewrite makes the request to the target. What the caller named in Connection
// is gone from pr.Out already.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest, target *url.URL) {
	header := make(http.Header, len(forwardedHeaders)+2)
	for _, name := range forwardedHeaders {
		if values := pr.Out.Header[name]; len(values) > 0 {
			header[name] = values
		}
	}
	if ids := pr.In.Header[requestid.Header]; len(ids) > 0 {
		header[requestid.Header] = ids[:1:1] // the one that this hit has here
	}
	via := pr.In.Header["Via"]
	header["Via"] = append(via[:len(via):len(via)], p.via(strings.TrimPrefix(pr.In.Proto, "HTTP/")))

	pr.Out.Header = header
	pr.Out.URL = target
	pr.Out.Host = ""
	pr.Out.RequestURI = ""
	pr.Out.Body, pr.Out.ContentLength, pr.Out.TransferEncoding, pr.Out.Trailer = nil, 0, nil, nil
}

// via says who has handled a request (RFC 9110 §7.6.3), so that a loop, through
// other workers too, is seen when it closes.
func (p *Proxy) via(protocol string) string { return protocol + " fleetconf-" + p.instance }

// merge readies the target's headers to be added to ours. What the worker
// itself says of the answer stands: the id of the request, the version.
func merge(ours, target http.Header) {
	for name := range ours {
		target.Del(name)
	}
	if _, ok := target["Content-Type"]; !ok {
		ours["Content-Type"] = nil // the server is not to guess one
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
		return nil, err // and res, if there is one, is closed
	}
	if res.StatusCode < http.StatusOK {
		_ = res.Body.Close()
		return nil, fmt.Errorf("answered %d, which was not asked for", res.StatusCode)
	}
	return res, nil
}

// checkRedirect judges the request that would follow a redirect. Where it
// connects to is judged by the deny list.
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

// checkForwarded returns ErrForbidden for a URL that is fetched by a forward proxy
// and names an address of the deny list, or a host that a proxy could take for one.
func (p *Proxy) checkForwarded(u *url.URL) error {
	if p.forward == nil {
		return nil // control checks what is connected to
	}
	if by, err := p.forward(u); by == nil || err != nil {
		return nil // here too
	}
	if (models.WorkerConfig{URL: "http://" + u.Host + "/"}).Validate() != nil {
		return fmt.Errorf("%w: it redirects to a host that is no DNS name or address", ErrForbidden)
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		return p.deny.check(addr)
	}
	return nil
}

// connected returns an error if a forward proxy does not connect.
func connected(_ context.Context, by *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("the proxy at %s answered %d %s", by.Host, answer.StatusCode, http.StatusText(answer.StatusCode))
}

// failure says which of the failures err is, and of one that took too long what
// the limit was. It leaves out the URL, whose query may hold a secret.
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
	case strings.Contains(err.Error(), "parse Location header"): // net/http quotes it whole
		return fmt.Errorf("%w: it redirects to what is no URL", ErrForbidden)
	case errors.As(err, &slow) && slow.Timeout():
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// pool lends the buffers that answers are copied through.
type pool struct{ sync.Pool }

const bufferBytes = 32 << 10

var buffers = pool{sync.Pool{New: func() any { return new([bufferBytes]byte) }}}

func (b *pool) Get() []byte    { return b.Pool.Get().(*[bufferBytes]byte)[:] }
func (b *pool) Put(buf []byte) { b.Pool.Put((*[bufferBytes]byte)(buf)) }
