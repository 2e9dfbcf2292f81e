package test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBenchPush_Quick: `make bench-push` measures all that it says, and nobody
// is left behind. What it measures in so short a time is not judged.
func TestBenchPush_Quick(t *testing.T) {
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
	for _, want := range []string{"peak to steady", "peak to polling", "nats, 200 agents: the server is within the controller"} {
		if !strings.Contains(table, want) {
			t.Errorf("got no %q:\n%s", want, table)
		}
	}
}

// TestBenchPush_FewFiles: where a process may not open the connections of all
// agents, several do; and a NATS server of its own takes them where they are too
// many for the controller.
func TestBenchPush_FewFiles(t *testing.T) {
	t.Parallel()
	table := benchPush(t, "-quick", "-files", "400", "-parts", "publish", "-transports", "nats")
	if want := "nats-server itself takes"; !strings.Contains(table, want) {
		t.Errorf("got no %q:\n%s", want, table)
	}
}

// benchPush returns the tables.
func benchPush(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "bench-push"), append(args,
		"-controller", filepath.Join(binaries, "controller"), "-nats-server", filepath.Join(binaries, "nats-server"))...)
	var table, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &table, &progress
	if err := cmd.Run(); err != nil {
		t.Fatalf("bench-push: %v\n%s\n%s", err, progress.String(), table.String())
	}
	return table.String()
}
