package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/cache"
	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// BenchmarkStart measures the real agent and worker: the time from the start of an agent
// whose controller is unavailable until its empty worker answers the first hit from the
// cache, and the memory of both when idle. The limits are 100 ms and 12 MiB each.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	agentBinary, workerBinary := build(b, dir, "agent"), build(b, dir, "worker")
	target := httptest.NewServer(http.HandlerFunc(func(
		w http.ResponseWriter, _ *http.Request,
	) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer target.Close()
	cacheFile := filepath.Join(dir, "cache")
	file, err := cache.Open(cacheFile)
	if err != nil {
		b.Fatal(err)
	}
	err = file.Save(state.Stored{
		Identity: protocol.Identity{AgentID: "agent-7", AgentToken: "token"},
		LastGood: &protocol.Release{
			ETag: `"e7"`, Config: wire.Config{Version: 7, Data: wire.Data{URL: target.URL}, PollIntervalSeconds: 30},
			FetchedAt: time.Now(),
		},
	})
	if err := errors.Join(err, file.Close()); err != nil {
		b.Fatal(err)
	}
	workerPort := freePort(b)
	hit := "http://127.0.0.1:" + workerPort + "/hit"

	pair := func() (agent, worker *exec.Cmd, took time.Duration) {
		worker = start(b, workerBinary, "PORT="+workerPort)
		wait(b, hit, http.StatusServiceUnavailable) // it listens and runs nothing
		began := time.Now()
		agent = start(
			b, agentBinary, "PORT=0", "CONTROLLER_URL=http://127.0.0.1:1", "WORKER_URL=http://127.0.0.1:"+workerPort,
			"CACHE_FILE="+cacheFile,
		)
		wait(b, hit, http.StatusOK)
		return agent, worker, time.Since(began)
	}
	var sum, slowest time.Duration
	runs := 0
	for b.Loop() {
		agent, worker, took := pair()
		sum, slowest, runs = sum+took, max(slowest, took), runs+1
		b.StopTimer()
		kill(agent, worker)
		b.StartTimer()
	}
	b.ReportMetric(0, "ns/op") // it would count the worker's start too
	b.ReportMetric(float64(sum.Microseconds())/float64(runs)/1000, "ms-to-hit")
	b.ReportMetric(float64(slowest.Microseconds())/1000, "ms-to-hit-max")

	agent, worker, _ := pair()
	defer kill(agent, worker)
	time.Sleep(10 * time.Second) // ten idle cycles
	b.ReportMetric(residentMiB(b, agent), "agent-MiB")
	b.ReportMetric(residentMiB(b, worker), "worker-MiB")
}

// build builds the binary of a module as the Makefile does.
func build(b *testing.B, dir, module string) string {
	b.Helper()
	binary := filepath.Join(dir, module)
	cmd := exec.Command(
		"go", "build", "-trimpath", "-tags", "nomsgpack,osusergo,netgo", "-ldflags", "-s -w", "-o", binary, "./cmd",
	)
	cmd.Dir = filepath.Join("..", "..", module)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build %s: %v\n%s", module, err, out)
	}
	return binary
}

func start(b *testing.B, binary string, env ...string) *exec.Cmd {
	b.Helper()
	cmd := exec.Command(binary)
	cmd.Env = env
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { kill(cmd) })
	return cmd
}

// kill ends processes. It may be called more than once.
func kill(cmds ...*exec.Cmd) {
	for _, cmd := range cmds {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// wait requests url until the answer has a status.
func wait(b *testing.B, url string, status int) {
	b.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Microsecond) {
		resp, err := client.Get(url)
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == status {
			return
		}
	}
	b.Fatalf("%s did not answer %d within 10 s", url, status)
}

func freePort(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	return port
}

var vmRSS = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

func residentMiB(b *testing.B, cmd *exec.Cmd) float64 {
	b.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
	if err != nil {
		b.Skipf("this system has no /proc: %v", err)
	}
	found := vmRSS.FindStringSubmatch(strings.TrimSpace(string(status)))
	if found == nil {
		b.Fatalf("no VmRSS in\n%s", status)
	}
	kiB, _ := strconv.ParseFloat(found[1], 64) // digits only
	return kiB / 1024
}
