package scripts

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testsHere returns the names of all tests of this repository.
func testsHere(t *testing.T) map[string]bool {
	t.Helper()
	names, declared := map[string]bool{}, regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, module := range []string{"pkg", "controller", "agent", "worker", "test"} {
		must(t, filepath.WalkDir(filepath.Join("../..", module), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, found := range declared.FindAllStringSubmatch(readText(t, path), -1) {
				names[found[1]] = true
			}
			return nil
		}))
	}
	return names
}

// The threat model names a test for each defence.
func TestThreatModel_NamedTests_Exist(t *testing.T) {
	model := readText(t, "../../docs/threat-model.md")
	tests := testsHere(t)
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(model, -1)
	if len(named) < 60 {
		t.Errorf("the threat model names %d tests, want at least 60", len(named))
	}
	for _, name := range named {
		if !tests[name[1]] {
			t.Errorf("the threat model names %s, but there is no such test", name[1])
		}
	}
	for _, attacker := range []string{
		"The network", "A local user", "A browser page", "A rogue agent", "A malicious configuration",
	} {
		_, section, ok := strings.Cut(model, "\n## "+attacker+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		rows := regexp.MustCompile(`(?m)^\| .*$`).FindAllString(section, -1)
		if !ok || len(rows) < 4 {
			t.Errorf("the threat model has %d rows on %q, want at least 4", len(rows), attacker)
			continue
		}
		for _, row := range rows[1:] {
			if !strings.Contains(row, "`Test") {
				t.Errorf("%s: no test is named in\n%s", attacker, row)
			}
		}
	}
}

// SECURITY.md names no unreachable address.
func TestSecurity_Contact_Exists(t *testing.T) {
	text := readText(t, "../../SECURITY.md")
	if address := regexp.MustCompile(`\S+@\S+\.\w+`).FindString(text); address != "" {
		t.Errorf("SECURITY.md names the address %s", address)
	}
	if !strings.Contains(text, "https://github.com/fleetconf/fleetconf/security/advisories/new") {
		t.Error("SECURITY.md does not link GitHub's private reports")
	}
}

func TestLicense_Mentions_Agree(t *testing.T) {
	text := readText(t, "../../LICENSE")
	if !strings.Contains(text, "Version 2.0, January 2004") || !strings.Contains(text, "END OF TERMS AND CONDITIONS") {
		t.Error("LICENSE is not the whole Apache License 2.0")
	}
	for file, want := range map[string]string{
		"../../deploy/Dockerfile":     "LICENSES=Apache-2.0\n",
		"../../deploy/deb/copyright":  "\nLicense: Apache-2.0\n",
		"../../deploy/deb/nfpm.yaml":  "\nlicense: Apache-2.0\n",
		"../../scripts/dist.sh":       " LICENSE ",
		"../../scripts/check-dist.sh": " LICENSE ",
	} {
		if !strings.Contains(readText(t, file), want) {
			t.Errorf("%s lacks %q", file, want)
		}
	}
}

func TestWorkflow_Vulnerabilities_Checked(t *testing.T) {
	for file, want := range map[string]string{
		"../../.github/workflows/ci.yml": "run: make vulncheck",
		"../../tools/go.mod":             "golang.org/x/vuln/cmd/govulncheck",
		"../../Makefile":                 "bin/tools/govulncheck -C $$m",
	} {
		if !strings.Contains(readText(t, file), want) {
			t.Errorf("%s lacks %q", file, want)
		}
	}
	for _, paper := range []string{"CHANGELOG.md", "CONTRIBUTING.md"} {
		if info, err := os.Stat("../../" + paper); err != nil || info.Size() < 1000 {
			t.Errorf("%s: %v, want it written", paper, err)
		}
	}
}
