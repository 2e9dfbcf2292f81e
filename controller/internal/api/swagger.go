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

// ginSwagger makes the pages that depend on the API, from the first request on. It never
// serves files.
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
		if c.Request.Method == http.MethodHead { // which gin-swagger does not know
			get := *c.Request
			get.Method = http.MethodGet
			c.Request = &get
		}
		ginSwagger()(c.Context)
	case "doc.json":
		return openAPI(c)
	default:
		if swaggerui.ServeFile(c.Writer, c.Request, name) != nil {
			return problem.New(http.StatusNotFound, "there is no such page; begin at /swagger/index.html")
		}
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
func openAPI(c *call) error {
	swaggerui.ServeDocument(c.Writer, c.Request, docs.OpenAPI)
	return nil
}
