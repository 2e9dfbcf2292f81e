package api

import (
	"net/http"
	"strings"

	"github.com/fleetconf/fleetconf/controller/docs"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/pkg/swaggerui"
)

// swaggerUI serves the pages of the API, which servePage has.
func swaggerUI() func(*call) error {
	return func(c *call) error {
		name := strings.TrimPrefix(c.Param("page"), "/")
		if name == "" {
			server.Redirect(c.Writer, swaggerui.IndexFrom(c.Request.URL.Path))
			return nil
		}
		c.Header("Content-Security-Policy", "frame-ancestors 'none'") // no other site may have its visitors click here
		if servePage(c.Context, name) != nil {
			return problem.New(http.StatusNotFound, "there is no such page; begin at /swagger/index.html")
		}
		return nil
	}
}

// openAPI describes this API.
//
//	@ID			getOpenAPI
//	@Summary	This description, as OpenAPI 3
//	@Tags		process
//	@Produce	json
//	@Success	200	{object}	object
//	@Router		/openapi.json [get]
func openAPI(c *call) error {
	swaggerui.ServeDocument(c.Writer, c.Request, docs.OpenAPI)
	return nil
}
