package docs

import (
	"net/http"
	"strings"
	"sync"

	"github.com/gin-gonic/gin"
	ginswagger "github.com/swaggo/gin-swagger"
	"golang.org/x/net/webdav"

	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/pkg/swaggerui"
)

// ginSwagger renders the pages that depend on the API. It is created by the first request, and
// serves no files: its file handler is empty.
var ginSwagger = sync.OnceValue(func() gin.HandlerFunc {
	return ginswagger.WrapHandler(&webdav.Handler{}, ginswagger.URL(swaggerui.Document))
})

// SwaggerUI serves Swagger UI.
func SwaggerUI(c *gin.Context) error {
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
		ginSwagger()(c)
	case "doc.json":
		Document(c.Writer, c.Request)
	default:
		if swaggerui.ServeFile(c.Writer, c.Request, name) != nil {
			return problem.New(http.StatusNotFound, "no such page; start at /swagger/index.html")
		}
	}
	return nil
}

// Document serves the OpenAPI document.
func Document(w http.ResponseWriter, r *http.Request) { swaggerui.ServeDocument(w, r, OpenAPI) }
