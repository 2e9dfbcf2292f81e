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
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "bench-push"), "-quick",
		"-controller", filepath.Join(binaries, "controller"), "-transports", strings.Join(transports, ","))
	var table, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &table, &progress
	if err := cmd.Run(); err != nil {
		t.Fatalf("bench-push: %v\n%s\n%s", err, progress.String(), table.String())
	}
	for _, transport := range transports {
		if transport == "none" {
			transport = "polling, 3s"
		}
		if got := strings.Count(table.String(), " "+transport+" |"); got != 2 {
			t.Errorf("got %d rows of %s, want one of a publish and one idle:\n%s", got, transport, table.String())
		}
	}
	if !strings.Contains(table.String(), "peak to steady") {
		t.Errorf("got no herd:\n%s", table.String())
	}
}
