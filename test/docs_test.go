package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Links between documents lead to existing files and headings.
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
				t.Errorf("%s links to %s, but there is no such heading", document, link)
			}
		}
	}
}

// hasHeading reports whether text has an anchor, or a heading with that slug: in lower
// case, without punctuation, with hyphens for spaces.
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
