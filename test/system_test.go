package test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/test/internal/freeport"
)

const (
	admin      = "admin:admin123"
	agents     = "agent:secret123"
	timeout    = 60 * time.Second // of every condition
	checkEvery = 20 * time.Millisecond
	buildTags  = "nomsgpack,osusergo,netgo,sqlite_omit_load_extension"
)

// binaries is the directory of the binaries that TestMain builds.
var binaries string

// sideBySide is how many of these tests run in parallel, unless -parallel is higher: they
// mostly wait for programs.
const sideBySide = 8

func TestMain(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel").Value.(flag.Getter).Get().(int); parallel < sideBySide {
		_ = flag.Set("test.parallel", strconv.Itoa(sideBySide))
	}
	// Under nohup the tested programs would inherit that SIGHUP is ignored.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
		code = 1
	}
	// The go tool caches the result of a test whose own files did not change, and does
	// not know the tested modules. It caches no result of a test that opened a file
	// which was just written.
	if err := os.WriteFile(".ran", nil, 0o600); err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (code int, err error) {
	binaries, err = os.MkdirTemp("", "fleetconf-test-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(binaries) }()
	if err := os.Chmod(binaries, 0o755); err != nil { // for tests that run them as another user
		return 0, err
	}
	for name, path := range map[string]string{
		"controller": "./controller/cmd", "agent": "./agent/cmd", "worker": "./worker/cmd",
		"target": "./test/cmd/target", "bench-push": "./test/cmd/bench-push",
		"nats-server": "github.com/nats-io/nats-server/v2",
	} {
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", buildTags, "-o",
			filepath.Join(binaries, name))
		if ours := name == "controller" || name == "agent" || name == "worker"; raceDetector && ours {
			build.Args = append(build.Args, "-race")
		}
		build.Args = append(build.Args, path)
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return m.Run(), nil
}

// process is a process of one of the binaries. After a crash or stop it can be started
// again, on the same port.
type process struct {
	name string
	args []string
	env  []string // KEY=VALUE, in addition to those of all
	uid  uint32   // its user; 0: that of the test

	maxFiles int // the limit of open files; 0: that of the test

	cmd   *exec.Cmd
	log   output // including before restarts
	ended chan struct{}
	addr  string
	port  string
}

// output is the output of a process, which may be read while it writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func newProcess(name string, env ...string) *process {
	return &process{name: name, env: env}
}

// unreachableURL is the default URL of an agent's controller and worker in tests: the
// real defaults may belong to a system that runs on this machine.
const unreachableURL = "http://127.0.0.1:1"

// command returns a command with only env in its environment, and without defaults that
// could reach another system on this machine.
func command(path string, env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Env = append([]string{"CONTROLLER_URL=" + unreachableURL, "WORKER_URL=" + unreachableURL,
		"GORACE=atexit_sleep_ms=0"}, env...)
	return cmd
}

// launch starts the process and returns immediately.
func (p *process) launch() error {
	if p.port == "" {
		address, err := freeport.Address()
		if err != nil {
			return err
		}
		_, p.port, _ = net.SplitHostPort(address)
	}
	path, args := filepath.Join(binaries, p.name), p.args
	if p.maxFiles != 0 {
		limit := fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, p.maxFiles)
		path, args = "sh", append([]string{"-c", limit, path}, args...)
	}
	p.cmd = command(path, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LOG_FORMAT=json",
		"PORT=" + p.port, "GORACE=halt_on_error=1 atexit_sleep_ms=0"}, p.env...), args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if p.uid != 0 {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.uid, Gid: p.uid}}
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) { // ends with the process
		_ = cmd.Wait()
		close(ended)
	}(p.cmd, p.ended)
	return nil
}

// start starts the process and returns when it listens.
func (p *process) start() error {
	before := len(p.log.String())
	if err := p.launch(); err != nil {
		return err
	}
	for deadline := time.Now().Add(timeout); ; time.Sleep(checkEvery) {
		if addr := listenAddress(p.log.String()[before:]); addr != "" {
			p.addr = addr
			_, p.port, _ = net.SplitHostPort(addr)
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended while starting, with status %d:\n%s", p.name, p.cmd.ProcessState.ExitCode(),
				p.log.String()[before:])
		default:
		}
		if time.Now().After(deadline) {
			_ = p.crash()
			return fmt.Errorf("%s does not listen:\n%s", p.name, p.log.String()[before:])
		}
	}
}

// listenAddress returns the listen address in a log, or "".
func listenAddress(log string) string {
	for line := range strings.Lines(log) {
		var event struct{ Msg, Addr string }
		if json.Unmarshal([]byte(line), &event) == nil && event.Msg == "Listening" {
			return event.Addr
		}
		if addr, ok := strings.CutPrefix(line, "http://"); ok {
			return strings.TrimSpace(addr)
		}
	}
	return ""
}

func (p *process) url() string { return "http://" + p.addr }

// crash kills the process.
func (p *process) crash() error { return p.end(syscall.SIGKILL, -1) }

// stop ends the process with SIGTERM.
func (p *process) stop() error { return p.end(syscall.SIGTERM, 0) }

func (p *process) end(signal syscall.Signal, status int) error {
	if p.cmd == nil {
		return fmt.Errorf("%s was never started", p.name)
	}
	_ = p.cmd.Process.Signal(signal) // it may have ended by itself; checkExit tells
	select {
	case <-p.ended:
	case <-time.After(timeout):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end on %v:\n%s", p.name, signal, p.log.String())
	}
	p.cmd = nil
	return p.checkExit(status)
}

// waitExit waits for the process to end by itself.
func (p *process) waitExit(status int) error {
	select {
	case <-p.ended:
	case <-time.After(timeout):
		_ = p.crash()
		return fmt.Errorf("%s has not ended:\n%s", p.name, p.log.String())
	}
	return p.checkExit(status)
}

func (p *process) checkExit(status int) error {
	log := p.log.String()
	var got int
	if p.cmd != nil {
		got = p.cmd.ProcessState.ExitCode()
		p.cmd = nil
	} else {
		got = status
	}
	switch {
	case strings.Contains(log, "DATA RACE"), strings.Contains(log, "panic:"), strings.Contains(log, `"panic"`):
		return fmt.Errorf("%s has a data race or a panic:\n%s", p.name, log)
	case got != status:
		return fmt.Errorf("%s ended with status %d, want %d:\n%s", p.name, got, status, log)
	}
	return nil
}

// --- for tests in Go ----------------------------------------------------------

// run starts a process, and kills it when the test ends.
func run(t *testing.T, name string, env ...string) *process {
	t.Helper()
	p := newProcess(name, env...)
	must(t, p.start())
	cleanUp(t, p)
	return p
}

// cleanUp kills a process when the test ends, and prints its log if the test failed.
func cleanUp(t *testing.T, p *process) {
	t.Cleanup(func() {
		if p.cmd != nil {
			if err := p.crash(); err != nil && p.name != "target" {
				t.Error(err)
			}
		}
		if t.Failed() {
			t.Logf("--- log of %s\n%s", p.name, tail(p.log.String(), 4000))
		}
	})
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// controllerIn returns the settings of a controller with its data in a directory.
func controllerIn(dir string) []string {
	return []string{"DB_PATH=" + filepath.Join(dir, "controller.db"), "DEFAULT_POLL_INTERVAL=1"}
}

// agentIn returns the settings of an agent with its cache in a directory.
func agentIn(dir, controller, worker string) []string {
	return []string{"CACHE_FILE=" + filepath.Join(dir, "agent_config.cache"), "CONTROLLER_URL=" + controller,
		"WORKER_URL=" + worker}
}

// eventually waits until condition returns nil.
func eventually(t *testing.T, condition func() error) {
	t.Helper()
	must(t, within(timeout, condition))
}

func within(d time.Duration, condition func() error) error {
	for deadline := time.Now().Add(d); ; time.Sleep(checkEvery) {
		err := condition()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s: %w", d, err)
		}
	}
}

// answer is a response.
type answer struct {
	status int
	header http.Header
	body   string
	proto  string
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, tail(a.body, 1000)) }

var client = &http.Client{
	Timeout:       40 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
}

// call sends a request. who is user:password or ""; body is JSON or "".
func call(who, method, url, body string, header ...string) (answer, error) {
	return callBy(client, who, method, url, body, header...)
}

func callBy(client *http.Client, who, method, url, body string, header ...string) (answer, error) {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, reader)
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	if user, password, ok := strings.Cut(who, ":"); ok {
		req.SetBasicAuth(user, password)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b), resp.Proto}, err
}

// get sends a GET and decodes a response with status 200.
func get[T any](who, url string) (v T, a answer, err error) {
	a, err = call(who, "GET", url, "")
	if err != nil {
		return v, a, err
	}
	if a.status != http.StatusOK {
		return v, a, fmt.Errorf("GET %s: got %v, want 200", url, a)
	}
	return v, a, json.Unmarshal([]byte(a.body), &v)
}

// config is a version in a response of the controller.
type config struct {
	Version             int64             `json:"version"`
	Data                map[string]string `json:"data"`
	PollIntervalSeconds int               `json:"poll_interval_seconds"`
	Message             string            `json:"message"`
}

// publish publishes a URL and returns the acknowledged version.
func publish(controller, url string) (int64, error) {
	a, err := call(admin, "POST", controller+"/api/v1/config", fmt.Sprintf(`{"url":%q}`, url))
	if err != nil {
		return 0, err
	}
	var done struct{ Version int64 }
	if a.status != http.StatusOK {
		return 0, fmt.Errorf("publish: got %v, want 200", a)
	}
	return done.Version, json.Unmarshal([]byte(a.body), &done)
}

// checkHit returns an error unless the body of a hit contains body.
func checkHit(worker, body string) error {
	a, err := call("", "GET", worker+"/hit", "")
	if err != nil {
		return err
	}
	if a.status != http.StatusOK || !strings.Contains(a.body, body) {
		return fmt.Errorf("the hit: got %v, want 200 %s", a, body)
	}
	return nil
}

// status is the response of an agent's /status.
type status struct {
	AgentID        string `json:"agent_id"`
	Registered     bool   `json:"registered"`
	AppliedVersion *int64 `json:"applied_version"`
	LastError      string `json:"last_error"`
	Transport      string `json:"transport"`
	Push           struct {
		Healthy bool   `json:"healthy"`
		Error   string `json:"error"`
	} `json:"push"`
	Worker struct {
		Reachable bool   `json:"reachable"`
		Error     string `json:"error"`
	} `json:"worker"`
}
