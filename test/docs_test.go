package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A link between documents leads somewhere: to a file that is there, and to a
// heading within it.
func TestDocs_Links_Resolve(t *testing.T) {
	t.Parallel()
	documents, err := filepath.Glob("../docs/*.md")
	must(t, err)
	documents = append(documents, "../README.md", "../SECURITY.md", "../CONTRIBUTING.md", "../CHANGELOG.md")
	if len(documents) < 12 {
		t.Fatalf("found %d documents, want at least 12", len(documents))
	}
	for _, document := range documents {
		text := readText(t, document)
		for _, link := range matches(`\]\(([^)]+)\)`, text) {
			if strings.Contains(link, "://") {
				continue
			}
			path, anchor, _ := strings.Cut(link, "#")
			target := document
			if path != "" {
				target = filepath.Join(filepath.Dir(document), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", document, link, err)
				continue
			}
			if anchor != "" && !hasHeading(readText(t, target), anchor) {
				t.Errorf("%s links to %s, and there is no such heading", document, link)
			}
		}
	}
}

// hasHeading reports whether text has that anchor, or a heading that makes it: in
// lower case, without punctuation, with a hyphen for each space.
func hasHeading(text, anchor string) bool {
	if strings.Contains(text, `<a id="`+anchor+`"></a>`) {
		return true
	}
	for _, heading := range matches(`(?m)^#+ (.+)$`, text) {
		slug := regexp.MustCompile(`[^\p{L}\p{N}\- ]`).ReplaceAllString(strings.ToLower(heading), "")
		if strings.ReplaceAll(slug, " ", "-") == anchor {
			return true
		}
	}
	return false
}
