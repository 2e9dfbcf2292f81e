package api

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/pkg/swaggerui"
	"github.com/fleetconf/fleetconf/worker/docs"
)

var pages = swaggerui.Pages{Title: "Fleetconf worker", Document: docs.Swagger}

// swagger serves the pages of the API's documentation.
func (a *API) swagger(c *gin.Context) error {
	name := strings.TrimPrefix(c.Param("file"), "/")
	if name == "" {
		server.Redirect(c.Writer, "index.html")
		return nil
	}
	c.Header("Content-Security-Policy", "frame-ancestors 'none'") // no other site may have its visitors click here
	if pages.ServePage(c.Writer, c.Request, name) != nil {
		return problem.New(http.StatusNotFound, "there is no such page; begin at /swagger/index.html")
	}
	return nil
}
