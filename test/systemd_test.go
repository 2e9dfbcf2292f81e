package test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// serviceManager hears what a process tells the one that started it.
type serviceManager struct {
	path string

	mu    sync.Mutex
	heard []string
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
			m.heard = append(m.heard, strings.Split(string(buf[:n]), "\n")...)
			m.mu.Unlock()
		}
	})
	return m
}

// times is how often it heard a message.
func (m *serviceManager) times(message string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, heard := range m.heard {
		if heard == message {
			n++
		}
	}
	return n
}

// wants waits until it heard a message so often.
func (m *serviceManager) wants(t *testing.T, message string, times int) {
	t.Helper()
	eventually(t, func() error {
		if got := m.times(message); got < times {
			return fmt.Errorf("the service manager heard %s %d times, want %d", message, got, times)
		}
		return nil
	})
}

func TestServiceManager_Lifecycle_Notified(t *testing.T) {
	for _, name := range []string{"controller", "agent", "worker"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, dir := newServiceManager(t), t.TempDir()
			p := newProcess(name, "NOTIFY_SOCKET="+m.path, fmt.Sprintf("WATCHDOG_USEC=%d", time.Second.Microseconds()),
				"DB_PATH="+filepath.Join(dir, "controller.db"), "CACHE_FILE="+filepath.Join(dir, "agent_config.cache"))
			must(t, p.launch())
			tidy(t, p)
			m.wants(t, "READY=1", 1)
			addr := listening(p.log.String())
			if a, err := call("", "GET", "http://"+addr+"/health", ""); err != nil || a.status != 200 {
				t.Errorf("when it is ready, GET /health gives %v, %v, want 200", a, err)
			}
			m.wants(t, "WATCHDOG=1", 2)
			if n := m.times("STOPPING=1"); n != 0 {
				t.Error("it said that it stops, and was not told to")
			}
			must(t, p.stop())
			m.wants(t, "STOPPING=1", 1)
			m.mu.Lock()
			defer m.mu.Unlock()
			if slices.Index(m.heard, "READY=1") > slices.Index(m.heard, "WATCHDOG=1") {
				t.Errorf("it fed the watchdog before it was ready: %q", m.heard)
			}
		})
	}
}
