package swaggerui_test

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/swaggerui"
)

func TestFS_Open_Decompresses(t *testing.T) {
	for name, want := range map[string]string{
		"swagger-ui-bundle.js":            "SwaggerUIBundle",
		"swagger-ui-standalone-preset.js": "SwaggerUIStandalonePreset",
		"swagger-ui.css":                  ".swagger-ui",
		"favicon-32x32.png":               "PNG",
	} {
		file, err := swaggerui.FS.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(file)
		info, statErr := file.Stat()
		if err != nil || statErr != nil || info.Size() != int64(len(content)) || info.Name() != name || !strings.Contains(string(content), want) {
			t.Errorf("%s: got %d bytes, %v, %v, want %q in them", name, len(content), err, statErr, want)
		}
		if _, ok := file.(io.Seeker); !ok {
			t.Errorf("%s cannot be served in ranges", name)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestFS_OtherNames_NotExist(t *testing.T) {
	for _, name := range []string{"", ".", "/", "../swagger-ui.css", "index.html", "embed.go", "swagger-ui-bundle.js.map"} {
		if _, err := swaggerui.FS.Open(name); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: got %v, want that it does not exist", name, err)
		}
	}
}

func TestExists_MatchesOpen(t *testing.T) {
	for _, name := range []string{"swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "none.js", ".", "../swagger-ui.css", ""} {
		file, err := swaggerui.FS.Open(name)
		if err == nil {
			_ = file.Close()
		}
		if got, want := swaggerui.Exists(name), err == nil; got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
	if made := testing.AllocsPerRun(10, func() { swaggerui.Exists("swagger-ui-bundle.js") }); made > 20 {
		t.Errorf("to look for a file makes %v allocations: it was unpacked", made)
	}
}
