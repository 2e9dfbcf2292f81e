package api

import (
	"net/http"
	"strings"

	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/pkg/swaggerui"
	"github.com/fleetconf/fleetconf/worker/docs"
)

var pages = swaggerui.Pages{Title: "Fleetconf worker", Swagger: docs.Swagger}

// swagger serves the pages of the API's documentation.
func swagger(w http.ResponseWriter, r *http.Request) error {
	_, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if name == "" {
		server.Redirect(w, swaggerui.IndexFrom(r.URL.Path))
		return nil
	}
	w.Header().Set("Content-Security-Policy", "frame-ancestors 'none'") // against clickjacking
	if pages.ServePage(w, r, name) != nil {
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
func openAPI(w http.ResponseWriter, r *http.Request) { swaggerui.ServeDocument(w, r, docs.OpenAPI) }
