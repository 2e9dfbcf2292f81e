package test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// metric is the type and the labels of a metric.
type metric struct {
	kind   string
	labels string // sorted, separated by spaces
}

// checkMetrics checks that the metrics of p are those under its heading in
// docs/metrics.md, and that promtool accepts them. Each metric must have a series.
func checkMetrics(t *testing.T, p *process, heading string) {
	t.Helper()
	a, err := call("", "GET", p.url()+"/metrics", "")
	must(t, err)
	if a.status != 200 || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		t.Fatalf("/metrics: got %v as %s, want 200 as text/plain", a, a.header.Get("Content-Type"))
	}
	served, documented := metricsIn(a.body), documentedMetrics(t, "All", heading)
	for _, name := range slices.Sorted(maps.Keys(served)) {
		if documented[name] != served[name] {
			t.Errorf("%s is %v, and %v in docs/metrics.md", name, served[name], documented[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if _, ok := served[name]; !ok {
			t.Errorf("%s is in docs/metrics.md, but not in /metrics of the %s", name, p.name)
		}
	}
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool is not installed (Debian: prometheus), so the names are not checked")
	}
	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(a.body)
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// metricsIn parses our own metrics.
func metricsIn(text string) map[string]metric {
	found := map[string]metric{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (fleetconf_\S+) (\S+)$`).FindAllStringSubmatch(text, -1) {
		name, kind := m[1], m[2]
		labels := map[string]bool{}
		for _, sample := range regexp.MustCompile(
			`(?m)^`+name+`(?:_bucket|_sum|_count)?\{(.*)\} `).FindAllStringSubmatch(text, -1) {
			for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(sample[1], -1) {
				if label[1] != "le" {
					labels[label[1]] = true
				}
			}
		}
		found[name] = metric{kind, strings.Join(slices.Sorted(maps.Keys(labels)), " ")}
	}
	return found
}

// documentedMetrics parses the tables under headings of docs/metrics.md.
func documentedMetrics(t *testing.T, headings ...string) map[string]metric {
	t.Helper()
	page, err := os.ReadFile("../docs/metrics.md")
	must(t, err)
	found := map[string]metric{}
	for _, heading := range headings {
		_, section, ok := strings.Cut(string(page), "\n## "+heading+"\n")
		if !ok {
			t.Fatalf("docs/metrics.md has no section %s", heading)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		for _, row := range regexp.MustCompile(
			"(?m)^\\| `(fleetconf_\\w+)` \\| (\\w+) \\|(.*?)\\|").FindAllStringSubmatch(section, -1) {
			labels := strings.Fields(strings.NewReplacer("`", "", ",", "").Replace(row[3]))
			slices.Sort(labels)
			found[row[1]] = metric{row[2], strings.Join(labels, " ")}
		}
	}
	return found
}

func TestMetrics_Controller_Documented(t *testing.T) {
	t.Parallel()
	controller := run(t, "controller", append(controllerIn(t.TempDir()),
		"PUSH=nats", "LIMIT_WAITING=1000", "NATS_URL=embedded", "NATS_LISTEN=127.0.0.1:0")...)
	version, err := publish(controller.url(), "http://localhost/")
	must(t, err)
	_, err = call(agents, "POST", controller.url()+"/api/v1/register", `{"hostname":"h","agent_id":"a1"}`)
	must(t, err)
	for _, path := range []string{"/health", "/nowhere"} {
		_, err := call("", "GET", controller.url()+path, "")
		must(t, err)
	}
	wanted := []string{
		fmt.Sprintf("fleetconf_controller_desired_version %d", version),
		`fleetconf_controller_agents{status="online"} 1`,
		`fleetconf_controller_announcements_total{outcome="taken",transport="nats"} 1`,
		`fleetconf_controller_http_requests_total{class="publish",code="200"} 1`,
		`fleetconf_controller_publishes_total{outcome="changed"} 1`,
		`fleetconf_controller_database_operation_duration_seconds_count{operation="register"} 1`,
		`fleetconf_controller_database_ready 1`,
		`fleetconf_controller_waiters_limit 1000`,
		"go_goroutines ",
	}
	eventually(t, func() error { // announcements are asynchronous
		a, err := call("", "GET", controller.url()+"/metrics", "")
		if err != nil {
			return err
		}
		for _, want := range wanted {
			if !strings.Contains(a.body, "\n"+want) {
				return fmt.Errorf("/metrics lacks %s:\n%s", want, a.body)
			}
		}
		return nil
	})
	checkMetrics(t, controller, "Controller")
}
