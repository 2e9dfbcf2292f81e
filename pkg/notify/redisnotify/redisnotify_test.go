package redisnotify_test

import (
	"bufio"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/drivertest"
	"github.com/fleetconf/fleetconf/pkg/notify/notifytest"
	"github.com/fleetconf/fleetconf/pkg/notify/redisnotify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a Redis server.
func start(t *testing.T, address string, args ...string) (stop func()) {
	t.Helper()
	return run(t, append([]string{"--bind", "127.0.0.1", "--port", portOf(address), "--save", "", "--appendonly", "no",
		"--dir", t.TempDir()}, args...)...)
}

// run runs Redis, and waits until it is ready.
func run(t *testing.T, args ...string) (stop func()) {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed; scripts/install-deps.sh does that")
	}
	cmd := exec.Command(binary, args...)
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
			if strings.Contains(lines.Text(), "Ready to accept connections") ||
				strings.Contains(lines.Text(), "Sentinel ID is") {
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
	driver.SetTimeouts(300*time.Millisecond, 3*time.Second)
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
	Violations: map[string]drivertest.Violation{
		"a message of many gigabytes": {Sends: "*3\r\n$7\r\nmessage\r\n$16\r\nfleetconf.config\r\n$99999999999\r\n",
			Repeats: "x", Error: "sends too much"},
		"a message of a gigabyte": {Sends: "*3\r\n$7\r\nmessage\r\n$16\r\nfleetconf.config\r\n$999999999\r\n",
			Error: "sends too much"},
		"long replies in one": {
			Sends: "*4096\r\n", Repeats: "$2000\r\n" + strings.Repeat("x", 2000) + "\r\n", Error: "sends too much",
		},
		"short replies in many": {
			Sends: "*4096\r\n*4096\r\n", Repeats: "*500\r\n" + strings.Repeat("$3\r\nxyz\r\n", 500),
			Error: "sends too much",
		},
		"a billion replies in one":  {Sends: "*999999999\r\n", Repeats: "$1\r\nx\r\n", Error: "sends too much"},
		"replies within replies":    {Repeats: "*1\r\n", Error: "sends too much"},
		"replies deeper and deeper": {Repeats: "*2\r\n+x\r\n", Error: "sends too much"},
		"a line without an end":     {Sends: "+", Repeats: "x", Error: "sends too much"},
		"a reply without a kind":    {Sends: "*1\r\n:5\r\n", Error: "does not speak"},
		"an empty reply":            {Sends: "*0\r\n", Error: "does not speak"},
		"noise":                     {Sends: "HTTP/1.1 200 OK\r\n\r\n", Error: "redis:"},
		"a refusal with a secret": {Sends: "-ERR unknown command 'HELLO', with args beginning with: 'hunter2'\r\n",
			Error: "redis: the server refuses"},
	},
}

func TestDriver(t *testing.T) { broker.Run(t) }

func TestDriver_FullServer(t *testing.T) {
	address := notifytest.FreeAddress(t)
	start(t, address, "--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
	client := redis.NewClient(&redis.Options{Addr: address})
	defer func() { _ = client.Close() }()
	for i := 0; client.Set(t.Context(), fmt.Sprint(i), strings.Repeat("x", 64<<10), 0).Err() == nil; i++ {
		if i > 1000 {
			t.Fatal("the server does not get full")
		}
	}
	driver := open(t, "redis://"+address, "")
	r := notifytest.Listen(t, driver)
	r.Subscribed(t)
	notifytest.Announce(t, driver, "a hint takes no memory")
	r.Received(t, "a hint takes no memory")
}

func TestDriver_TLS(t *testing.T) {
	address := notifytest.FreeAddress(t)
	certs := notifytest.Certificates(t)
	start(t, notifytest.FreeAddress(t), "--tls-port", portOf(address), "--tls-cert-file", certs.Cert, "--tls-key-file",
		certs.Key, "--tls-ca-cert-file", certs.CA, "--tls-auth-clients", "no")
	notifytest.AddByteOrderMark(t, certs.CA)
	driver := open(t, "rediss://"+address, certs.CA)
	r := notifytest.Listen(t, driver)
	r.Subscribed(t)
	notifytest.Announce(t, driver, "secret")
	r.Received(t, "secret")
	for errorText, other := range map[string]*redisnotify.Driver{
		"authority that is not known": open(t, "rediss://"+address, ""),
		"another name":                open(t, "rediss://localhost.localdomain:"+portOf(address), certs.CA),
		"redis:":                      open(t, "redis://"+address, ""), // no TLS
	} {
		err := other.Announce(t.Context(), notify.Subject, []byte("lost"))
		if errorText == "another name" && err != nil && strings.Contains(err.Error(), "the DNS") {
			continue // this machine does not know the name
		}
		if err == nil || !strings.Contains(err.Error(), errorText) {
			t.Errorf("got %v, want an error like %q", err, errorText)
		}
	}
}

func TestDriver_Sentinel(t *testing.T) {
	server, sentinel := notifytest.FreeAddress(t), notifytest.FreeAddress(t)
	start(t, server, "--requirepass", "server-password")
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	conf := fmt.Sprintf("sentinel monitor fleet 127.0.0.1 %s 1\nsentinel auth-pass fleet "+
		"server-password\nrequirepass sentinel-password\n", portOf(server))
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, file, "--sentinel", "--port", portOf(sentinel), "--bind", "127.0.0.1")
	address := "redis://:sentinel-password@" + notifytest.FreeAddress(t) + "?master_name=%s&addr=" + sentinel +
		"&password=server-password"
	driver := open(t, fmt.Sprintf(address, "fleet"), "")
	r := notifytest.Listen(t, driver)
	r.Subscribed(t)
	notifytest.Announce(t, driver, "by way of a Sentinel")
	r.Received(t, "by way of a Sentinel")
	if err := open(t, fmt.Sprintf(address, "other"), "").Announce(t.Context(), notify.Subject, nil); err == nil ||
		!strings.HasPrefix(err.Error(), "redis:") {
		t.Errorf("an unknown master: got %v", err)
	}
}

func TestDriver_Cluster(t *testing.T) {
	const password = "cluster-password"
	address := notifytest.FreeAddress(t)
	bus := notifytest.FreeAddress(t)
	start(t, address, "--cluster-enabled", "yes", "--cluster-port", portOf(bus), "--requirepass", password)
	client := redis.NewClient(&redis.Options{Addr: address, Password: password})
	defer func() { _ = client.Close() }()
	if err := client.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	driver := open(t, "redis://:"+password+"@"+notifytest.FreeAddress(t)+"?addr="+address, "")
	r := notifytest.Listen(t, driver)
	r.Subscribed(t)
	notifytest.Announce(t, driver, "by way of a Cluster")
	r.Received(t, "by way of a Cluster")
}

func TestNew_BadURL(t *testing.T) {
	for _, address := range []string{
		"", "localhost:6379", "http://:hunter2@localhost", "redis://", "redis://:hunter2/x@host",
		"redis://:hunter2@host/db", "redis://:hunter2@host?colour=red",
		"redis://:hunter2@host?master_name=m&addr=nope", "redis://:hunter2@host?addr=nope", "redis://:hunter2@[",
		"unix://:hunter2@/a",
	} {
		if _, err := redisnotify.New(address, ""); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New(%q): got %v, want an error without the password", address, err)
		}
	}
	if _, err := redisnotify.New("rediss://localhost", filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("certificates that are not there were taken")
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := redisnotify.New("rediss://localhost", pipe); err == nil ||
		!strings.Contains(err.Error(), "named pipe") {
		t.Errorf("got %v, want an error that says a named pipe", err)
	}
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
