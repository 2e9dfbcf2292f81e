// Package status answers what an operator and a supervisor ask of an agent:
// does it live, is it ready, what does it run, which build is it. It changes
// nothing and tells no secret.
package status

import (
	"net/http"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// Handler answers from what current says at the time.
func Handler(current func() models.Status, log logrus.FieldLogger) http.Handler {
	routes := map[string]http.HandlerFunc{
		"/status":  func(w http.ResponseWriter, _ *http.Request) { status(w, current()) },
		"/health":  server.Health,
		"/ready":   func(w http.ResponseWriter, r *http.Request) { ready(w, r, current()) },
		"/version": server.Version,
	}
	return server.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.WithFields(logrus.Fields{"request_id": server.RequestID(r), "method": r.Method, "path": r.URL.Path}).Debug("Request")
		route, found := routes[r.URL.Path]
		switch {
		case !found:
			problem.Write(w, problem.New(http.StatusNotFound, "there is nothing at this path; see /status, /health, /ready and /version"))
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			problem.Write(w, problem.New(http.StatusMethodNotAllowed, "this can only be read: use GET"))
		default:
			route(w, r)
		}
	}), log)
}

func status(w http.ResponseWriter, s models.Status) {
	w.Header().Set("Cache-Control", "no-store")
	_ = server.WriteJSON(w, http.StatusOK, s) // a Status can always be encoded
}

// readiness is the body of a 200. What is wrong and does not keep the agent
// from its work is a warning: a full disk must not take a serving pod away.
type readiness struct {
	server.Status
	Warnings []wire.FieldError `json:"warnings,omitempty"`
}

// ready answers 200 when the agent can do its work: the controller knows it,
// or the worker runs what the cache holds while the controller is away.
func ready(w http.ResponseWriter, r *http.Request, s models.Status) {
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
