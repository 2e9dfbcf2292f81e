package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/systemd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const watchdog = 30 * time.Second

// manager is the socket of a service manager.
type manager struct{ conn *net.UnixConn }

// supervise makes this process one that a service manager started, whose unit
// has this WatchdogSec.
func supervise(t *testing.T, limit string) manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", limit)
	t.Setenv("WATCHDOG_PID", "")
	return manager{conn}
}

// received is what came since it was last asked; all of it is there already.
func (m manager) received(t *testing.T) (messages []string) {
	t.Helper()
	raw, err := m.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, err := syscall.Read(int(fd), buf) // does not wait: the socket is Go's
			if err != nil {
				return true
			}
			messages = append(messages, strings.Split(string(buf[:n]), "\n")...)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

func (m manager) wants(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, m.received(t)); diff != "" {
		t.Errorf("%s the service manager heard (-want +got):\n%s", when, diff)
	}
}

// process is one whose health is what the test says.
type process struct {
	broken atomic.Bool // its health check fails
	hangs  atomic.Bool // its health check does not end
}

func (p *process) healthy(ctx context.Context) error {
	if p.hangs.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if p.broken.Load() {
		return errors.New("connection refused")
	}
	return nil
}

// run reports on p; stop ends that and gives its error.
func (p *process) run(t *testing.T) (stop func() error) {
	t.Helper()
	log, _ := logtest.NewNullLogger()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- systemd.Run(ctx, p.healthy, log) }() // ends with ctx
	return func() error { cancel(); return <-done }
}

func TestRun_NotifiesReadyThenStopping(t *testing.T) {
	socket := supervise(t, "")
	synctest.Test(t, func(t *testing.T) {
		p := &process{}
		p.broken.Store(true)
		stop := p.run(t)
		time.Sleep(time.Minute)
		socket.wants(t, "before it answers", "STATUS=Starting")
		p.broken.Store(false)
		time.Sleep(time.Second)
		socket.wants(t, "when it answers", "READY=1", "STATUS=Serving")
		time.Sleep(time.Hour)
		socket.wants(t, "without a watchdog")
		if err := stop(); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		socket.wants(t, "at the end", "STOPPING=1", "STATUS=Draining requests in flight")
	})
}

func TestRun_CanceledBeforeReady(t *testing.T) {
	socket := supervise(t, "")
	synctest.Test(t, func(t *testing.T) {
		p := &process{}
		p.hangs.Store(true)
		stop := p.run(t)
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		socket.wants(t, "in all", "STATUS=Starting", "STOPPING=1")
	})
}

func TestRun_NotifiesWatchdogTwicePerInterval(t *testing.T) {
	socket := supervise(t, "30000000")
	synctest.Test(t, func(t *testing.T) {
		stop := new(process).run(t)
		socket.wants(t, "at the start", "STATUS=Starting", "READY=1", "STATUS=Serving")
		for range 3 {
			time.Sleep(watchdog/2 + time.Millisecond)
			socket.wants(t, "after half of its time", "WATCHDOG=1")
		}
		_ = stop()
	})
}

func TestRun_Unhealthy_NoWatchdogNotification(t *testing.T) {
	for name, breaks := range map[string]func(*process){
		"its check fails": func(p *process) { p.broken.Store(true) },
		"it hangs":        func(p *process) { p.hangs.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			socket := supervise(t, "30000000")
			synctest.Test(t, func(t *testing.T) {
				p := &process{}
				stop := p.run(t)
				synctest.Wait()
				socket.received(t)
				breaks(p)
				time.Sleep(10 * watchdog)
				socket.wants(t, "since", "STATUS=Does not answer")
				_ = stop()
			})
		})
	}
}

// One check that takes too long is made good before the watchdog bites.
func TestRun_FailedCheck_IsRepeatedSoon(t *testing.T) {
	socket := supervise(t, "30000000")
	synctest.Test(t, func(t *testing.T) {
		p := &process{}
		stop := p.run(t)
		synctest.Wait()
		socket.received(t)
		p.hangs.Store(true)
		time.Sleep(watchdog/2 + time.Second)
		p.hangs.Store(false)
		time.Sleep(watchdog/2 - time.Second - time.Millisecond)
		socket.wants(t, "before the watchdog bites", "STATUS=Does not answer", "WATCHDOG=1", "STATUS=Serving")
		_ = stop()
	})
}

func TestRun_NoServiceManager_DoesNothing(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	log, lines := logtest.NewNullLogger()
	err := systemd.Run(t.Context(), func(context.Context) error {
		t.Error("the process was checked without a service manager")
		return nil
	}, log)
	if err != nil || len(lines.AllEntries()) > 0 {
		t.Errorf("Run = %v, and it logged %v; want nothing", err, lines.AllEntries())
	}
}

// A shell under a service passes its socket on, and the socket
// may be gone by then: that is no reason for a program not to run.
func TestRun_NoListenerAtSocket_WarnsOnce(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	t.Setenv("WATCHDOG_USEC", "")
	synctest.Test(t, func(t *testing.T) {
		log, lines := logtest.NewNullLogger()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- systemd.Run(ctx, new(process).healthy, log) }() // ends with stop
		time.Sleep(time.Hour)
		select {
		case err := <-done:
			t.Fatalf("Run = %v before ctx ended, which ends the process", err)
		default:
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if all := lines.AllEntries(); len(all) != 1 ||
			!strings.Contains(fmt.Sprint(all[0].Data[logrus.ErrorKey]), "NOTIFY_SOCKET") {
			t.Errorf("logged %v, want one line that names NOTIFY_SOCKET", all)
		}
	})
}

func TestRun_ServiceManagerDisappears_ReturnsNil(t *testing.T) {
	socket := supervise(t, "")
	synctest.Test(t, func(t *testing.T) {
		stop := new(process).run(t)
		socket.wants(t, "at the start", "STATUS=Starting", "READY=1", "STATUS=Serving")
		socket.conn.Close()
		if err := stop(); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
}

func TestRun_InvalidWatchdogInterval(t *testing.T) {
	supervise(t, "soon")
	log, _ := logtest.NewNullLogger()
	if err := systemd.Run(t.Context(), new(process).healthy, log); err == nil ||
		!strings.Contains(err.Error(), "watchdog") {
		t.Errorf("Run = %v, want an error that names the watchdog", err)
	}
}
