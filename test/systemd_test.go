package test

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// serviceManager receives the notifications of a process.
type serviceManager struct {
	path string

	mu       sync.Mutex
	received []string
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	m := &serviceManager{path: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	must(t, err)
	var listener sync.WaitGroup
	t.Cleanup(func() { conn.Close(); listener.Wait() })
	listener.Go(func() {
		buf := make([]byte, 4096)
		for n, err := conn.Read(buf); err == nil; n, err = conn.Read(buf) {
			m.mu.Lock()
			m.received = append(m.received, strings.Split(string(buf[:n]), "\n")...)
			m.mu.Unlock()
		}
	})
	return m
}

// count returns how often a message was received.
func (m *serviceManager) count(message string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, got := range m.received {
		if got == message {
			n++
		}
	}
	return n
}

// waitFor waits until a message was received at least times times.
func (m *serviceManager) waitFor(t *testing.T, message string, times int) {
	t.Helper()
	eventually(t, func() error {
		if got := m.count(message); got < times {
			return fmt.Errorf("received %s %d times, want %d", message, got, times)
		}
		return nil
	})
}

func TestServiceManager_Lifecycle_Notified(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"controller", "agent", "worker"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, dir := newServiceManager(t), t.TempDir()
			p := newProcess(name, "NOTIFY_SOCKET="+m.path, fmt.Sprintf("WATCHDOG_USEC=%d", time.Second.Microseconds()),
				"DB_PATH="+filepath.Join(dir, "controller.db"), "CACHE_FILE="+filepath.Join(dir, "agent_config.cache"))
			must(t, p.launch())
			cleanUp(t, p)
			m.waitFor(t, "READY=1", 1)
			addr := ""
			eventually(t, func() error { // the log may arrive later than the notification
				if addr = listenAddress(p.log.String()); addr == "" {
					return errors.New("no address in the log")
				}
				return nil
			})
			if a, err := call("", "GET", "http://"+addr+"/health", ""); err != nil || a.status != 200 {
				t.Errorf("GET /health after READY=1: got %v, %v, want 200", a, err)
			}
			m.waitFor(t, "WATCHDOG=1", 2)
			if n := m.count("STOPPING=1"); n != 0 {
				t.Error("it sent STOPPING=1 before a signal")
			}
			must(t, p.stop())
			m.waitFor(t, "STOPPING=1", 1)
			m.mu.Lock()
			defer m.mu.Unlock()
			if slices.Index(m.received, "READY=1") > slices.Index(m.received, "WATCHDOG=1") {
				t.Errorf("it sent WATCHDOG=1 before READY=1: %q", m.received)
			}
		})
	}
}
