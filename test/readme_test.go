package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestREADME_EveryCommand runs every block of shell in the README, in order, as
// a newcomer pastes them: `make run` first, and then the rest against what it
// started. Only ports, the target and the data's folder
// differ.
func TestREADME_EveryCommand(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	must(t, err)
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 10 {
		t.Fatalf("the README has %d blocks of shell, want at least 10: are they marked as before?", len(blocks))
	}
	target := run(t, "target")
	ports := freePorts(t, 3)
	data := t.TempDir()
	here := strings.NewReplacer("./data/", data+"/", "localhost:8080", "localhost:"+ports[0], "localhost:8081", "localhost:"+ports[1],
		"localhost:8082", "localhost:"+ports[2], "https://example.com/", target.url()+"/readme")
	environment := append(os.Environ(), "CONTROLLER_PORT="+ports[0], "AGENT_PORT="+ports[1], "WORKER_PORT="+ports[2],
		"DATA_DIR="+data, "DEFAULT_POLL_INTERVAL=1", "WORKER_URL=http://localhost:"+ports[2])
	for _, block := range blocks {
		switch block := block[1]; block {
		case "make run\n":
			makeRun(t, environment, ports)
		case "make check e2e\n": // what runs this test
			ci, err := os.ReadFile("../.ci/run")
			if must(t, err); !strings.Contains(string(ci), strings.TrimSpace(block)) {
				t.Errorf(".ci/run does not run %q", block)
			}
		default:
			eventually(t, func() error { return paste(here.Replace(block), environment) })
		}
	}
}

// makeRun runs `make run` until the test ends, and then presses Ctrl-C.
func makeRun(t *testing.T, environment, ports []string) {
	t.Helper()
	build := exec.Command("make", "build") // which takes minutes on a machine that never did
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	var log output
	cmd := exec.Command("make", "run")
	cmd.Dir, cmd.Stdout, cmd.Stderr = "..", &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Its own settings of the three; the ones of the test are for the blocks.
	for _, v := range environment {
		if !strings.HasPrefix(v, "WORKER_URL=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() { // ends with make
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			t.Error("`make run` does not end on Ctrl-C")
		}
		if t.Failed() {
			t.Logf("--- make run\n%s", tail(log.String(), 6000))
		}
	})
	healthy := func() {
		for _, port := range ports {
			eventually(t, func() error {
				a, err := call("", "GET", "http://localhost:"+port+"/health", "")
				if err == nil && a.status != 200 {
					err = fmt.Errorf("port %s: got %v, want 200", port, a)
				}
				return err
			})
		}
	}
	healthy()
	eventually(t, func() error { // a program that ends before this could not start
		if !strings.Contains(log.String(), "All three run") {
			return errors.New("`make run` does not say that all three run")
		}
		return nil
	})
	// What is killed is started again, also when one ends while another is.
	for _, name := range []string{"worker", "controller", "agent"} {
		must(t, kill(cmd.Process.Pid, "bin/"+name))
	}
	for _, name := range []string{"controller", "agent", "worker"} {
		eventually(t, func() error {
			if n := strings.Count(log.String(), name+" ended (exit status 137)"); n != 1 {
				return fmt.Errorf("%s was said to have ended %d times, want once", name, n)
			}
			return nil
		})
	}
	healthy()
}

// kill ends, as a crash does, the process of a group whose program that is.
func kill(group int, program string) error {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		command, _ := os.ReadFile("/proc/" + p.Name() + "/cmdline")
		if of, err := syscall.Getpgid(pid); err == nil && of == group && strings.TrimRight(string(command), "\x00") == program {
			return syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("%s does not run", program)
}

// paste runs a block of shell. It fails if a curl is answered with an error, or
// if the next block would be pasted in another directory.
func paste(block string, environment []string) error {
	const before, after = "readme_dir=$PWD\ncurl() { command curl --fail-with-body -sS \"$@\"; }\n",
		"\n[ \"$PWD\" = \"$readme_dir\" ] || { echo \"The block leaves the shell in $PWD\"; exit 1; }"
	cmd := exec.Command("sh", "-eu", "-c", before+block+after)
	cmd.Dir, cmd.Env = "..", environment
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s%s\n%w", block, out, err)
	}
	return nil
}

// freePorts finds ports that nobody listens on.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer func() { _ = listener.Close() }() // after all are found, so that they differ
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		ports = append(ports, port)
	}
	return ports
}
