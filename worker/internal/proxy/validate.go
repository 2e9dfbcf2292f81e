package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/fleetconf/fleetconf/pkg/requestid"
)

// ErrRefused is the error of a configuration that is valid and that this worker does not
// accept.
var ErrRefused = errors.New("this worker does not accept the configuration")

// Timeouts of a validation.
const (
	lookupTimeout = 2 * time.Second
	probeTimeout  = 5 * time.Second
)

// validate returns ErrRefused, with the reason, for a target that this worker may not or
// cannot fetch, and the error of ctx if the client disconnects before that is known.
func (p *Proxy) judge(ctx context.Context, next *running) error {
	if err := p.allow.check(next.target.Hostname()); err != nil {
		return refused(err)
	}
	if err := p.checkAddresses(ctx, next.target.Hostname()); err != nil {
		return refused(err)
	}
	if last := p.running.Load(); !next.config.Probe || last != nil && last.config.URL == next.config.URL {
		return nil // a short outage of the current target is no reason to refuse it
	}
	err := p.probe(ctx, next)
	p.metrics.probed(err)
	return err
}

// checkAddresses returns ErrForbidden for a host all of whose addresses are denied. It
// accepts a host that cannot be resolved now: each hit checks again.
func (p *Proxy) checkAddresses(ctx context.Context, host string) error {
	if len(p.deny) == 0 {
		return nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return p.deny.check(addr)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		return nil
	}
	for _, addr := range addrs {
		if err = p.deny.check(addr); err == nil {
			return nil
		}
	}
	return err
}

// probe fetches the target once, as a hit does, and requires a status below 500.
func (p *Proxy) probe(ctx context.Context, next *running) error {
	trial, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(trial, http.MethodGet, next.target.String(), http.NoBody)
	if err != nil {
		return fmt.Errorf("make the probe: %w", err)
	}
	req.Header.Set("User-Agent", "fleetconf-worker")
	req.Header.Set("Via", p.via("1.1"))
	if id := requestid.Of(ctx); id != "" {
		req.Header.Set(requestid.Header, id)
	}
	res, err := p.fetch(req)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return refused(p.failure(err, fmt.Sprintf("the timeout of a probe is %s", probeTimeout)))
	}
	_ = res.Body.Close()
	if res.StatusCode >= http.StatusInternalServerError {
		return refused(fmt.Errorf("the target answered the probe with %d %s", res.StatusCode,
			http.StatusText(res.StatusCode)))
	}
	return nil
}

func refused(reason error) error { return fmt.Errorf("%w: %w", ErrRefused, reason) }
