package swaggerui

import (
	"html"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

// Document is where the pages find the OpenAPI 3 document that they show: beside
// their own folder.
const Document = "../openapi.json"

// Pages show what an API takes and answers.
type Pages struct {
	Title   string
	Swagger string // the OpenAPI 2 document, which older tools read as doc.json
}

// ServeDocument answers with an API document in JSON.
func ServeDocument(w http.ResponseWriter, r *http.Request, document string) {
	w.Header().Set("Content-Type", "application/json")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(document))
}

// IndexFrom returns the reference to the first page, relative to the path of the
// folder of the pages, which may lack the slash at its end.
func IndexFrom(folder string) string {
	if strings.HasSuffix(folder, "/") {
		return "index.html"
	}
	return path.Base(folder) + "/index.html"
}

// ServePage answers with the page of that name: index.html, doc.json, and what
// they load. Where there is none it answers nothing and returns fs.ErrNotExist.
func (p Pages) ServePage(w http.ResponseWriter, r *http.Request, name string) error {
	var content io.ReadSeeker
	switch name {
	case "index.html":
		content = strings.NewReader(strings.ReplaceAll(index, "TITLE", html.EscapeString(p.Title)))
	case "doc.json":
		content = strings.NewReader(p.Swagger)
	case "swagger-initializer.js":
		content = strings.NewReader(initializer)
	default:
		file, err := FS.Open(name)
		if err != nil {
			return fs.ErrNotExist
		}
		defer func() { _ = file.Close() }()
		content = file.(io.ReadSeeker)
	}
	http.ServeContent(w, r, name, time.Time{}, content)
	return nil
}

const index = `<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="UTF-8">
  <title>TITLE</title>
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

const initializer = `window.onload = () => {
  window.ui = SwaggerUIBundle({
    url: "` + Document + `",
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
    plugins: [SwaggerUIBundle.plugins.DownloadUrl],
    layout: "StandaloneLayout",
  });
};
`
