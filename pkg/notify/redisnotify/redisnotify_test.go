package redisnotify_test

import (
	"bufio"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/notify/drivertest"
	"github.com/fleetconf/fleetconf/pkg/notify/redisnotify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a Redis server.
func start(t *testing.T, address string, args ...string) (stop func()) {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed; scripts/install-deps.sh does that")
	}
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(binary, append([]string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, read := make(chan struct{}), make(chan struct{})
	go func() { // ends with the server
		defer close(read)
		lines := bufio.NewScanner(out)
		for once := sync.OnceFunc(func() { close(ready) }); lines.Scan(); {
			if strings.Contains(lines.Text(), "Ready to accept connections") || strings.Contains(lines.Text(), "Sentinel ID is") {
				once()
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	select {
	case <-ready:
	case <-read:
		t.Fatal("redis-server ended")
	case <-time.After(time.Minute):
		t.Fatal("redis-server is not ready within a minute")
	}
	return stop
}

func open(t *testing.T, address, caFile string) *redisnotify.Driver {
	t.Helper()
	driver, err := redisnotify.New(address, caFile)
	if err != nil {
		t.Fatal(err)
	}
	driver.Hurry(300*time.Millisecond, 3*time.Second)
	return driver
}

var broker = drivertest.Broker{
	Start: func(t *testing.T, address, password string) func() {
		return start(t, address, "--requirepass", password)
	},
	New: func(t *testing.T, address, password string) drivertest.Driver {
		return open(t, (&url.URL{Scheme: "redis", Host: address, User: url.UserPassword("", password)}).String(), "")
	},
	Confirms: []string{"", "-ERR unknown command\r\n", "*3\r\n$9\r\nsubscribe\r\n$16\r\nfleetconf.config\r\n:1\r\n"},
	Lies: map[string]drivertest.Lie{
		"a message of many gigabytes": {Says: "*3\r\n$7\r\nmessage\r\n$16\r\nfleetconf.config\r\n$99999999999\r\n", Rest: "x", Error: "sends too much"},
		"a message of a gigabyte":     {Says: "*3\r\n$7\r\nmessage\r\n$16\r\nfleetconf.config\r\n$999999999\r\n", Error: "sends too much"},
		"a billion replies in one":    {Says: "*999999999\r\n", Rest: "$1\r\nx\r\n", Error: "sends too much"},
		"replies within replies":      {Rest: "*1\r\n", Error: "sends too much"},
		"a line without an end":       {Says: "+", Rest: "x", Error: "sends too much"},
		"a reply without a kind":      {Says: "*1\r\n:5\r\n", Error: "does not speak"},
		"an empty reply":              {Says: "*0\r\n", Error: "does not speak"},
		"noise":                       {Says: "HTTP/1.1 200 OK\r\n\r\n", Error: "redis:"},
		"a refusal with a secret":     {Says: "-ERR unknown command 'HELLO', with args beginning with: 'hunter2'\r\n", Error: "redis: the server refuses"},
	},
}

func TestDriver(t *testing.T) { broker.Run(t) }
