package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const prometheusFolder = "../deploy/prometheus"

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool is not installed (Debian: prometheus), so the rules are not checked")
	}
	cmd := exec.Command("promtool", args...)
	cmd.Dir = prometheusFolder
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestAlerts_RuleTests_Pass(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", "alerts.yml")
	promtool(t, "test", "rules", "alerts_test.yml")
}

func TestPrometheus_Config_Valid(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "config", "--syntax-only", "prometheus.yml")
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

// matches returns what the first group of pattern matches in text, each once.
func matches(pattern, text string) (found []string) {
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(found, match[1]) {
			found = append(found, match[1])
		}
	}
	return found
}

// Each alert has a section in the runbook, and a test that it fires.
func TestAlerts_Each_DocumentedAndTested(t *testing.T) {
	t.Parallel()
	rules := readText(t, filepath.Join(prometheusFolder, "alerts.yml"))
	tests := readText(t, filepath.Join(prometheusFolder, "alerts_test.yml"))
	runbook := readText(t, "../docs/operations.md")
	names := matches(`- alert: (\w+)`, rules)
	if len(names) < 20 {
		t.Fatalf("found %d alerts, want at least 20: has their format changed?", len(names))
	}
	for _, name := range names {
		anchor := "https://github.com/fleetconf/fleetconf/blob/main/docs/operations.md#" + strings.ToLower(name)
		for what, ok := range map[string]bool{
			"has no section in docs/operations.md": strings.Contains(runbook, "\n### "+name+"\n"),
			"does not link that section":           strings.Contains(rules, "runbook_url: "+anchor+"\n"),
			"does not fire in alerts_test.yml":     strings.Contains(tests, "runbook_url: "+anchor+"\n"),
			"is not silent in alerts_test.yml": regexp.MustCompile(
				`alertname: ` + name + `\n +exp_alerts: \[\]`).MatchString(tests),
			"has no label severity": regexp.MustCompile(
				`(?s)- alert: ` + name + `\n.*?severity: (page|ticket)`).MatchString(rules),
			"is not the whole heading of its section": !strings.Contains(runbook, "### "+name+" "),
		} {
			if !ok {
				t.Errorf("%s %s", name, what)
			}
		}
	}
	for _, name := range matches(`(?m)^### (Fleetconf\w+)$`, runbook) {
		if !slices.Contains(names, name) {
			t.Errorf("docs/operations.md has a section %s, but there is no such alert", name)
		}
	}
}

// Alerts and dashboard query only metrics in docs/metrics.md, which other tests compare
// with the programs.
func TestAlertsAndDashboard_Metrics_Documented(t *testing.T) {
	t.Parallel()
	measured := matches("(?m)^\\| `(\\w+)`", readText(t, "../docs/metrics.md"))
	for _, file := range []string{filepath.Join(prometheusFolder, "alerts.yml"),
		filepath.Join(prometheusFolder, "alerts_test.yml"), "../deploy/grafana/fleetconf.json"} {
		asked := matches(`\b(fleetconf_\w+)`, readText(t, file))
		if len(asked) < 10 {
			t.Errorf("%s queries %d metrics, want at least 10", file, len(asked))
		}
		for _, name := range asked {
			base := regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(name, "")
			if !slices.Contains(measured, name) && !slices.Contains(measured, base) {
				t.Errorf("%s queries %s, which docs/metrics.md does not list", file, name)
			}
		}
	}
}

func TestDashboard_JSON_Importable(t *testing.T) {
	t.Parallel()
	var dashboard struct {
		Title, UID string
		Panels     []struct {
			ID          int
			Type, Title string
			Targets     []struct {
				Expr string
			}
			GridPos struct{ X, Y, W, H int }
		}
	}
	must(t, json.Unmarshal([]byte(readText(t, "../deploy/grafana/fleetconf.json")), &dashboard))
	seen, places := map[int]bool{}, map[[2]int]bool{}
	var queries []map[string]string
	here := strings.NewReplacer("$__rate_interval", "5m", "$controller", ".*")
	for _, p := range dashboard.Panels {
		place := [2]int{p.GridPos.X, p.GridPos.Y}
		if seen[p.ID] || places[place] || p.Title == "" || p.GridPos.W == 0 || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q lacks an id, a position, a title or a query of its own", p.ID, p.Title)
		}
		seen[p.ID], places[place] = true, true
		for _, target := range p.Targets {
			queries = append(queries, map[string]string{"record": "dashboard:query",
				"expr": here.Replace(target.Expr)})
		}
	}
	if dashboard.UID == "" || len(seen) < 20 {
		t.Errorf("%q has %d panels, want at least 20", dashboard.Title, len(seen))
	}
	groups := make([]map[string]any, 0, len(queries)) // one each, because two rules of a group must differ
	for i, query := range queries {
		groups = append(groups, map[string]any{"name": strconv.Itoa(i), "rules": []any{query}})
	}
	file := filepath.Join(t.TempDir(), "queries.yml")
	body, err := json.Marshal(map[string]any{"groups": groups})
	must(t, err)
	must(t, os.WriteFile(file, body, 0o600))
	promtool(t, "check", "rules", file)
}
