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

// ErrRefused is the worker's no to a configuration that keeps the contract: it
// knows something that the controller does not.
var ErrRefused = errors.New("this worker does not take the configuration")

// How long a worker takes to make up its mind.
const (
	lookupTimeout = 2 * time.Second
	probeTimeout  = 5 * time.Second
)

// validate returns ErrRefused, with the reason, for a target that hits could not,
// or should not, be answered from. It returns the error of ctx if the pusher
// leaves before there is a verdict.
func (p *Proxy) judge(ctx context.Context, next *running) error {
	if err := p.allow.check(next.target.Hostname()); err != nil {
		return refused(err)
	}
	if err := p.checkAddresses(ctx, next.target.Hostname()); err != nil {
		return refused(err)
	}
	if last := p.running.Load(); !next.config.Probe || last != nil && last.config.URL == next.config.URL {
		return nil // a target that is away for a moment is no news where it runs already
	}
	err := p.probe(ctx, next)
	p.metrics.probed(err)
	return err
}

// checkAddresses returns ErrForbidden for a host all of whose addresses the
// deny list names. Where the DNS has nothing to say at the moment, the hit will
// tell.
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

// probe fetches the target once, as a hit would: it must answer with a status
// below 500.
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
		return refused(p.failure(err, fmt.Sprintf("a probe waits %s", probeTimeout)))
	}
	_ = res.Body.Close()
	if res.StatusCode >= http.StatusInternalServerError {
		return refused(fmt.Errorf("the target answered the probe with %d %s", res.StatusCode,
			http.StatusText(res.StatusCode)))
	}
	return nil
}

func refused(reason error) error { return fmt.Errorf("%w: %w", ErrRefused, reason) }
