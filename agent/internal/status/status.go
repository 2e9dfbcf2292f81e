// Package status is the agent's HTTP API for operators and supervisors: health,
// readiness, status, version and metrics. It changes nothing and shows no secret.
package status

import (
	"net/http"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
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
	pipeline := server.Pipeline{Requests: p.Metrics.requests, Log: p.Log}
	handle := func(class string, h server.HandlerFunc) http.Handler {
		return pipeline.Handler(server.Route{Class: class, Access: server.Public, Handle: h})
	}
	routes := map[string]http.Handler{
		"/":        handle(probeClass, server.Plain(index)),
		"/status":  handle(statusClass, p.status),
		"/health":  handle(probeClass, server.Plain(server.Health)),
		"/ready":   handle(probeClass, server.Plain(p.ready)),
		"/metrics": handle(probeClass, server.Plain(p.Scrape.ServeHTTP)),
		"/version": handle(probeClass, server.Plain(server.Version)),
	}
	notFound := handle(otherClass, func(http.ResponseWriter, *http.Request) error {
		return problem.New(http.StatusNotFound, "there is nothing at this path; GET / lists the paths")
	})
	methodNotAllowed := handle(otherClass, func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Allow", "GET, HEAD")
		return problem.New(http.StatusMethodNotAllowed, "only GET and HEAD are allowed")
	})
	return server.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, found := routes[r.URL.Path]
		switch {
		case !found:
			route = notFound
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			route = methodNotAllowed
		}
		route.ServeHTTP(w, r)
	}), p.Log)
}

var index = server.IndexOf("agent", server.Link{Href: "status", Title: "what this agent runs, and its errors"})

// status rejects a Host that DNS may have rebound to this machine, because the page of
// another site could read the answer.
func (p Parts) status(w http.ResponseWriter, r *http.Request) error {
	if !server.HostAllowed(r, p.Hosts) {
		return problem.New(http.StatusForbidden,
			"the Host must be an IP address, localhost or a name in ALLOWED_HOSTS, not %q", r.Host)
	}
	w.Header().Set("Cache-Control", "no-store")
	return server.WriteJSON(w, http.StatusOK, p.Current())
}

// readiness is the body of a 200. Faults that do not keep the agent from its work are
// warnings: a full disk must not stop a pod that serves.
type readiness struct {
	server.Status
	Warnings []wire.FieldError `json:"warnings,omitempty"`
}

// ready answers 200 if the agent can do its work: it is registered, or the worker runs what
// the cache holds while the controller is unavailable.
func (p Parts) ready(w http.ResponseWriter, r *http.Request) {
	s := p.Current()
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
