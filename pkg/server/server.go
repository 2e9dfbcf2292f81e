// Package server runs an HTTP server that survives its clients: it bounds what
// each of them may take in time and bytes, answers what breaks as a problem
// document, and on the way out lets the requests in flight end.
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

// Bounds on one client. A handler that needs longer to answer sets a deadline
// of its own with http.ResponseController.
const (
	ReadHeaderTimeout = 5 * time.Second
	ReadTimeout       = 15 * time.Second
	WriteTimeout      = 30 * time.Second
	IdleTimeout       = time.Minute
	MaxHeaderBytes    = 64 << 10
	DrainTimeout      = 10 * time.Second
)

// Limits bound the connections of a server.
type Limits struct {
	// Connections is how many may be open, as package connlimit has it; 0 is
	// connlimit.Max(1).
	Connections int
	// Keep is the idle timeout of connections that carried an authenticated request
	// (connlimit.Authenticated); 0 is IdleTimeout, which holds for all others.
	Keep time.Duration
}

// Serve answers requests on ln until ctx ends. Then it takes no new ones, gives
// those in flight up to DrainTimeout to end, and returns nil; what is still
// open after that is cut. It logs the address that it listens on.
func Serve(ctx context.Context, ln net.Listener, handler http.Handler, log logrus.FieldLogger) error {
	return ServeWithin(ctx, ln, handler, Limits{}, log)
}

// ServeWithin is Serve with limits of its own.
func ServeWithin(ctx context.Context, ln net.Listener, handler http.Handler, limits Limits,
	log logrus.FieldLogger) error {
	if limits.Connections == 0 {
		limits.Connections = connlimit.Max(1)
	}
	conns := connlimit.New(connlimit.Options{
		Limit: limits.Connections, Authenticates: limits.Keep > 0, IdleTimeout: IdleTimeout,
	}, log)
	if limits.Keep > 0 { // else IdleTimeout below does the same
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
