package test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/test/internal/swarm"
)

// `make bench-push` measures all transports, and every agent gets every version. The
// figures of so short a run are not checked.
func TestBenchPush_Quick_PrintsAllTables(t *testing.T) {
	t.Parallel()
	transports := []string{"longpoll", "redis", "nats", "none"}
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Log("redis-server is not installed: without redis")
		transports = []string{"longpoll", "nats", "none"}
	}
	table := benchPush(t, "-quick", "-transports", strings.Join(transports, ","))
	for _, transport := range transports {
		if transport == "none" {
			transport = "polling, 3s"
		}
		if got := strings.Count(table, " "+transport+" |"); got != 2 {
			t.Errorf("got %d rows of %s, want one of a publish and one idle:\n%s", got, transport, table)
		}
	}
	for _, want := range []string{"peak to steady", "peak to polling",
		"nats, 200 agents: the server is embedded in the controller"} {
		if !strings.Contains(table, want) {
			t.Errorf("got no %q:\n%s", want, table)
		}
	}
}

// If the limit of open files is too low for all connections, several processes run the
// agents, and a separate NATS server replaces the embedded one.
func TestBenchPush_FewFiles_UsesSeveralProcesses(t *testing.T) {
	t.Parallel()
	table := benchPush(t, "-quick", "-files", "400", "-parts", "publish", "-transports", "nats")
	if want := "nats-server itself takes"; !strings.Contains(table, want) {
		t.Errorf("got no %q:\n%s", want, table)
	}
}

// Simulated agents send the same headers as real ones, so that bench-push counts the
// same bytes.
func TestSwarm_Requests_EqualRealAgents(t *testing.T) {
	t.Parallel()
	controller, worker := run(t, "controller", controllerIn(t.TempDir())...), run(t, "worker")
	inner, err := url.Parse(controller.url())
	must(t, err)
	var (
		mu   sync.Mutex
		seen = map[string]map[string]string{} // the latest headers, by method, path and kind of agent
	)
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(inner)
		who, _, _ := r.In.BasicAuth()
		path, _, _ := strings.Cut(r.In.URL.Path, who)
		if strings.HasPrefix(who, "sim-") {
			path += " simulated"
		}
		headers := map[string]string{}
		for name, values := range r.In.Header {
			headers[name] = strings.Join(values, ", ")
		}
		headers["Authorization"] = strings.Repeat("*", len(headers["Authorization"]))
		if headers["X-Request-Id"] != "" {
			headers["X-Request-Id"] = "12 or 13 characters"
		}
		mu.Lock()
		defer mu.Unlock()
		seen[r.In.Method+" "+path] = headers
	}})
	defer proxy.Close()
	defer proxy.CloseClientConnections() // of waiters

	_, err = call(admin, "POST", controller.url()+"/api/v1/config", `{"url":"http://target.example/"}`)
	must(t, err)
	run(t, "agent", agentIn(t.TempDir(), proxy.URL, worker.url())...)
	who, err := swarm.Register(t.Context(), inner.Host, 0, 1, func(int) {})
	must(t, err)
	s := swarm.Start(t.Context(), swarm.Options{
		Transport: swarm.LongPoll, Controller: strings.TrimPrefix(proxy.URL, "http://"), Agents: who,
		PollInterval: time.Second, PerSecond: 1,
	})
	defer s.Stop()
	for _, request := range []string{"GET /api/v1/config", "POST /api/v1/agents/"} {
		eventually(t, func() error {
			mu.Lock()
			defer mu.Unlock()
			agent, simulated := seen[request], seen[request+" simulated"]
			if agent == nil || !maps.Equal(agent, simulated) {
				return fmt.Errorf("%s of a simulated agent: got %v, want %v", request, simulated, agent)
			}
			return nil
		})
	}
}

// benchPush runs bench-push and returns its tables.
func benchPush(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "bench-push"), append(args,
		"-controller", filepath.Join(binaries, "controller"), "-nats-server",
		filepath.Join(binaries, "nats-server"))...)
	var table, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &table, &progress
	if err := cmd.Run(); err != nil {
		t.Fatalf("bench-push: %v\n%s\n%s", err, progress.String(), table.String())
	}
	return table.String()
}
