// Package status is the agent's HTTP API for operators and supervisors: health,
// readiness, status, version and metrics. It changes nothing and shows no secret.
package status

import (
	"net/http"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// Parts are what a Handler is made of.
type Parts struct {
	Current func() protocol.Status
	Hosts   []string // that requests for /status may name besides localhost and IP addresses
	Metrics *Metrics
	Scrape  http.Handler // answers GET /metrics
	Log     logrus.FieldLogger
}

// Handler returns the API. Each request calls Current.
func Handler(p Parts) http.Handler {
	m, current, log := p.Metrics, p.Current, p.Log
	routes := map[string]http.Handler{
		"/":        of(m.probe, index),
		"/status":  of(m.status, func(w http.ResponseWriter, r *http.Request) { status(w, r, current(), p.Hosts) }),
		"/health":  of(m.probe, server.Health),
		"/ready":   of(m.probe, func(w http.ResponseWriter, r *http.Request) { ready(w, r, current()) }),
		"/metrics": of(m.probe, p.Scrape.ServeHTTP),
		"/version": of(m.probe, server.Version),
	}
	nothing := of(m.other, func(w http.ResponseWriter, _ *http.Request) {
		problem.Write(w, problem.New(http.StatusNotFound, "there is nothing at this path; GET / lists the paths"))
	})
	readOnly := of(m.other, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", "GET, HEAD")
		problem.Write(w, problem.New(http.StatusMethodNotAllowed, "only GET and HEAD are allowed"))
	})
	return server.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.WithFields(logrus.Fields{
			"request_id": server.RequestID(r), "method": r.Method, "path": r.URL.Path,
		}).Debug("Request")
		route, found := routes[r.URL.Path]
		switch {
		case !found:
			nothing.ServeHTTP(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			readOnly.ServeHTTP(w, r)
		default:
			route.ServeHTTP(w, r)
		}
	}), log)
}

var index = server.IndexOf("agent", server.Link{Href: "status", Title: "what this agent runs, and its errors"})

// of measures answer under a route class.
func of(class *metrics.Class, answer http.HandlerFunc) http.Handler {
	return server.Observed(answer, class.Answered)
}

// status rejects a Host that DNS may have rebound to this machine, because the page of
// another site could read the answer.
func status(w http.ResponseWriter, r *http.Request, s protocol.Status, hosts []string) {
	if !server.HostAllowed(r, hosts) {
		problem.Write(w, problem.New(http.StatusForbidden,
			"the Host must be an IP address, localhost or a name in ALLOWED_HOSTS, not %q", r.Host))
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	_ = server.WriteJSON(w, http.StatusOK, s) // a Status can always be encoded
}

// readiness is the body of a 200. Faults that do not keep the agent from its work are
// warnings: a full disk must not stop a pod that serves.
type readiness struct {
	server.Status
	Warnings []wire.FieldError `json:"warnings,omitempty"`
}

// ready answers 200 if the agent can do its work: it is registered, or the worker runs what
// the cache holds while the controller is unavailable.
func ready(w http.ResponseWriter, r *http.Request, s protocol.Status) {
	var faults []wire.FieldError
	add := func(field, detail, fallback string) {
		if detail == "" {
			detail = fallback
		}
		if detail != "" {
			faults = append(faults, wire.FieldError{Field: field, Detail: detail})
		}
	}
	running := s.InSync && s.AppliedVersion != nil
	missing := ""
	if !s.Registered {
		missing = "this agent is not registered yet"
	}
	add("controller", s.ControllerError, missing)
	missing = ""
	if !running && s.DesiredVersion != nil {
		missing = "does not run the desired version yet"
	}
	add("worker", s.Worker.Error, missing)
	add("cache", s.Cache.Error, "")
	add("push", s.Push.Error, "")

	if !s.Registered && !running {
		server.Ready(func(*http.Request) []wire.FieldError { return faults })(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	_ = server.WriteJSON(w, http.StatusOK, readiness{server.Status{Status: "ready"}, faults}) // can always be encoded
}
