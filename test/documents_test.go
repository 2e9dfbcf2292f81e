package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pasted are the documents whose shell blocks can be pasted after `make run`. Of
// deploy.md these are the blocks that use its data in ./data.
var pasted = []struct{ file, only string }{
	{file: "README.md"}, {file: "docs/transports.md"}, {file: "docs/settings.md"}, {file: "docs/metrics.md"},
	{file: "docs/deploy.md", only: "./data/"}, {file: "CONTRIBUTING.md"},
}

// TestDocuments_ShellBlocks_Run runs every shell block of the README and of the
// other documents that continue it, in order: `make run` first, and then the rest
// against the three programs, except that `make run` with TLS runs beside it. Only
// ports, the target and the data directory differ.
func TestDocuments_ShellBlocks_Run(t *testing.T) {
	t.Parallel()
	var blocks [][]string
	for _, document := range pasted {
		found := regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(readText(t, "../"+document.file),
			-1)
		found = slices.DeleteFunc(found, func(
			block []string) bool {
			return !strings.Contains(block[1], document.only)
		})
		if len(found) == 0 {
			t.Errorf("%s has no shell block: are they marked sh?", document.file)
		}
		blocks = append(blocks, found...)
	}
	if len(blocks) < 18 {
		t.Fatalf("the documents have %d shell blocks, want at least 18: are they marked sh?", len(blocks))
	}
	target := run(t, "target")
	ports := freePorts(t, 6)
	ports, withTLS := ports[:3], ports[3:]
	data := t.TempDir()
	here := strings.NewReplacer("./data/", data+"/", "https://localhost:8080", "https://localhost:"+withTLS[0],
		"localhost:8080", "localhost:"+ports[0], "localhost:8081", "localhost:"+ports[1], "localhost:8082",
		"localhost:"+ports[2],
		"https://example.com/", target.url()+"/readme")
	on := func(ports []string, data string) []string {
		return append(os.Environ(), "CONTROLLER_PORT="+ports[0], "AGENT_PORT="+ports[1], "WORKER_PORT="+ports[2],
			"DATA_DIR="+data, "DEFAULT_POLL_INTERVAL=1", "WORKER_URL=http://localhost:"+ports[2])
	}
	for _, block := range blocks {
		switch block := block[1]; {
		case block == "make run\n":
			log, group := makeRun(t, block, on(ports, data))
			restarts(t, log, group, ports)
		case strings.Contains(block, "make run"): // with TLS, beside the first
			makeRun(t, here.Replace(block), on(withTLS, t.TempDir()))
			eventually(t, func() error {
				self, a, err := get[status]("", "http://localhost:"+withTLS[1]+"/status")
				if err == nil && !self.Registered {
					err = fmt.Errorf("/status has %s, want it registered", a.body)
				}
				return err
			})
		case block == "make check e2e\n": // runs this test; see TestCI_TargetsOfMakeCheck_AllRun
		default:
			eventually(t, func() error { return paste(here.Replace(block), on(ports, data)) })
		}
	}
}

// makeRun runs a block that starts the three programs, and sends it Ctrl-C when the
// test ends. It returns when all three run.
func makeRun(t *testing.T, block string, environment []string) (log *output, group int) {
	t.Helper()
	build := exec.Command("make", "build") // which takes minutes the first time
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	log = new(output)
	cmd := exec.Command("sh", "-c", block)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "..", environment, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
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
		case <-time.After(timeout):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			t.Error("`make run` does not end on Ctrl-C")
		}
		if t.Failed() {
			t.Logf("--- %s%s", block, tail(log.String(), 6000))
		}
	})
	eventually(t, func() error { // fail if the block ends before
		select {
		case <-ended:
			t.Fatalf("it ended:\n%s", block)
		default:
		}
		if !strings.Contains(log.String(), "All three run") {
			return errors.New("`make run` does not print that all three run")
		}
		return nil
	})
	return log, cmd.Process.Pid
}

// restarts kills each program that `make run` runs, and waits for it to run again.
func restarts(t *testing.T, log *output, group int, ports []string) {
	t.Helper()
	// Killed programs are restarted, also if one ends during the restart of another.
	for _, name := range []string{"worker", "controller", "agent"} {
		must(t, kill(group, "bin/"+name))
	}
	for _, name := range []string{"controller", "agent", "worker"} {
		eventually(t, func() error {
			if n := strings.Count(log.String(), name+" ended (exit status 137)"); n != 1 {
				return fmt.Errorf("the log has the end of %s %d times, want once", name, n)
			}
			return nil
		})
	}
	if bash := regexp.MustCompile(`line \d+:.*`).FindString(log.String()); bash != "" {
		t.Errorf("the log has a line of bash: %s", bash)
	}
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

// kill kills the process of a program in a process group.
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
		if of, err := syscall.Getpgid(pid); err == nil && of == group &&
			strings.TrimRight(string(command), "\x00") == program {
			return syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("%s does not run", program)
}

// paste runs a shell block. It fails if a curl gets an error status, or if the block
// changes the directory.
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

// freePorts returns different ports that no program listens on.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for len(ports) < n {
		if _, port, _ := net.SplitHostPort(freeAddress(t)); !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports
}

// Links between documents lead to existing files and headings.
func TestDocs_Links_Resolve(t *testing.T) {
	t.Parallel()
	documents, err := filepath.Glob("../docs/*.md")
	must(t, err)
	documents = append(documents, "../README.md", "../SECURITY.md", "../CONTRIBUTING.md", "../CHANGELOG.md")
	if len(documents) < 12 {
		t.Fatalf("found %d documents, want at least 12", len(documents))
	}
	for _, document := range documents {
		text := readText(t, document)
		for _, link := range matches(`\]\(([^)]+)\)`, text) {
			if strings.Contains(link, "://") {
				continue
			}
			path, anchor, _ := strings.Cut(link, "#")
			target := document
			if path != "" {
				target = filepath.Join(filepath.Dir(document), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", document, link, err)
				continue
			}
			if anchor != "" && !hasHeading(readText(t, target), anchor) {
				t.Errorf("%s links to %s, but there is no such heading", document, link)
			}
		}
	}
}

// hasHeading reports whether text has an anchor, or a heading with that slug: in lower
// case, without punctuation, with hyphens for spaces.
func hasHeading(text, anchor string) bool {
	if strings.Contains(text, `<a id="`+anchor+`"></a>`) {
		return true
	}
	for _, heading := range matches(`(?m)^#+ (.+)$`, text) {
		slug := regexp.MustCompile(`[^\p{L}\p{N}\- ]`).ReplaceAllString(strings.ToLower(heading), "")
		if strings.ReplaceAll(slug, " ", "-") == anchor {
			return true
		}
	}
	return false
}
