package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/config"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/natsnotify"
	"github.com/fleetconf/fleetconf/pkg/notify/notifytest"
	"github.com/fleetconf/fleetconf/pkg/notify/redisnotify"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

func TestAnnouncer_PUSH_SelectsDriver(t *testing.T) {
	for push, right := range map[string]func(notify.Announcer) bool{
		"longpoll": is[notify.Nop],
		"none":     is[notify.Nop],
		"redis":    is[*redisnotify.Driver],
		"nats":     is[*natsnotify.Driver],
	} {
		t.Run(push, func(t *testing.T) {
			t.Setenv("PUSH", push)
			a, stop, err := announcer(pushSettings(t), nil) // logs nothing
			if err != nil || !right(a) {
				t.Fatalf("got %T, %v", a, err)
			}
			stop()
		})
	}
}

func is[T notify.Announcer](a notify.Announcer) bool {
	_, ok := a.(T)
	return ok
}

func pushSettings(t *testing.T) (set config.Settings) {
	t.Helper()
	if err := settings.Read(&set, ""); err != nil {
		t.Fatal(err)
	}
	return set
}

func TestAnnouncer_Embedded_AcceptsAnnouncements(t *testing.T) {
	t.Setenv("PUSH", "nats")
	t.Setenv("NATS_URL", "embedded")
	t.Setenv("NATS_LISTEN", "127.0.0.1:0")
	log, _ := test.NewNullLogger()
	a, stop, err := announcer(pushSettings(t), log)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := a.Announce(t.Context(), notify.Subject, []byte("v1")); err != nil {
		t.Error(err)
	}
}

func TestAnnouncing_OverBroker_Counted(t *testing.T) {
	for push, want := range map[string]int{"longpoll": 0, "none": 0, "redis": 2, "nats": 2} {
		t.Run(push, func(t *testing.T) {
			t.Setenv("PUSH", push)
			reg := prometheus.NewRegistry()
			announcer := announcing(pushSettings(t), "f", notify.Nop{}, publish.NewMetrics(reg), nil) // logs nothing
			if err := announcer.Announce(t.Context(), models.Announcement{Version: 1}); err != nil {
				t.Fatal(err)
			}
			if got, err := testutil.GatherAndCount(reg, "fleetconf_controller_announcements_total"); got != want ||
				err != nil {
				t.Errorf("got %d outcomes, %v, want %d", got, err, want)
			}
		})
	}
}

// fakeBroker counts the messages on each subject, and rejects those on denied subjects.
type fakeBroker struct {
	sent   map[string]int
	denied []string
}

var errDenied = errors.New("denied")

func (b fakeBroker) Announce(_ context.Context, subject string, _ []byte) error {
	b.sent[subject]++
	if slices.Contains(b.denied, subject) {
		return errDenied
	}
	return nil
}

// If an account may use only one of the subjects, announcing succeeds.
func TestAnnouncing_SubjectDenied_FailsOnlyIfAllAre(t *testing.T) {
	t.Setenv("PUSH", "nats")
	const fleet, older = "fleetconf.config.f", "fleetconf.config"
	for name, row := range map[string]struct {
		denied []string
		err    error
		warned int
	}{
		"none":                 {nil, nil, 0},
		"the fleet's":          {[]string{fleet}, nil, 1},
		"that of older agents": {[]string{older}, nil, 1},
		"both":                 {[]string{fleet, older}, errDenied, 0}, // the caller logs it
	} {
		t.Run(name, func(t *testing.T) {
			log, lines := test.NewNullLogger()
			broker := fakeBroker{map[string]int{}, row.denied}
			announcer := announcing(pushSettings(t), "f", broker, publish.NewMetrics(nil), log)
			for range 3 {
				if err := announcer.Announce(t.Context(), models.Announcement{Version: 1}); !errors.Is(err, row.err) {
					t.Errorf("got %v, want %v", err, row.err)
				}
			}
			if broker.sent[fleet] != 3 || broker.sent[older] != 3 || len(broker.sent) != 2 {
				t.Errorf(
					"got %v, want each message on the fleet's subject and on that of older agents",
					broker.sent,
				)
			}
			if got := len(lines.AllEntries()); got != row.warned {
				t.Errorf("got %d lines, want %d", got, row.warned)
			}
		})
	}
}

func TestAnnouncer_BadSetting_Named(t *testing.T) {
	for name, row := range map[string]struct{ push, setting, value string }{
		"an option that Redis does not have": {"redis", "REDIS_URL", "redis://:hunter2@localhost/?colour=red"},
		"missing certificates":               {"nats", "NATS_CA_FILE", "/missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PUSH", row.push)
			t.Setenv(row.setting, row.value)
			_, _, err := announcer(pushSettings(t), nil)
			var faults settings.Faults
			if !errors.As(err, &faults) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want a fault without the password", err)
			}
		})
	}
}

// Long polls leave connections to other requests, such as publishes.
func TestMaxWaiting_LeavesConnectionsForOthers(t *testing.T) {
	log, lines := test.NewNullLogger()
	for _, row := range []struct{ setting, connections, want int }{
		{100, 400, 100}, {300, 400, 300}, {100_000, 400, 300}, {5, 1, 1},
	} {
		lines.Reset()
		got := maxWaiting(config.Settings{LimitWaiting: row.setting}, row.connections, log)
		if got != row.want || (len(lines.AllEntries()) == 1) != (got < row.setting) {
			t.Errorf("%+v: got %d, and %d log lines", row, got, len(lines.AllEntries()))
		}
	}
}

// The embedded NATS and the API share the limit of open files.
func TestAnnouncer_Embedded_SharesFileLimit(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files) }()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 120, Max: files.Max}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PUSH", "nats")
	if got := limits(pushSettings(t)).Connections; got != 60 {
		t.Errorf("with NATS elsewhere: got %d connections for 120 files, want 60", got)
	}
	t.Setenv("NATS_URL", "embedded")
	address := notifytest.FreeAddress(t)
	t.Setenv("NATS_LISTEN", address)
	set := pushSettings(t)
	if got := limits(set).Connections; got != 30 {
		t.Errorf("with NATS embedded: got %d connections for 120 files, want 30", got)
	}
	log, _ := test.NewNullLogger()
	_, stop, err := announcer(set, log)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for i := range 31 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if i < 30 {
			if _, err := io.WriteString(conn, "CONNECT {}\r\nPING\r\n"); err != nil {
				t.Fatal(err)
			}
		}
		received, reader := "", bufio.NewReader(conn)
		for err == nil && !strings.Contains(received, "PONG") {
			var line string
			line, err = reader.ReadString('\n')
			received += line
		}
		if rejected := strings.Contains(received, "maximum connections exceeded"); rejected != (i == 30) {
			t.Fatalf("connection %d: got %q, want only connection 31 rejected", i+1, received)
		}
	}
}
