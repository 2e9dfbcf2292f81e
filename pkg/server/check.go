package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/fleetconf/fleetconf/pkg/problem"
)

// checkTimeout is how long a process that lives may take to say so.
const checkTimeout = 3 * time.Second

// CheckHealth asks the process of this machine that listens on host and port
// whether it lives (GET /health): nil if so. It is for supervisors that have no
// client of their own, in a container say. secure says that it speaks TLS: with what
// certificate does not matter, for nothing is told to it, and nothing believed but
// that it answers; one that was renewed by halves is no reason to end a process
// that serves with the one before.
func CheckHealth(ctx context.Context, host string, port int, secure bool) error {
	if port == 0 {
		return fmt.Errorf("PORT is 0, so nobody but the process itself knows where it listens; set PORT")
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	first, second := loopbackAddresses(host)
	err := getHealth(ctx, scheme, net.JoinHostPort(first, strconv.Itoa(port)))
	if err != nil && second != "" && getHealth(ctx, scheme, net.JoinHostPort(second, strconv.Itoa(port))) == nil {
		return nil
	}
	return err
}

// getHealth asks who listens at address.
func getHealth(ctx context.Context, scheme, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+address+"/health", http.NoBody)
	if err != nil {
		return err
	}
	transport := &http.Transport{ // without a proxy: it is this machine
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}, // see CheckHealth
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10)); _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %w", address, problem.Read(resp))
	}
	return nil
}

// Answers gives what asks the process that listens on ln, which is this one, as
// its callers would (CheckHealth).
func Answers(ln net.Listener, secure bool) func(context.Context) error {
	at := ln.Addr().(*net.TCPAddr)
	return func(ctx context.Context) error { return CheckHealth(ctx, at.IP.String(), at.Port, secure) }
}

// loopbackAddresses is where a process that listens on host is found from its own
// machine. For every interface that is the loopback address of IPv4, and only if
// nobody answers there that of IPv6: Go listens on [::] for both of them, on
// machines too where IPv6 is switched off.
func loopbackAddresses(host string) (first, second string) {
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
		return "127.0.0.1", "::1"
	}
	return host, ""
}
