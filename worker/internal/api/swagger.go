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

var pages = swaggerui.Pages{Title: "Fleetconf worker", Swagger: docs.Swagger}

// swagger serves the pages of the API's documentation.
func (a *API) swagger(c *gin.Context) error {
	name := strings.TrimPrefix(c.Param("file"), "/")
	if name == "" {
		server.Redirect(c.Writer, swaggerui.IndexFrom(c.Request.URL.Path))
		return nil
	}
	c.Header("Content-Security-Policy", "frame-ancestors 'none'") // no other site may have its visitors click here
	if pages.ServePage(c.Writer, c.Request, name) != nil {
		return problem.New(http.StatusNotFound, "there is no such page; begin at /swagger/index.html")
	}
	return nil
}

// openAPI describes this API.
//
//	@ID			getOpenAPI
//	@Summary	This description, as OpenAPI 3
//	@Tags		process
//	@Produce	json
//	@Success	200	{object}	object
//	@Router		/openapi.json [get]
func (a *API) openAPI(c *gin.Context) error {
	swaggerui.ServeDocument(c.Writer, c.Request, docs.OpenAPI)
	return nil
}
