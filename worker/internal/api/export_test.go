package api

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// NewWithoutRule is New with one more route, GET /unset, that was given no access rule.
func NewWithoutRule(parts Parts) http.Handler {
	a := newAPI(parts)
	unset := route{method: http.MethodGet, path: "/unset", class: otherClass}
	unset.handle = func(*gin.Context) error { return nil }
	return a.handler(append(a.routes(), unset))
}
