package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Idle clients hold more connections than the limit of open files of each program: hits,
// polls, publishes and health checks go on.
func TestConnections_MoreThanFiles_OthersServed(t *testing.T) {
	t.Parallel()
	s := &site{target: run(t, "target")}
	few := func(name string, env ...string) *process {
		p := newProcess(name, env...)
		p.maxFiles = 300
		must(t, p.start())
		cleanUp(t, p)
		return p
	}
	s.worker = few("worker")
	s.controller = few("controller", controllerIn(t.TempDir())...)
	s.agent = few("agent", agentIn(t.TempDir(), s.controller.url(), s.worker.url())...)
	s.publishAndWait(t, "/before")
	// The oldest idle connection, but authenticated as admin.
	kept, err := net.DialTimeout("tcp", s.controller.addr, timeout)
	must(t, err)
	defer kept.Close()
	answers := bufio.NewReader(kept)
	ask := func() {
		t.Helper()
		r, err := http.NewRequest("GET", s.controller.url()+"/api/v1/config", nil)
		must(t, err)
		user, password, _ := strings.Cut(admin, ":")
		r.SetBasicAuth(user, password)
		must(t, r.Write(kept))
		resp, err := http.ReadResponse(answers, r)
		must(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		must(t, err)
		if resp.StatusCode != 200 {
			t.Errorf("on an authenticated connection: got %d, want 200", resp.StatusCode)
		}
	}
	ask()
	for _, p := range []*process{s.controller, s.agent, s.worker} {
		for i := range 500 {
			conn, err := net.DialTimeout("tcp", p.addr, timeout)
			must(t, err)
			defer conn.Close()
			if i%5 != 0 { // the others send nothing, and are closed after a few seconds
				_, _ = io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: "+p.addr+"\r\n\r\n")
			}
		}
	}
	ask()
	began := time.Now()
	for _, p := range []*process{s.controller, s.agent, s.worker} {
		health := command(filepath.Join(binaries, p.name), []string{"PORT=" + p.port}, "health")
		if out, err := health.CombinedOutput(); err != nil {
			t.Errorf("%s health: %v\n%s", p.name, err, out)
		}
	}
	for i := range 3 {
		s.publishAndWait(t, fmt.Sprintf("/after/%d", i))
	}
	if took := time.Since(began); took > timeout/2 {
		t.Errorf("it took %s", took)
	}
}
