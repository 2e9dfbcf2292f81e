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

// checkTimeout is the timeout of a health check.
const checkTimeout = 3 * time.Second

// CheckHealth returns nil if the process of this machine that listens on host and port answers
// GET /health with 200. It is for supervisors without an HTTP client, such as a container's.
// secure says that the process uses TLS. The certificate is not verified: the check sends no
// secret, and an invalid certificate is no reason to restart a process.
func CheckHealth(ctx context.Context, host string, port int, secure bool) error {
	if port == 0 {
		return fmt.Errorf("the command health requires a PORT other than 0; set PORT")
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

// getHealth requests /health from address.
func getHealth(ctx context.Context, scheme, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+address+"/health", http.NoBody)
	if err != nil {
		return err
	}
	transport := &http.Transport{ // without a forward proxy
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

// Answers returns CheckHealth of this process, which listens on ln.
func Answers(ln net.Listener, secure bool) func(context.Context) error {
	at := ln.Addr().(*net.TCPAddr)
	return func(ctx context.Context) error { return CheckHealth(ctx, at.IP.String(), at.Port, secure) }
}

// loopbackAddresses returns where a process that listens on host is reached from its own
// machine. For a wildcard address that is the loopback address of IPv4, then of IPv6: Go
// listens on [::] for both, even if IPv6 is disabled.
func loopbackAddresses(host string) (first, second string) {
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
		return "127.0.0.1", "::1"
	}
	return host, ""
}
