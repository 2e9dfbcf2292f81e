package api

import (
	"net/http"
	"strings"
	"sync"

	"github.com/gin-gonic/gin"
	ginswagger "github.com/swaggo/gin-swagger"
	"golang.org/x/net/webdav"

	"github.com/fleetconf/fleetconf/controller/docs"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/pkg/swaggerui"
)

// ginSwagger renders the pages that depend on the API. It is created by the first request, and
// serves no files: its file handler is empty.
var ginSwagger = sync.OnceValue(func() gin.HandlerFunc {
	return ginswagger.WrapHandler(&webdav.Handler{}, ginswagger.URL(swaggerui.Document))
})

// swaggerUI serves Swagger UI.
func swaggerUI(c *call) error {
	name := strings.TrimPrefix(c.Param("page"), "/")
	if name == "" {
		server.Redirect(c.Writer, swaggerui.IndexFrom(c.Request.URL.Path))
		return nil
	}
	c.Header("Content-Security-Policy", "frame-ancestors 'none'") // against clickjacking
	switch name {
	case "index.html", "index.css", "swagger-initializer.js":
		if c.Request.Method == http.MethodHead { // gin-swagger handles GET only
			get := *c.Request
			get.Method = http.MethodGet
			c.Request = &get
		}
		ginSwagger()(c.Context)
	case "doc.json":
		return openAPI(c)
	default:
		if swaggerui.ServeFile(c.Writer, c.Request, name) != nil {
			return problem.New(http.StatusNotFound, "no such page; start at /swagger/index.html")
		}
	}
	return nil
}

// openAPI serves the OpenAPI document.
//
//	@ID			getOpenAPI
//	@Summary	Get the OpenAPI 3 document
//	@Tags		process
//	@Produce	json
//	@Success	200	{object}	object
//	@Router		/openapi.json [get]
func openAPI(c *call) error {
	swaggerui.ServeDocument(c.Writer, c.Request, docs.OpenAPI)
	return nil
}
