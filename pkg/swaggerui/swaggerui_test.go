package swaggerui_test

import (
	"errors"
	"io/fs"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/swaggerui"
)

func TestServeFile_Distribution(t *testing.T) {
	for name, want := range map[string]struct{ contentType, text string }{
		"swagger-ui-bundle.js":            {"text/javascript; charset=utf-8", "SwaggerUIBundle"},
		"swagger-ui-standalone-preset.js": {"text/javascript; charset=utf-8", "SwaggerUIStandalonePreset"},
		"swagger-ui.css":                  {"text/css; charset=utf-8", ".swagger-ui"},
		"favicon-32x32.png":               {"image/png", "PNG"},
	} {
		w := httptest.NewRecorder()
		if err := swaggerui.ServeFile(w, httptest.NewRequest("GET", "/", nil), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.Header().Get("Content-Type"); got != want.contentType ||
			!strings.Contains(w.Body.String(), want.text) {
			t.Errorf("%s: got %s, %d bytes, want %s with %q", name, got, w.Body.Len(), want.contentType, want.text)
		}
	}
}

func TestServeFile_OtherNames_NotExist(t *testing.T) {
	for _, name := range []string{
		"", ".", "/", "../swagger-ui.css", "index.html", "embed.go", "swagger-ui-bundle.js.map", "swagger-ui.css.gz",
	} {
		w := httptest.NewRecorder()
		err := swaggerui.ServeFile(w, httptest.NewRequest("GET", "/", nil), name)
		if !errors.Is(err, fs.ErrNotExist) || w.Body.Len() > 0 {
			t.Errorf("%q: got %v and %d bytes, want that it does not exist", name, err, w.Body.Len())
		}
	}
}
