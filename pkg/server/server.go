// Package server runs the HTTP servers of the three programs. It bounds the time and the bytes
// of each client, runs requests through one pipeline of access rules, handlers, problem
// documents and metrics, and drains at shutdown.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/connlimit"
	"github.com/fleetconf/fleetconf/pkg/logger"
)

// Bounds on one client. A handler that needs more time sets a deadline with
// http.ResponseController.
const (
	ReadHeaderTimeout = 5 * time.Second
	ReadTimeout       = 15 * time.Second
	WriteTimeout      = 30 * time.Second
	IdleTimeout       = time.Minute
	MaxHeaderBytes    = 64 << 10
	DrainTimeout      = 10 * time.Second
)

// Limits are the limits on the connections of a server.
type Limits struct {
	// Connections is how many may be open, as package connlimit has it; 0 is
	// connlimit.Max(1).
	Connections int
	// Keep is the idle timeout of connections that carried an authenticated request
	// (connlimit.Authenticated); 0 is IdleTimeout, which holds for all others.
	Keep time.Duration
}

// Serve serves requests on ln until ctx ends. Then it accepts no more, waits up to DrainTimeout
// for those in flight, closes the rest, and returns nil. It logs its address.
func Serve(ctx context.Context, ln net.Listener, handler http.Handler, log logrus.FieldLogger) error {
	return ServeWithin(ctx, ln, handler, Limits{}, log)
}

// ServeWithin is Serve with limits.
func ServeWithin(ctx context.Context, ln net.Listener, handler http.Handler, limits Limits,
	log logrus.FieldLogger) error {
	if limits.Connections == 0 {
		limits.Connections = connlimit.Max(1)
	}
	conns := connlimit.New(connlimit.Options{
		Limit: limits.Connections, Authenticates: limits.Keep > 0, IdleTimeout: IdleTimeout,
	}, log)
	if limits.Keep > 0 { // else the server's IdleTimeout does the same
		defer conns.Watch()()
	}
	s := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: ReadHeaderTimeout,
		ReadTimeout:       ReadTimeout,
		WriteTimeout:      WriteTimeout,
		IdleTimeout:       max(IdleTimeout, limits.Keep),
		MaxHeaderBytes:    MaxHeaderBytes,
		ErrorLog:          logger.Debug(log, "Connection failed", "server"),
		ConnContext:       conns.ConnContext,
		ConnState:         conns.ConnState,
	}
	log.WithField("addr", ln.Addr().String()).Info("Listening")

	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }() // ends with Shutdown or Close below
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	log.Info("Stopping")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), DrainTimeout)
	defer cancel()
	if err := s.Shutdown(drain); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("drain: %w", err)
	} else if err != nil {
		log.WithField("after", DrainTimeout.String()).Warn("Requests still open were cut")
		_ = s.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	}
	return nil
}
