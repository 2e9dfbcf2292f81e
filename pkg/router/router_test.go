package router_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/fleetconf/fleetconf/pkg/router"
)

func TestNew_Requests(t *testing.T) {
	answer := func(status int) gin.HandlerFunc {
		return func(c *gin.Context) {
			c.String(status,
				c.Writer.Header().Get("Allow"))
		}
	}
	h := router.New([]router.Route{
		{Method: "GET", Path: "/a", Handle: answer(200)},
		{Method: "POST", Path: "/a", Handle: answer(201)},
		{Method: "POST", Path: "/b", Handle: answer(202)},
	}, answer(404), answer(405))
	for _, row := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/a", 200, ""},
		{"HEAD", "/a", 200, ""},
		{"POST", "/a", 201, ""},
		{"POST", "/b", 202, ""},
		{"GET", "/b", 405, "POST"},
		{"HEAD", "/b", 405, "POST"},
		{"GET", "/a/", 404, ""},
		{"POST", "/b/", 404, ""},
		{"GET", "//a", 404, ""},
		{"GET", "/A", 404, ""},
		{"GET", "/nowhere", 404, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(row.method, "http://host"+row.path, http.NoBody))
		if w.Code != row.status || w.Body.String() != row.body {
			t.Errorf("%s %s: got %d %q, want %d %q", row.method, row.path, w.Code, w.Body, row.status, row.body)
		}
	}
}
