package api

import (
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	swaggerui "github.com/swaggo/files/v2"

	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/worker/docs"
)

// initializer points the Swagger UI at our document.
const initializer = `window.onload = () => {
  window.ui = SwaggerUIBundle({
    url: "./doc.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
    plugins: [SwaggerUIBundle.plugins.DownloadUrl],
    layout: "StandaloneLayout",
  });
};
`

// swagger serves the pages of the API's documentation. They lie in the binary
// and are read from there while they are sent, so that a worker that nobody
// asks for them has no memory in use for them.
func (a *API) swagger(c *gin.Context) error {
	var (
		name    = strings.TrimPrefix(c.Param("file"), "/")
		content io.ReadSeeker
	)
	switch name {
	case "":
		http.Redirect(c.Writer, c.Request, "/swagger/index.html", http.StatusFound)
		return nil
	case "doc.json":
		content = strings.NewReader(docs.Swagger)
	case "swagger-initializer.js":
		content = strings.NewReader(initializer)
	default:
		file, err := openPage(name)
		if err != nil {
			return problem.New(http.StatusNotFound, "there is no such page; begin at /swagger/index.html")
		}
		defer func() { _ = file.Close() }()
		content = file
	}
	c.Header("Content-Security-Policy", "frame-ancestors 'none'") // no other site may have its visitors click here
	http.ServeContent(c.Writer, c.Request, name, time.Time{}, content)
	return nil
}

// page is a file of the Swagger UI.
type page interface {
	fs.File
	io.Seeker
}

func openPage(name string) (page, error) {
	file, err := swaggerui.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if p, ok := file.(page); ok {
		return p, nil
	}
	_ = file.Close() // a folder
	return nil, fs.ErrNotExist
}
