package scripts

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// dash returns Debian's /bin/sh, which supports POSIX only.
func dash(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("dash")
	if err != nil {
		t.Skip("dash is not installed, so shell blocks are not checked")
	}
	return path
}

// blocks returns the fenced blocks of a document in one language.
func blocks(t *testing.T, document, language string) (found []string) {
	t.Helper()
	fence := regexp.MustCompile("(?ms)^```" + language + "\n(.*?)^```")
	for _, block := range fence.FindAllStringSubmatch(readText(t, document), -1) {
		found = append(found, block[1])
	}
	return found
}

// block returns the one shell block of a document that contains text.
func block(t *testing.T, document, text string) string {
	t.Helper()
	var found []string
	for _, b := range blocks(t, "../../"+document, "sh") {
		if strings.Contains(b, text) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d shell blocks with %q, want one", document, len(found), text)
	}
	return found[0]
}

func TestDocuments_ShellBlocks_ParseInDash(t *testing.T) {
	shell := dash(t)
	// These parse, but fail or do something else.
	bashOnly := regexp.MustCompile(`\[\[ |pipefail|&>|\$'|\bsource |\bdeclare |\blocal -|\{\d+\.\.\d+\}|\w+=\(`)
	command := regexp.MustCompile(
		`(?m)^\s*(curl|systemctl|install|apt-get|docker|make|git|cp|mv|rm|(\./)?scripts/\S+|admin) `)
	documents, err := filepath.Glob("../../docs/*.md")
	must(t, err)
	total := 0
	for _, document := range append(documents, "../../README.md", "../../CONTRIBUTING.md") {
		for _, b := range blocks(t, document, "sh") {
			total++
			cmd := exec.Command(shell, "-n")
			cmd.Stdin = strings.NewReader(b)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", document, err, out, b)
			}
			if found := bashOnly.FindString(b); found != "" {
				t.Errorf("%s has %q, which requires bash:\n%s", document, found, b)
			}
		}
		if len(blocks(t, document, "bash")) > 0 {
			t.Errorf("%s has blocks marked bash; write them for sh", document)
		}
		for _, b := range blocks(t, document, "text") {
			if command.MatchString(b) {
				t.Errorf("%s has shell in a block marked text:\n%s", document, b)
			}
		}
	}
	if total < 40 {
		t.Errorf("found %d blocks of shell, want at least 40: are they marked sh?", total)
	}
}

// Prose is wrapped; tables, code and lines with a URL are exempt.
func TestDocuments_Prose_Below120Columns(t *testing.T) {
	var documents []string
	for _, folder := range []string{"../..", "../../docs", "../../docs/adr"} {
		found, err := filepath.Glob(filepath.Join(folder, "*.md"))
		must(t, err)
		documents = append(documents, found...)
	}
	for _, document := range documents {
		code := false
		for i, line := range strings.Split(readText(t, document), "\n") {
			if strings.HasPrefix(line, "```") {
				code = !code
			}
			n := utf8.RuneCountInString(line)
			if n >= 120 && !code && !strings.HasPrefix(line, "|") && !strings.Contains(line, "://") {
				t.Errorf("%s:%d has %d columns, want fewer than 120", document, i+1, n)
			}
		}
	}
}

// paste runs a block as if it were pasted: without -e.
func paste(t *testing.T, b, bin string, env ...string) (output string, err error) {
	t.Helper()
	return script(bin, env, dash(t), "-c", b)
}

// curl logs its calls, and answers the first one (with -D -) with $HEADERS and $STATUS.
const curl = `printf '%s\n' "$*" >>"$CALLS"
case "$*" in
*"%header"*) printf '%s' '%header{etag}' ;; # as before 7.84
*"-D -"*) printf '%s' "$HEADERS"; exit "$STATUS" ;;
esac
`

func TestREADME_IfMatch_WithoutETag_DoesNotPublish(t *testing.T) {
	recipe := block(t, "README.md", "If-Match")
	for name, row := range map[string]struct {
		headers, status string
		want            string // in the publish; "" if nothing may be published
	}{
		"HTTP/1.1":          {"HTTP/1.1 200 OK\r\nETag: \"7-abc\"\r\n\r\n", "0", `If-Match: "7-abc"`},
		"HTTP/2":            {"HTTP/2 200\r\netag: \"7-abc\"\r\n\r\n", "0", `If-Match: "7-abc"`},
		"no such server":    {"", "7", ""},
		"no ETag":           {"HTTP/1.1 200 OK\r\nDate: today\r\n\r\n", "0", ""},
		"wrong password":    {"HTTP/1.1 401 Unauthorized\r\n\r\n", "22", ""},
		"nothing published": {"HTTP/1.1 404 Not Found\r\n\r\n", "22", ""},
	} {
		bin, calls := t.TempDir(), filepath.Join(t.TempDir(), "calls")
		fake(t, bin, "curl", curl)
		out, err := paste(t, recipe, bin, "CALLS="+calls, "HEADERS="+row.headers, "STATUS="+row.status)
		var published string
		for _, call := range strings.Split(readText(t, calls), "\n") {
			if strings.Contains(call, `{"url"`) {
				published = call
			}
		}
		switch {
		case row.want == "" && (published != "" || err == nil):
			t.Errorf("%s: published %q, %v, want nothing published and a failure\n%s", name, published, err, out)
		case !strings.Contains(published, row.want):
			t.Errorf("%s: published by %q, want %q in it\n%s", name, published, row.want, out)
		}
	}
}

// gate answers a publish with $ANSWER and $STATUS, and knows the rollout of version 8
// only.
const gate = `printf '%s\n' "$*" >>"$CALLS"
case "$*" in
*/rollouts/8\?*) echo '{"reached":true}' ;;
*/rollouts/*) echo 'no such version' >&2; exit 22 ;;
*) printf '%s\n' "$ANSWER"; exit "$STATUS" ;;
esac
`

func TestREADME_Gate_FailedPublish_SaysSo(t *testing.T) {
	recipe := block(t, "README.md", "/rollouts/$version?wait")
	for name, row := range map[string]struct {
		answer, status string
		ok             bool
	}{
		"published":    {`{"version":8,"changed":true}`, "0", true},
		"frozen":       {`{"status":409,"detail":"sale until Monday"}`, "22", false},
		"unreachable":  {``, "7", false},
		"a proxy's":    {`<html>all is well</html>`, "0", false},
		"bad password": {`{"status":401,"detail":"credentials"}`, "22", false},
	} {
		bin, calls := t.TempDir(), filepath.Join(t.TempDir(), "calls")
		fake(t, bin, "curl", gate)
		out, err := paste(t, recipe, bin, "CALLS="+calls, "ANSWER="+row.answer, "STATUS="+row.status)
		asked := strings.Contains(readText(t, calls), "/rollouts/")
		if row.ok != (err == nil) || row.ok != asked || !strings.Contains(out, row.answer) && !row.ok {
			t.Errorf("%s: %v, rollout asked for: %v, want success and a rollout: %v, and the answer shown:\n%s",
				name, err, asked, row.ok, out)
		}
	}
}
