package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/pkg/swaggerui"
	"github.com/fleetconf/fleetconf/worker/docs"
)

// index.html and its script, in place of gin-swagger's, which need 6 MiB more (ADR 4).
const (
	swaggerIndex = `<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="UTF-8">
  <title>Fleetconf worker</title>
  <link rel="stylesheet" href="./swagger-ui.css">
  <link rel="icon" type="image/png" href="./favicon-32x32.png" sizes="32x32">
</head>
<body style="margin: 0">
  <div id="swagger-ui"></div>
  <script src="./swagger-ui-bundle.js"></script>
  <script src="./swagger-ui-standalone-preset.js"></script>
  <script src="./swagger-initializer.js"></script>
</body>
</html>
`
	swaggerInitializer = `window.onload = () => {
  window.ui = SwaggerUIBundle({
    url: "` + swaggerui.Document + `",
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
    plugins: [SwaggerUIBundle.plugins.DownloadUrl],
    layout: "StandaloneLayout",
  });
};
`
)

// swagger serves Swagger UI.
func swagger(w http.ResponseWriter, r *http.Request) error {
	_, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if name == "" {
		server.Redirect(w, swaggerui.IndexFrom(r.URL.Path))
		return nil
	}
	w.Header().Set("Content-Security-Policy", "frame-ancestors 'none'") // against clickjacking
	switch name {
	case "index.html":
		http.ServeContent(w, r, name, time.Time{}, strings.NewReader(swaggerIndex))
	case "swagger-initializer.js":
		http.ServeContent(w, r, name, time.Time{}, strings.NewReader(swaggerInitializer))
	case "doc.json":
		openAPI(w, r)
	default:
		if swaggerui.ServeFile(w, r, name) != nil {
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
func openAPI(w http.ResponseWriter, r *http.Request) { swaggerui.ServeDocument(w, r, docs.OpenAPI) }
