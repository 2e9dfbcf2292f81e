package natsnotify_test

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/notify/drivertest"
	"github.com/fleetconf/fleetconf/pkg/notify/natsnotify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a NATS server.
func start(t *testing.T, address string, opts server.Options) (stop func()) {
	t.Helper()
	host, port, _ := net.SplitHostPort(address)
	opts.Host = host
	opts.Port, _ = strconv.Atoi(port)
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
	}
	t.Cleanup(stop)
	return stop
}

func open(t *testing.T, o natsnotify.Options) *natsnotify.Driver {
	t.Helper()
	driver, err := natsnotify.New(o)
	if err != nil {
		t.Fatal(err)
	}
	driver.Hurry(300*time.Millisecond, 3*time.Second)
	return driver
}

var broker = drivertest.Broker{
	Start: func(t *testing.T, address, password string) func() {
		return start(t, address, server.Options{Username: "fleet", Password: password})
	},
	New: func(t *testing.T, address, password string) drivertest.Driver {
		o := natsnotify.Options{URL: "nats://" + address}
		if password != "" {
			o.Username, o.Password = "fleet", password
		}
		return open(t, o)
	},
	Confirms: []string{`INFO {"server_id":"x","max_payload":1048576}` + "\r\n", "PONG\r\n", "PONG\r\n"},
	Lies: map[string]drivertest.Lie{
		"a message of many gigabytes": {Says: "MSG fleetconf.config 1 99999999999\r\n", Rest: "x", Error: "sends too much"},
		"a message of a gigabyte":     {Says: "MSG fleetconf.config 1 999999999\r\n", Error: "sends too much"},
		"a message without an end":    {Says: "MSG fleetconf.config 1 1\r\n", Rest: "x", Error: "sends too much"},
		"a carriage return too many":  {Says: "MSG fleetconf.config 1 5\r12\nx\r\nMSG fleetconf.config 1 99999999999999999\r\n", Rest: "x", Error: "sends too much"},
		"a hidden length":             {Says: "MSG fleetconf.config 1 1\r\nx\r\rhmsg fleetconf.config 1 0 1\r\nMSG fleetconf.config 1 99999999999999999\r\n", Rest: "x", Error: "sends too much"},
		"a line without an end":       {Says: "INFO {", Rest: "x", Error: "sends too much"},
		"a message of no length":      {Says: "MSG fleetconf.config 1 -5\r\n", Error: "sends too much"},
		"noise":                       {Says: "HTTP/1.1 200 OK\r\n\r\n", Error: "nats:"},
		"a refusal with a secret":     {Says: "-ERR 'wrong password hunter2'\r\n", Error: "nats: the connection failed"},
	},
}

func TestDriver(t *testing.T) { broker.Run(t) }
