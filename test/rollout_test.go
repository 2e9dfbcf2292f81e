package test

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rollout is the spread of a version, as the controller reports it.
type rollout struct {
	Version                                    int64
	SupersededBy                               *int64 `json:"superseded_by"`
	Targets, Applied, Failed, Pending, Offline int
	FirstAppliedAt                             *time.Time                            `json:"first_applied_at"`
	LatencyMS                                  struct{ P50, P90, P99, Max *float64 } `json:"latency_ms"`
	Failures                                   []failure
	Stragglers                                 []struct{ ID string }
}

type failure struct {
	Error        string
	Count        int
	SampleAgents []string `json:"sample_agents"`
}

// getRollout gets the rollout of a version; query may add a wait.
func getRollout(t *testing.T, controller *process, version int64, query string) (r rollout, status int) {
	t.Helper()
	a, err := call(admin, "GET", fmt.Sprintf("%s/api/v1/rollouts/%d%s", controller.url(), version, query), "")
	must(t, err)
	must(t, json.Unmarshal([]byte(a.body), &r))
	if r.Applied+r.Failed+r.Pending+r.Offline != r.Targets {
		t.Errorf("the rollout does not add up: %s", a.body)
	}
	return r, a.status
}

// counter is a proxy before the controller that counts the requests of an agent.
type counter struct {
	*httptest.Server
	polls, reports, others atomic.Int64
}

func newCounter(t *testing.T, controller *process) *counter {
	t.Helper()
	target, err := url.Parse(controller.url())
	must(t, err)
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.ErrorLog = log.New(io.Discard, "", 0) // of waits that agents abort
	c := &counter{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/config"):
			c.polls.Add(1)
		case strings.HasSuffix(r.URL.Path, "/status"):
			c.reports.Add(1)
		default:
			c.others.Add(1)
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(c.Close)
	return c
}

// One worker of twenty refuses a version. The admin sees that, the agent keeps its
// version and polls no more than another one, and all twenty apply the rollback.
func TestRollout_OneAgentOfTwentyRefuses_OthersApply(t *testing.T) {
	t.Parallel()
	const fleet = 20
	target := run(t, "target")
	controller := run(t, "controller", controllerIn(t.TempDir())...)
	refusing, accepting := newCounter(t, controller), newCounter(t, controller)
	elsewhere := strings.Replace(target.url(), "127.0.0.1", "localhost", 1)

	workers := make([]*process, fleet)
	var starting sync.WaitGroup
	for i := range workers {
		var env []string
		through := controller.url()
		switch i {
		case 0:
			env, through = []string{"ALLOW_HOSTS=127.0.0.1"}, refusing.URL
		case 1:
			through = accepting.URL
		}
		workers[i] = newProcess("worker", env...)
		cleanUp(t, workers[i])
		agent := newProcess("agent")
		cleanUp(t, agent)
		dir := t.TempDir()
		starting.Go(func() {
			if err := workers[i].start(); err != nil {
				t.Error(err)
				return
			}
			agent.env = append(agentIn(dir, through, workers[i].url()), "PUSH=none")
			if err := agent.start(); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	eventually(t, func() error {
		list, _, err := get[[]any](admin, controller.url()+"/api/v1/agents")
		if err == nil && len(list) != fleet {
			err = fmt.Errorf("%d agents are registered, want %d", len(list), fleet)
		}
		return err
	})

	first, err := publish(controller.url(), target.url()+"/good")
	must(t, err)
	if r, status := getRollout(t, controller, first, "?wait=60s"); status != http.StatusOK || r.Applied != fleet ||
		r.LatencyMS.Max == nil || r.FirstAppliedAt == nil {
		t.Fatalf("the first version: got %d %+v, want 200 with all %d applied, measured", status, r, fleet)
	}

	second, err := publish(controller.url(), elsewhere+"/bad")
	must(t, err)
	if r, status := getRollout(t, controller, second, "?wait=60s&applied=0.95"); status != http.StatusOK ||
		r.Applied != fleet-1 {
		t.Fatalf("the version that one refuses: got %d %+v, want 200 with %d applied", status, r, fleet-1)
	}
	var refused rollout
	eventually(t, func() error {
		if refused, _ = getRollout(t, controller, second, ""); refused.Failed != 1 {
			return fmt.Errorf("got %+v, want one that failed", refused)
		}
		return nil
	})
	if len(refused.Failures) != 1 || !strings.Contains(refused.Failures[0].Error, "ALLOW_HOSTS") ||
		len(refused.Failures[0].SampleAgents) != 1 {
		t.Errorf("the failures: got %+v, want one agent, with its worker's error message", refused.Failures)
	}
	must(t, checkHit(workers[0].url(), "target /good"))
	must(t, checkHit(workers[1].url(), "target /bad"))
	if _, status := getRollout(t, controller, second, "?wait=1s&applied=1"); status != http.StatusRequestTimeout {
		t.Errorf("a share that is not reached: got %d, want 408", status)
	}

	// The agent whose worker refused polls like another one.
	polls, reports, others, steps := refusing.polls.Load(), refusing.reports.Load(), refusing.others.Load(),
		accepting.polls.Load()
	eventually(t, func() error {
		if n := accepting.polls.Load() - steps; n < 8 {
			return fmt.Errorf("the other agent has polled %d times, want 8", n)
		}
		return nil
	})
	if n := refusing.polls.Load() - polls; n > 12 { // each waits 0.9 to 1.1 intervals
		t.Errorf("the agent whose worker refused polled %d times while another one polled 8 times", n)
	}
	if n := refusing.reports.Load() - reports; n != 0 {
		t.Errorf("it sent %d more reports, want none", n)
	}
	if n := refusing.others.Load() - others; n != 0 {
		t.Errorf("it sent %d other requests, want none", n)
	}

	a, err := call(admin, "POST", fmt.Sprintf("%s/api/v1/configs/%d/rollback", controller.url(), first),
		`{"message":"one refuses"}`)
	must(t, err)
	var back struct{ Version int64 }
	must(t, json.Unmarshal([]byte(a.body), &back))
	if r, status := getRollout(t, controller, back.Version, "?wait=60s&applied=1"); status != http.StatusOK ||
		r.Applied != fleet {
		t.Fatalf("the rollback: got %d %+v, want 200 with all %d", status, r, fleet)
	}
	for _, worker := range workers {
		must(t, checkHit(worker.url(), "target /good"))
	}
	if r, _ := getRollout(t, controller, second, ""); r.Applied != fleet-1 || r.Failed != 1 ||
		r.SupersededBy == nil || *r.SupersededBy != back.Version {
		t.Errorf("the superseded version: got %+v, want its last figures, superseded by %d", r, back.Version)
	}
}

// Acknowledged reports are kept after a kill -9, without a new report.
func TestRollout_ControllerKilled_ReportsKept(t *testing.T) {
	t.Parallel()
	controller := run(t, "controller", controllerIn(t.TempDir())...)
	const fleet = 12
	who := make([]string, fleet)
	for i := range who {
		a, err := call(agents, "POST", controller.url()+"/api/v1/register",
			fmt.Sprintf(`{"hostname":"web-%d","agent_id":"a%d"}`, i, i))
		must(t, err)
		var self struct {
			ID    string `json:"agent_id"`
			Token string `json:"agent_token"`
		}
		must(t, json.Unmarshal([]byte(a.body), &self))
		who[i] = self.ID + ":" + self.Token
	}
	version, err := publish(controller.url(), "http://example.com/")
	must(t, err)

	// A third applies it, a third refuses it, and then the controller is killed.
	var reporting sync.WaitGroup
	for i, self := range who[:8] {
		reporting.Go(func() {
			body := fmt.Sprintf(`{"version":%d,"status":"APPLIED"}`, version)
			if i%2 == 1 {
				body = fmt.Sprintf(`{"version":%d,"status":"FAILED","error":"no room"}`, version)
			}
			a, err := call(self, "POST", fmt.Sprintf("%s/api/v1/agents/a%d/status", controller.url(), i), body)
			if err != nil || a.status != http.StatusNoContent {
				t.Errorf("report: got %v %v, want 204", a, err)
			}
		})
	}
	reporting.Wait()
	before, _ := getRollout(t, controller, version, "")
	must(t, controller.crash())
	must(t, controller.start())

	after, _ := getRollout(t, controller, version, "")
	if after.Applied != 4 || after.Failed != 4 || after.Targets != fleet || len(after.Failures) != 1 ||
		after.Failures[0].Error != "no room" {
		t.Errorf("after the crash: got %+v, want 4 applied, and 4 failed with their error", after)
	}
	if after.LatencyMS.Max == nil || *after.LatencyMS.Max != *before.LatencyMS.Max ||
		!after.FirstAppliedAt.Equal(*before.FirstAppliedAt) {
		t.Errorf("the latencies: got %+v, want those from before the crash, %+v", after.LatencyMS, before.LatencyMS)
	}

	// The others report, and the wait ends.
	opened := make(chan int, 1)
	go func() {
		_, status := getRollout(t, controller, version, "?wait=30s&applied=0.66")
		opened <- status
	}()
	for i, self := range who[8:] {
		a, err := call(self, "POST", fmt.Sprintf("%s/api/v1/agents/a%d/status", controller.url(), i+8),
			fmt.Sprintf(`{"version":%d,"status":"APPLIED"}`, version))
		if err != nil || a.status != http.StatusNoContent {
			t.Errorf("report: got %v %v, want 204", a, err)
		}
	}
	if status := <-opened; status != http.StatusOK {
		t.Errorf("the wait: got %d, want 200", status)
	}
}

// A controller with a database from an older backup does not downgrade agents.
func TestRestore_OlderDatabase_AgentsKeepVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := run(t, "target")
	controller := run(t, "controller", controllerIn(dir)...)
	worker := run(t, "worker")
	through := newCounter(t, controller)
	run(t, "agent", append(agentIn(dir, through.URL, worker.url()), "PUSH=none")...)

	_, err := publish(controller.url(), target.url()+"/old")
	must(t, err)
	getRollout(t, controller, 1, "?wait=60s")
	must(t, backUp(dir, "old.db"))
	for _, page := range []string{"/newer", "/newest"} {
		version, err := publish(controller.url(), target.url()+page)
		must(t, err)
		if _, status := getRollout(t, controller, version, "?wait=60s"); status != http.StatusOK {
			t.Fatalf("version %d was not applied", version)
		}
	}

	restore := func() {
		must(t, controller.crash())
		restoreOld(t, dir)
		must(t, controller.start())
	}
	conflict := func() error {
		list, a, err := get[[]struct {
			Status  string
			Applied int64 `json:"applied_version"`
		}](admin, controller.url()+"/api/v1/agents?status=conflict")
		if err == nil && (len(list) != 1 || list[0].Applied != 3) {
			err = fmt.Errorf("the agents in conflict: got %v, want the one that runs version 3", a)
		}
		return err
	}

	// From here on each hit uses the newest version, until an admin decides.
	watched, stop := make(chan error, 1), make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				watched <- nil
				return
			default:
			}
			if err := checkHit(worker.url(), "target /newest"); err != nil {
				watched <- err
				return
			}
			time.Sleep(checkEvery)
		}
	}()
	restore()
	eventually(t, conflict)
	polls := through.polls.Load()
	eventually(t, func() error {
		if n := through.polls.Load() - polls; n < 4 {
			return fmt.Errorf("the agent has polled %d times since, want 4", n)
		}
		return nil
	})
	a, err := call("", "GET", controller.url()+"/ready", "")
	must(t, err)
	if a.status != http.StatusOK || !strings.Contains(a.body, "conflict") {
		t.Errorf("/ready: got %v, want 200 and the conflict", a)
	}
	if !strings.Contains(controller.log.String(), "restored from an older backup") {
		t.Error("the log does not mention the older backup")
	}
	close(stop)
	must(t, <-watched)

	// An admin publishes: the version is above all earlier ones.
	version, err := publish(controller.url(), target.url()+"/decided")
	must(t, err)
	if version != 4 {
		t.Errorf("the next version: got %d, want 4, above what the agent runs", version)
	}
	eventually(t, func() error { return checkHit(worker.url(), "target /decided") })

	// Or makes the agents follow the old store.
	restore()
	eventually(t, func() error {
		a, err := call("", "GET", controller.url()+"/ready", "")
		if err == nil && !strings.Contains(a.body, "conflict") {
			err = fmt.Errorf("/ready: got %v, want the conflict", a)
		}
		return err
	})
	must(t, checkHit(worker.url(), "target /decided"))
	a, err = call(admin, "POST", controller.url()+"/api/v1/agents/resume", "")
	must(t, err)
	if a.status != http.StatusOK {
		t.Errorf("resume: got %v, want 200", a)
	}
	eventually(t, func() error { return checkHit(worker.url(), "target /old") })
}

// backUp copies the database of a running controller within a directory.
func backUp(dir, name string) error {
	p := newProcess("controller", "DB_PATH="+filepath.Join(dir, "controller.db"))
	p.args = []string{"backup", filepath.Join(dir, name)}
	if err := p.launch(); err != nil {
		return err
	}
	return p.waitExit(0)
}
