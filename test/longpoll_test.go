package test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The controller is killed, and stopped, while an agent long-polls. The waiter does not
// delay the stop. Afterwards the agent long-polls again.
func TestLongPoll_ControllerRestarts_AgentResumes(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil)
	s.waitForTransport(t, "longpoll")
	s.publishAndWait(t, "/first")
	for i, end := range []func() error{s.controller.crash, s.controller.stop} {
		began := time.Now()
		must(t, end())
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the controller took %s to end while one agent waited", took)
		}
		s.waitForTransport(t, "poll")
		must(t, s.controller.start())
		s.publishEvery(t, fmt.Sprintf("/missed/%d", i), 3600)
		s.waitForWorker(t, fmt.Sprintf("/missed/%d", i))
		s.waitForTransport(t, "longpoll")
		// One publish more would be the fifth in a row within a second each, after which
		// the agent pauses.
		s.publishEvery(t, fmt.Sprintf("/heard/%d", i), 1)
		s.waitForWorker(t, fmt.Sprintf("/heard/%d", i))
	}
	for text, n := range map[string]int{"Push lost": 2, "Push healthy": 3, `"known":false`: 1} {
		if got := strings.Count(s.agent.log.String(), text); got != n {
			t.Errorf("the agent logged %s %d times, want %d", text, got, n)
		}
	}
}

// The network between the agent and the controller cuts a wait, and flaps. Afterwards
// the agent long-polls again.
func TestLongPoll_NetworkFails_AgentResumes(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, []string{"PUSH=none"})
	through := newCounter(t, s.controller)
	between := networkTo(t, strings.TrimPrefix(through.URL, "http://"))
	must(t, s.agent.crash())
	s.agent.env = append(s.agent.env, "PUSH=longpoll", "CONTROLLER_URL=http://"+between.Listen)
	must(t, s.agent.start())
	waitForRecovery := func(name string) {
		s.waitForTransport(t, "longpoll")
		s.publishEvery(t, "/healed/"+name, 3600)
		s.waitForWorker(t, "/healed/"+name)
		s.publishEvery(t, "/heard/"+name, 1)
		s.waitForWorker(t, "/heard/"+name)
	}
	waitForRecovery("first")
	began, polls := time.Now(), through.polls.Load()

	between.addToxics(t, "reset_peer", `{"timeout":0}`)
	s.publish(t, "/missed") // the response to the wait is cut
	s.waitForTransport(t, "poll")
	between.removeToxics(t)
	waitForRecovery("reset")

	for range 3 {
		between.Stop()
		must(t, between.Start())
	}
	between.Stop()
	s.waitForTransport(t, "poll")
	must(t, between.Start())
	waitForRecovery("flapped")

	// Eight versions, a few attempts, and polls every second.
	if n, most := through.polls.Load()-polls, 40+4*int64(time.Since(began)/time.Second); n > most {
		t.Errorf("the agent polled %d times while the network failed, want at most %d", n, most)
	}
}

// balancers are common reverse proxies: their arguments, and the line in their
// configuration that allows waits of five minutes.
var balancers = map[string]struct {
	file, line string
	args       func(file, dir string) []string
}{
	"nginx": {"nginx.conf", "proxy_read_timeout 330s;", func(file, dir string) []string {
		return []string{"-c", file, "-p", dir, "-g", "daemon off; master_process off; error_log stderr; pid pid;"}
	}},
	"haproxy": {"haproxy.cfg", "timeout server 330s", func(file, _ string) []string {
		return []string{"-db", "-f", file}
	}},
}

// newBalancer runs a balancer before a controller, with its line replaced.
func newBalancer(t *testing.T, name, line, controller string) (url string) {
	t.Helper()
	b, dir := balancers[name], t.TempDir()
	program, err := exec.LookPath(name)
	if err != nil { // Debian installs them in /usr/sbin
		program, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err != nil {
		t.Fatalf("%s is not installed; run scripts/install-deps.sh", name)
	}
	addr := freeAddress(t)
	text, err := os.ReadFile(filepath.Join("testdata", b.file))
	must(t, err)
	if n := strings.Count(string(text), b.line); n != 1 {
		t.Fatalf("%s has %q %d times, want once", b.file, b.line, n)
	}
	file := filepath.Join(dir, b.file)
	must(t, os.WriteFile(file, []byte(strings.NewReplacer("LISTEN;", addr+";", "bind LISTEN", "bind "+addr,
		"http://CONTROLLER", controller,
		"one CONTROLLER", "one "+strings.TrimPrefix(controller, "http://"), b.line, line).Replace(string(text))),
		0o600))
	var log bytes.Buffer
	cmd := exec.Command(program, b.args(file, dir)...)
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("--- log of %s\n%s", name, tail(log.String(), 2000))
		}
	})
	eventually(t, func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	return "http://" + addr
}

// Agents long-poll through nginx and HAProxy: with their default timeouts, with the
// recommended timeout, and with a shorter timeout than the agent's first wait.
func TestLongPoll_BehindProxy_VersionArrives(t *testing.T) {
	t.Parallel()
	for name, balancer := range balancers {
		defaults := map[string]string{"nginx": "", "haproxy": "timeout server 50s"}[name]
		for circumstance, line := range map[string]string{"default timeout": defaults,
			"recommended timeout": balancer.line} {
			t.Run(name+" "+circumstance, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, []string{hourly}, []string{"PUSH=none"})
				must(t, s.agent.crash())
				s.agent.env = append(s.agent.env, "PUSH=longpoll",
					"CONTROLLER_URL="+newBalancer(t, name, line, s.controller.url()))
				must(t, s.agent.start())
				s.waitForTransport(t, "longpoll")
				for _, page := range []string{"/one", "/two", "/three"} {
					s.publishAndWait(t, page)
				}
			})
		}
		t.Run(name+" short timeout", func(t *testing.T) {
			t.Parallel()
			s := newSite(t, []string{hourly}, []string{"PUSH=none"})
			through := newCounter(t, s.controller)
			must(t, s.agent.crash())
			s.agent.env = append(s.agent.env, "PUSH=longpoll", "LOG_LEVEL=debug",
				"CONTROLLER_URL="+newBalancer(t, name, strings.Replace(balancer.line, "330s", "7s", 1), through.URL))
			must(t, s.agent.start())
			s.waitForTransport(t, "longpoll")
			s.publishAndWait(t, "/one")
			s.agent.waitForLog(t, "Wait cut", 1)
			must(t, checkTransport(s.agent, "longpoll"))
			polls := through.polls.Load()
			// one without a wait, a long poll, and the next one after it
			eventually(t, func() error {
				if n := through.polls.Load() - polls; n < 3 {
					return fmt.Errorf("the agent polled %d times after it was cut, want 3", n)
				}
				return nil
			})
			s.publishAndWait(t, "/two")
			s.publishAndWait(t, "/three")
			s.agent.waitForLog(t, "Wait cut", 1)
			s.agent.waitForLog(t, "Push lost", 0)
		})
	}
}

// A controller that stops answers all waiters, and ends with status 0.
func TestLongPoll_ControllerStops_WaitersAnswered(t *testing.T) {
	t.Parallel()
	const fleet = 200
	controller := run(t, "controller", append(controllerIn(t.TempDir()), hourly)...)
	_, err := publish(controller.url(), "http://example.com/")
	must(t, err)
	a, err := call(agents, "GET", controller.url()+"/api/v1/config", "")
	must(t, err)
	var waiting, answered sync.WaitGroup
	for range fleet {
		waiting.Add(1)
		answered.Go(func() {
			req, err := http.NewRequest("GET", controller.url()+"/api/v1/config?wait=60s", nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.SetBasicAuth("agent", "secret123")
			req.Header.Set("If-None-Match", a.header.Get("ETag"))
			c, err := net.Dial("tcp", controller.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			err = req.Write(c)
			waiting.Done()
			if err != nil {
				t.Error(err)
				return
			}
			var head [64]byte
			n, err := c.Read(head[:])
			if err != nil || !strings.HasPrefix(string(head[:n]), "HTTP/1.1 304 ") {
				t.Errorf("a waiter got %q, %v, want 304", head[:n], err)
			}
		})
	}
	waiting.Wait()
	eventually(t, func() error {
		a, err := call("", "GET", controller.url()+"/metrics", "")
		if held := fmt.Sprintf("\nfleetconf_controller_waiters %d\n", fleet); err == nil &&
			!strings.Contains(a.body, held) {
			err = errors.New("not all polls wait")
		}
		return err
	})
	must(t, controller.stop())
	answered.Wait()
}
