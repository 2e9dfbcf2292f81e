package api

import (
	"net/http"

	"github.com/fleetconf/fleetconf/pkg/server"
)

// NewWithoutRule is New with one more route, GET /unset, that was given no access rule.
func NewWithoutRule(parts Parts) http.Handler {
	a := newAPI(parts)
	unset := server.Route{Method: http.MethodGet, Path: "/unset", Class: otherClass}
	unset.Handle = func(http.ResponseWriter, *http.Request) error { return nil }
	return a.handler(append(a.routes(), unset))
}
