// Package server runs an HTTP server that survives its clients: it bounds what
// each of them may take in time and bytes, answers what breaks as a problem
// document, and on the way out lets the requests in flight end.
package server

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// Bounds on one client. A handler that needs longer to answer sets a deadline
// of its own with http.ResponseController.
const (
	ReadHeaderTimeout = 5 * time.Second
	ReadTimeout       = 15 * time.Second
	WriteTimeout      = 30 * time.Second
	IdleTimeout       = 2 * time.Minute
	MaxHeaderBytes    = 64 << 10
	DrainTimeout      = 10 * time.Second
)

// Serve answers requests on ln until ctx ends. Then it takes no new ones, gives
// those in flight up to DrainTimeout to end, and returns nil; what is still
// open after that is cut. It logs the address that it listens on.
func Serve(ctx context.Context, ln net.Listener, handler http.Handler, log logrus.FieldLogger) error {
	return ServeKeeping(ctx, ln, handler, IdleTimeout, log)
}

// ServeKeeping is Serve for clients that come by seldom and keep their
// connection: it is closed when it was idle for longer than idle.
func ServeKeeping(ctx context.Context, ln net.Listener, handler http.Handler, idle time.Duration, log logrus.FieldLogger) error {
	s := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: ReadHeaderTimeout,
		ReadTimeout:       ReadTimeout,
		WriteTimeout:      WriteTimeout,
		IdleTimeout:       idle,
		MaxHeaderBytes:    MaxHeaderBytes,
		ErrorLog:          stdlog.New(debugLines{log}, "", 0),
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

// debugLines takes what net/http has to say of its clients, such as broken
// handshakes and cut requests, to the log.
type debugLines struct{ log logrus.FieldLogger }

func (d debugLines) Write(line []byte) (int, error) {
	d.log.WithField("server", strings.TrimSpace(string(line))).Debug("Connection failed")
	return len(line), nil
}
