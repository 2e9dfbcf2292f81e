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

// debugConnections is covered by the files that connlimit reserves.
const debugConnections = 8

// ServeDebug serves profiles of this process (net/http/pprof) on port of the loopback address
// until ctx ends; port 0 serves none. Profiles in progress end with ctx, so that they do not
// delay a shutdown.
func ServeDebug(ctx context.Context, port int, log logrus.FieldLogger) error {
	if port == 0 {
		return nil
	}
	var listen net.ListenConfig
	ln, err := listen.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("%w; set DEBUG_PORT to a free port, or to 0", err)
	}
	limits := Limits{Connections: debugConnections}
	return ServeWithin(ctx, ln, Wrap(cancelWith(ctx, Debug()), log), limits, log.WithField("serves", "pprof"))
}

// cancelWith returns next with requests that are canceled when ctx ends.
func cancelWith(ctx context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, leave := context.WithCancel(r.Context())
		defer leave()
		defer context.AfterFunc(ctx, leave)()
		next.ServeHTTP(w, r.WithContext(asked))
	})
}

// Debug returns the handler of the profiles, under /debug/pprof/. It rejects requests with a
// Host that DNS could rebind to the loopback address.
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
				"profiles are served to this machine only, at 127.0.0.1 or localhost"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}
