package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// documented returns the metrics in a section of docs/metrics.md, with their types.
func documented(t *testing.T, section string) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../docs/metrics.md")
	must(t, err)
	_, text, found := strings.Cut("\n"+string(page), "\n## "+section+"\n")
	if !found {
		t.Fatalf("docs/metrics.md has no section %s", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	types := map[string]string{}
	for line := range strings.Lines(text) {
		row, isRow := strings.CutPrefix(line, "| `")
		if name, rest, ok := strings.Cut(row, "` | "); ok && isRow {
			types[name], _, _ = strings.Cut(rest, " |")
		}
	}
	return types
}

// exposed returns a program's own metrics, with their types.
func exposed(t *testing.T, p *process) map[string]string {
	t.Helper()
	a, err := call("", "GET", p.url()+"/metrics", "")
	must(t, err)
	if a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		t.Fatalf("%s: GET /metrics: got %d %s, want 200 and text", p.name, a.status, a.header.Get("Content-Type"))
	}
	types := map[string]string{}
	for line := range strings.Lines(a.body) {
		if words := strings.Fields(line); strings.HasPrefix(line, "# TYPE fleetconf_"+p.name+"_") {
			types[words[2]] = words[3]
		}
	}
	return types
}

// observed returns a site with a broker on which every measured event has happened.
func observed(t *testing.T) *site {
	t.Helper()
	addr := freeAddress(t)
	s := newSite(t, embeddedSettings(addr), []string{"PUSH=nats", "NATS_URL=nats://" + addr})
	s.publishAndWait(t, "/page")
	for _, p := range []*process{s.agent, s.worker} {
		exposed(t, p) // the first request is counted after its response
	}
	return s
}

func TestMetrics_AgentAndWorker_Documented(t *testing.T) {
	t.Parallel()
	s := observed(t)
	for section, p := range map[string]*process{"Agent": s.agent, "Worker": s.worker} {
		want, got := documented(t, section), exposed(t, p)
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got[name] != want[name] {
				t.Errorf("docs/metrics.md has %s, a %s; the %s exposes %q", name, want[name], p.name, got[name])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(got)) {
			if want[name] == "" {
				t.Errorf("the %s exposes %s, which docs/metrics.md does not have", p.name, name)
			}
		}
	}
}

func TestMetrics_AgentAndWorker_PassPromtool(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: prometheus), so the names are not checked: ", err)
	}
	s := observed(t)
	for _, p := range []*process{s.agent, s.worker} {
		a, err := call("", "GET", p.url()+"/metrics", "")
		must(t, err)
		check := exec.Command(promtool, "check", "metrics")
		check.Stdin = strings.NewReader(a.body)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool check metrics of the %s: %v\n%s", p.name, err, out)
		}
	}
}

// lines are what a program logged with a message.
func (p *process) lines(message string) (found []map[string]any) {
	for line := range strings.Lines(p.log.String()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

// has returns the line of a message with this value of a field.
func (p *process) has(message, field string, value any) (map[string]any, error) {
	for _, line := range p.lines(message) {
		if line[field] == value {
			return line, nil
		}
	}
	return nil, fmt.Errorf("the %s has logged no %q with %s %v", p.name, message, field, value)
}

// What an operator does who wonders how a version came to a worker: follow the
// request ids, from the controller's log to the agent's and to the worker's.
func TestRequestID_OneVersion_SameInThreeLogs(t *testing.T) {
	t.Parallel()
	debug := "LOG_LEVEL=debug"
	target, worker := run(t, "target"), run(t, "worker", debug)
	controller := run(t, "controller", append(controllerIn(t.TempDir()), debug)...)
	agent := run(t, "agent", append(agentIn(t.TempDir(), controller.url(), worker.url()), debug)...)
	version, err := publish(controller.url(), target.url()+"/page")
	must(t, err)
	eventually(t, func() error { return checkHit(worker.url(), "target /page") })

	for _, hop := range []struct {
		message string
		to      *process
		there   string
	}{
		{"Configuration fetched", controller, "Request answered"},
		{"Configuration applied", worker, "Configuration applied"},
		{"Reported", controller, "Request answered"},
	} {
		eventually(t, func() error {
			line, err := agent.has(hop.message, "version", float64(version))
			if err != nil {
				return err
			}
			id, _ := line["request_id"].(string)
			if id == "" {
				return fmt.Errorf("the agent's %q has no request id", hop.message)
			}
			_, err = hop.to.has(hop.there, "request_id", id)
			return err
		})
	}
	self, _, err := get[status]("", agent.url()+"/status")
	must(t, err)
	before := true
	for line := range strings.Lines(agent.log.String()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) != nil {
			continue
		}
		if before = before && fields["msg"] != "Registered"; !before && fields["agent"] != self.AgentID {
			t.Errorf("after its registration the agent logs %s, want its id %s on each line", line, self.AgentID)
		}
	}
	if before {
		t.Error("the agent has logged no registration")
	}
}

// A hit has one request id: for the caller, for the target, and in the log.
func TestRequestID_Hit_ReachesTarget(t *testing.T) {
	t.Parallel()
	seen := make(chan []string, 10)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header["X-Request-Id"]
		w.Header().Set("X-Request-Id", "of-the-target")
	}))
	t.Cleanup(target.Close)
	worker := run(t, "worker")
	a, err := call("", "POST", worker.url()+"/config", fmt.Sprintf(`{"url":%q,"version":1}`, target.URL))
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("push: got %v %v, want 200", a, err)
	}
	for name, sent := range map[string]string{"the caller's": "of-the-caller", "made here": ""} {
		var header []string
		if sent != "" {
			header = []string{"X-Request-Id: " + sent}
		}
		a, err := call("", "GET", worker.url()+"/hit", "", header...)
		must(t, err)
		returned, reached := a.header["X-Request-Id"], <-seen
		if len(returned) != 1 || !slices.Equal(returned, reached) || returned[0] == "" ||
			sent != "" && returned[0] != sent {
			t.Errorf("%s: the caller got %q and the target %q, want one id, %q", name, returned, reached, sent)
		}
	}
}
