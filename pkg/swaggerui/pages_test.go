package swaggerui_test

import (
	"errors"
	"io/fs"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/swaggerui"
)

func TestServePage(t *testing.T) {
	pages := swaggerui.Pages{Title: "Ours & <yours>", Swagger: `{"swagger":"2.0"}`}
	for name, want := range map[string]struct{ contentType, text string }{
		"index.html":             {"text/html; charset=utf-8", "<title>Ours &amp; &lt;yours&gt;</title>"},
		"doc.json":               {"application/json", `{"swagger":"2.0"}`},
		"swagger-initializer.js": {"text/javascript; charset=utf-8", `"../openapi.json"`},
		"swagger-ui-bundle.js":   {"text/javascript; charset=utf-8", "SwaggerUIBundle"},
	} {
		w := httptest.NewRecorder()
		if err := pages.ServePage(w, httptest.NewRequest("GET", "/", nil), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.Header().Get("Content-Type"); got != want.contentType || !strings.Contains(w.Body.String(), want.text) {
			t.Errorf("%s: got %s, %d bytes, want %s with %q", name, got, w.Body.Len(), want.contentType, want.text)
		}
	}
	if err := pages.ServePage(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), "none.js"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a page that is not: got %v", err)
	}
}
