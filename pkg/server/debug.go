package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/problem"
)

// debugConnections are of those that reservedFiles leaves room for.
const debugConnections = 8

// ServeDebug answers with profiles of this process (net/http/pprof) on port of
// the loopback address, until ctx ends; port 0 is for none. Who may connect there
// may read how the process works, and nobody else may: it listens nowhere else. A
// profile that is being made ends with ctx: no stop waits for it.
func ServeDebug(ctx context.Context, port int, log logrus.FieldLogger) error {
	if port == 0 {
		return nil
	}
	var listen net.ListenConfig
	ln, err := listen.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("%w; set DEBUG_PORT to a port that is free, or to 0", err)
	}
	limits := Limits{Connections: debugConnections}
	return ServeWithin(ctx, ln, Wrap(cancelWith(ctx, Debug()), log), limits, log.WithField("serves", "pprof"))
}

// cancelWith ends the requests to a handler with ctx.
func cancelWith(ctx context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, leave := context.WithCancel(r.Context())
		defer leave()
		defer context.AfterFunc(ctx, leave)()
		next.ServeHTTP(w, r.WithContext(asked))
	})
}

// Debug is the handler of the profiles, under /debug/pprof/. A page of another
// site, by a name that it rebinds to the loopback address, is refused.
func Debug() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !FromLoopback(r) || !ToLoopback(r) {
			problem.Write(w, problem.New(http.StatusForbidden,
				"profiles are read on this machine, at 127.0.0.1 or localhost"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}
