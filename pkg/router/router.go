// Package router has gin route requests to the handlers of one table. It changes nothing
// of a request: no redirect, no cleaned path, no trusted proxy.
package router

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// Route is a line of the table. A route of GET answers HEAD too (RFC 9110 §9.3.2; net/http
// leaves out the body).
type Route struct {
	Method, Path string
	Handle       gin.HandlerFunc
}

// New returns a handler of these routes. notFound answers paths of no route,
// methodNotAllowed other methods of a route; the Allow header of the response is set then.
func New(routes []Route, notFound, methodNotAllowed gin.HandlerFunc) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false // a redirect would lose the body of a POST
	engine.RemoveExtraSlash = false
	_ = engine.SetTrustedProxies(nil) // fails only for an invalid network
	engine.NoRoute(notFound)
	engine.NoMethod(methodNotAllowed)
	for _, r := range routes {
		engine.Handle(r.Method, r.Path, r.Handle)
		if r.Method == http.MethodGet {
			engine.HEAD(r.Path, r.Handle)
		}
	}
	return engine
}
