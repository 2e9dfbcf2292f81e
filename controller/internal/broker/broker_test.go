package broker_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/controller/internal/broker"
	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/natsnotify"
	"github.com/fleetconf/fleetconf/pkg/notify/notifytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o broker.Options) *broker.Broker {
	t.Helper()
	log, _ := test.NewNullLogger()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	b, err := broker.Start(o, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func announcer(t *testing.T, b *broker.Broker) notify.Announcer {
	t.Helper()
	a, err := b.Announcer()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func agent(t *testing.T, b *broker.Broker, o natsnotify.Options) *natsnotify.Driver {
	t.Helper()
	o.URL = "nats://" + b.Addr().String()
	d, err := natsnotify.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestBroker_Announcement_ReachesAuthorizedAgents(t *testing.T) {
	for name, row := range map[string]struct {
		broker broker.Options
		right  natsnotify.Options
		wrong  []natsnotify.Options
	}{
		"no credentials": {},
		"a user name": {broker.Options{
			Username: "fleet", Password: "right",
		}, natsnotify.Options{Username: "fleet", Password: "right"},
			[]natsnotify.Options{
				{Username: "fleet", Password: "wrong"}, {}, {Token: "right"},
				{Username: "controller", Password: "right"},
			}},
		"a token": {broker.Options{Token: "right"}, natsnotify.Options{Token: "right"},
			[]natsnotify.Options{{Token: "wrong"}, {}, {Username: "right", Password: "right"}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, row.broker)
			for _, wrong := range row.wrong {
				if err := notifytest.Listen(
					t, agent(t, b, wrong),
				).Lost(t); !strings.Contains(err.Error(), "credentials are refused") {
					t.Errorf("got %v, want an error about the credentials", err)
				}
			}
			one, two := notifytest.Listen(t, agent(t, b, row.right)), notifytest.Listen(t, agent(t, b, row.right))
			one.Subscribed(t)
			two.Subscribed(t)
			notifytest.Announce(t, announcer(t, b), "v8")
			one.Received(t, "v8")
			two.Received(t, "v8")
		})
	}
}

func TestBroker_TooManyWrongPasswords_RightOneRejected(t *testing.T) {
	for name, row := range map[string]struct {
		broker       broker.Options
		right, wrong nats.Option
	}{
		"password": {
			broker.Options{Username: "fleet", Password: "right"}, nats.UserInfo("fleet", "right"),
			nats.UserInfo("fleet", "wrong"),
		},
		"token": {broker.Options{Token: "right"}, nats.Token("right"), nats.Token("wrong")},
	} {
		t.Run(name, func(t *testing.T) {
			connect := func(b *broker.Broker, o nats.Option) error {
				conn, err := nats.Connect(b.Addr().String(), nats.NoReconnect(), o)
				if err == nil {
					conn.Close()
				}
				return err
			}
			fresh, used := start(t, row.broker), start(t, row.broker)
			if err := connect(used, row.right); err != nil {
				t.Fatal(err)
			}
			for range 21 {
				if connect(fresh, row.wrong) == nil || connect(used, row.wrong) == nil {
					t.Fatal("wrong credentials were accepted")
				}
			}
			if err := connect(fresh, row.right); err == nil {
				t.Error("the right credentials were accepted after 21 wrong ones")
			}
			if err := connect(used, row.right); err != nil {
				t.Errorf("a source that connected before: got %v, want success", err)
			}
			notifytest.Announce(t, announcer(t, fresh), "v8") // the controller itself is not limited
		})
	}
}

func TestBroker_AgentAccount_CannotPublishOrSubscribeElsewhere(t *testing.T) {
	b := start(t, broker.Options{})
	r := notifytest.Listen(t, agent(t, b, natsnotify.Options{}))
	r.Subscribed(t)
	forger := agent(t, b, natsnotify.Options{})
	if err := forger.Announce(t.Context(), notify.Subject, []byte("forged")); err == nil ||
		!strings.Contains(err.Error(), "may not use subject") {
		t.Errorf("an agent announces: got %v, want it rejected", err)
	}
	conn, err := nats.Connect(
		b.Addr().String(), nats.NoReconnect(), nats.PermissionErrOnSubscribe(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, subject := range []string{">", "fleetconf.*", "_INBOX.x", "$SYS.>"} {
		sub, err := conn.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := sub.NextMsg(time.Minute); err == nil {
			t.Errorf("an agent may listen to %s", subject)
		}
		_ = sub.Unsubscribe()
	}
	a := announcer(t, b)
	if err := a.Announce(t.Context(), "elsewhere", nil); err == nil {
		t.Error("the controller may use any subject")
	}
	notifytest.Announce(t, a, "true")
	r.Received(t, "true")
}

func TestBroker_Full_RejectsConnectionsAndAnnounces(t *testing.T) {
	b := start(t, broker.Options{Connections: 2})
	a := announcer(t, b)
	one := notifytest.Listen(t, agent(t, b, natsnotify.Options{}))
	two := notifytest.Listen(t, agent(t, b, natsnotify.Options{}))
	one.Subscribed(t)
	two.Subscribed(t)
	if received := silent(t, b.Addr().String()); !strings.Contains(received, "maximum connections exceeded") {
		t.Errorf("one agent too many: got %q, want a rejection", received)
	}
	notifytest.Announce(t, a, "v8")
	one.Received(t, "v8")
	two.Received(t, "v8")
}

// silent connects, sends nothing, and returns what the broker sends until it closes the
// connection.
func silent(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	received, _ := io.ReadAll(conn)
	return string(received)
}

// Connections that never authenticate are closed, so that they do not use up the limit.
func TestBroker_NoLogin_Disconnected(t *testing.T) {
	agents, brokers := broker.HandshakeTimeouts(t)
	if agents != 30 || brokers != 30 {
		t.Errorf("got %v s for agents and %v s for brokers, want 30", agents, brokers)
	}
	broker.ShortenHandshake(t)
	cluster := notifytest.FreeAddress(t)
	open := start(t, broker.Options{ClusterListen: cluster, ClusterUsername: "cluster", ClusterPassword: "secret"})
	closed := start(t, broker.Options{Username: "fleet", Password: "right"})
	for name, address := range map[string]string{
		"an agent": open.Addr().String(), "an agent with a password": closed.Addr().String(), "a broker": cluster,
	} {
		t.Run(name, func(t *testing.T) {
			if received := silent(t, address); !strings.Contains(received, "Authentication Timeout") {
				t.Errorf("got %q, want an authentication timeout", received)
			}
		})
	}
}

func TestBroker_ClusterReachesAgentsOfEveryController(t *testing.T) {
	addresses := []string{notifytest.FreeAddress(t), notifytest.FreeAddress(t), notifytest.FreeAddress(t)}
	var brokers []*broker.Broker
	for i, address := range addresses {
		o := broker.Options{ClusterListen: address, ClusterUsername: "cluster", ClusterPassword: "secret"}
		for j, other := range addresses {
			if i != j {
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: other})
			}
		}
		brokers = append(brokers, start(t, o))
	}
	var all []*notifytest.Receiver
	for _, b := range brokers {
		r := notifytest.Listen(t, agent(t, b, natsnotify.Options{}))
		r.Subscribed(t)
		all = append(all, r)
	}
	for i, b := range brokers {
		a := announcer(t, b)
		for _, r := range all {
			r.Eventually(t, string(rune('a'+i)), func(message string) { notifytest.Announce(t, a, message) })
		}
	}
}

func TestBroker_ClusterWrongPassword_Rejected(t *testing.T) {
	address := notifytest.FreeAddress(t)
	start(t, broker.Options{ClusterListen: address, ClusterUsername: "cluster", ClusterPassword: "secret"})
	log, hook := test.NewNullLogger()
	intruder, err := broker.Start(broker.Options{Listen: "127.0.0.1:0", ClusterListen: notifytest.FreeAddress(t),
		ClusterUsername: "cluster", ClusterPassword: "guess-0123456789", Routes: []*url.URL{
			{Scheme: "nats-route", Host: address},
		}}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = intruder.Close() }()
	for end := time.Now().Add(time.Minute); ; {
		var logged bytes.Buffer
		for _, entry := range hook.AllEntries() {
			line, _ := entry.String()
			logged.WriteString(line)
		}
		if strings.Contains(logged.String(), "guess-0123456789") {
			t.Fatalf("the password is in the log: %s", &logged)
		}
		if strings.Contains(logged.String(), "Authorization Violation") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the log does not show that the route was rejected: %s", &logged)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestStart_CannotListen(t *testing.T) {
	b := start(t, broker.Options{})
	log := logrus.New()
	log.SetOutput(new(bytes.Buffer))
	for name, o := range map[string]broker.Options{
		"for agents":        {Listen: b.Addr().String()},
		"for other brokers": {Listen: "127.0.0.1:0", ClusterListen: b.Addr().String()},
	} {
		t.Run(name, func(t *testing.T) {
			if taken, err := broker.Start(o, log); err == nil {
				_ = taken.Close()
				t.Error("two brokers listen at one address")
			} else if !strings.Contains(err.Error(), "NATS_LISTEN") {
				t.Errorf("got %v, want the settings of the addresses", err)
			}
		})
	}
	if _, err := broker.Start(
		broker.Options{Listen: "127.0.0.1:0", CertFile: "missing", KeyFile: "missing"}, log,
	); err == nil {
		t.Error("started without the certificate")
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := broker.Start(broker.Options{Listen: "127.0.0.1:0", CertFile: pipe, KeyFile: pipe}, log)
	if err == nil || !strings.Contains(err.Error(), "NATS_TLS_CERT_FILE") ||
		!strings.Contains(err.Error(), "named pipe") {
		t.Errorf("got %v, want an error that names the settings and says a named pipe", err)
	}
}

func TestClose_AgentsReconnect(t *testing.T) {
	address := notifytest.FreeAddress(t)
	b := start(t, broker.Options{Listen: address})
	r := notifytest.Listen(t, agent(t, b, natsnotify.Options{}))
	r.Subscribed(t)
	a := announcer(t, b)
	_ = b.Close()
	_ = r.Lost(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := a.Announce(ctx, notify.Subject, []byte("lost")); err == nil || ctx.Err() != nil {
		t.Errorf("after Close: got %v, want an error immediately", err)
	}
	b = start(t, broker.Options{Listen: address})
	r.Subscribed(t)
	notifytest.Announce(t, announcer(t, b), "again")
	r.Received(t, "again")
}
