package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/agent/internal/cache"
	"github.com/fleetconf/fleetconf/pkg/models"
)

// With AGENT_TEST_MAIN set, the test binary is the agent.
func TestMain(m *testing.M) {
	if os.Getenv("AGENT_TEST_MAIN") != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

func agent(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Args = []string{"agent"}
	cmd.Env = append([]string{"AGENT_TEST_MAIN=1", "PORT=0", "CACHE_FILE=" + filepath.Join(t.TempDir(), "cache"),
		"CONTROLLER_URL=http://127.0.0.1:1", "WORKER_URL=http://127.0.0.1:1"}, env...)
	return cmd
}

func TestMain_ExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for name, tt := range map[string]struct {
		args  []string
		env   []string
		code  int
		words []string
	}{
		"help": {
			args: []string{"--help"}, words: []string{"CONTROLLER_URL", "WORKER_TOKEN_FILE", "CACHE_FILE"},
		},
		"version":           {args: []string{"--version"}, words: []string{"agent dev"}},
		"unknown flag":      {args: []string{"--nope"}, code: 2, words: []string{"--help"}},
		"every bad setting": {env: []string{"PORT=abc", "CONTROLLER_URL=nope"}, code: 2, words: []string{"PORT"}},
		"default password": {
			env: []string{"HOST=0.0.0.0"}, code: 2, words: []string{"set CONTROLLER_PASSWORD to a secret of your own"},
		},
		"port taken": {env: []string{"PORT=" + port}, code: 1, words: []string{"HOST and PORT"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := agent(t, tt.env...)
			cmd.Args = append(cmd.Args, tt.args...)
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != tt.code {
				t.Errorf("exit code %d, want %d", got, tt.code)
			}
			for _, words := range tt.words {
				if !strings.Contains(string(out), words) {
					t.Errorf("output does not say %q:\n%s", words, out)
				}
			}
		})
	}
}

// A cache that is not a regular file of this agent is named in the error, and not changed.
func TestMain_CacheFileRefused_ExitCode2(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := filepath.Join(t.TempDir(), "taken")
	first := agent(t, "CACHE_FILE="+taken)
	log, err := first.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	var line [512]byte
	if _, err := log.Read(line[:]); err != nil { // it has started
		t.Fatal(err)
	}
	for path, words := range map[string]string{pipe: "a named pipe", taken: "another agent has open"} {
		second := agent(t, "CACHE_FILE="+path)
		out, _ := second.CombinedOutput()
		got, names := second.ProcessState.ExitCode(), strings.Contains(string(out), "CACHE_FILE is "+path)
		if got != 2 || !names || !strings.Contains(string(out), words) {
			t.Errorf("exit code %d, want 2 and the name and %q:\n%s", got, words, out)
		}
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("the pipe is %v (%v) now", info.Mode(), err)
	}
	// The lock ends with its process, however that ends.
	_ = first.Process.Kill()
	_ = first.Wait()
	file, err := cache.Open(taken)
	if err != nil {
		t.Fatalf("after the agent was killed: %v", err)
	}
	_ = file.Close()
}

func TestMain_SIGTERM_StopsCleanly(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		cmd := agent(t)
		log, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var line [512]byte
		if _, err := log.Read(line[:]); err != nil { // it listens
			t.Fatal(err)
		}
		_ = cmd.Process.Signal(sig)
		_, _ = io.Copy(io.Discard, log)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v, want a clean stop", sig, err)
		}
	}
}

// lines collects a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// addr waits for the log line with the address that the agent listens on.
func (l *lines) addr(t *testing.T) string {
	t.Helper()
	var found string
	eventually(t, "it listens", func() bool {
		for line := range strings.Lines(l.String()) {
			var entry struct{ Msg, Addr string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "Listening" {
				found = entry.Addr
			}
		}
		return found != ""
	})
	return found
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func read(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

const (
	sharedPassword = "shared-0123456789abcdef"
	workerToken    = "worker-0123456789abcdef"
	agentToken     = "agents-0123456789abcdef"
)

// echo returns the URLs of a controller and of a worker whose errors contain all that they
// were sent.
func echo(t *testing.T) (controller, worker string) {
	t.Helper()
	var running struct {
		mu   sync.Mutex
		body []byte
	}
	leak := func(w http.ResponseWriter, r *http.Request, status int) {
		user, pass, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"detail":%q}`, r.Header.Get("Authorization")+" "+user+" "+pass)
	}
	var polls atomic.Int64
	c := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/v1/register":
			if _, pass, _ := r.BasicAuth(); pass != sharedPassword {
				leak(w, r, 401)
				return
			}
			_, _ = fmt.Fprintf(w, `{"agent_id":"agent-7","agent_token":%q,"poll_interval_seconds":1}`, agentToken)
		case "/api/v1/config":
			poll := polls.Add(1)
			if poll == 2 {
				leak(w, r, 500)
				return
			}
			w.Header().Set("ETag", fmt.Sprintf(`"e%d"`, poll))
			_, _ = fmt.Fprintf(
				w, `{"version":%d,"data":{"url":"http://target/?key=url-0123456789abcdef"},"poll_interval_seconds":1}`,
				poll,
			)
		default:
			leak(w, r, 503)
		}
	}))
	w := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.mu.Lock()
		defer running.mu.Unlock()
		switch {
		case r.Method == http.MethodPost && polls.Load()%2 == 0:
			leak(w, r, 500)
		case r.Method == http.MethodPost:
			running.body, _ = io.ReadAll(r.Body)
			_, _ = w.Write(running.body)
		case running.body == nil:
			leak(w, r, 404)
		default:
			_, _ = w.Write(bytes.Replace(running.body, []byte("{"), []byte(`{"instance":"i",`), 1))
		}
	}))
	t.Cleanup(c.Close)
	t.Cleanup(w.Close)
	return c.URL, w.URL
}

func TestRun_Settings_ReachStatus(t *testing.T) {
	controller, worker := echo(t)
	cache := filepath.Join(t.TempDir(), "cache")
	for name, value := range map[string]string{
		"PORT": "0", "CONTROLLER_URL": controller, "WORKER_URL": worker, "CACHE_FILE": cache, "LOG_LEVEL": "debug",
		"CONTROLLER_PASSWORD": sharedPassword, "WORKER_TOKEN": workerToken,
	} {
		t.Setenv(name, value)
	}
	ctx, stop := context.WithCancel(t.Context())
	log, ended := &lines{}, make(chan error)
	go func() { ended <- run(ctx, nil, io.Discard, log) }() // ends with stop
	addr := log.addr(t)
	eventually(
		t, "version 1 is applied",
		func() bool { return strings.Contains(read(t, "http://"+addr+"/status"), `"applied_version":1`) },
	)
	eventually(t, "the controller was lost", func() bool { return strings.Contains(log.String(), "Controller lost") })
	eventually(
		t, "version 3 is applied",
		func() bool { return strings.Contains(read(t, "http://"+addr+"/status"), `"applied_version":3`) },
	)
	shown := read(t, "http://"+addr+"/status") + read(t, "http://"+addr+"/ready")
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	for _, secret := range []string{sharedPassword, workerToken, agentToken, "url-0123456789abcdef", "YWdlbnQ"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds %s:\n%s", secret, log)
		}
		if strings.Contains(shown, secret) {
			t.Errorf("/status or /ready shows %s:\n%s", secret, shown)
		}
	}
	if info, err := os.Stat(cache); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("cache: %v, %v, want mode 0600", info.Mode(), err)
	}
}

// HTTP_PROXY, in lower case too, is used for the controller, and never for the worker.
func TestRun_ProxyFromEnvironment_Used(t *testing.T) {
	controller, worker := echo(t)
	there, err := url.Parse(controller)
	if err != nil {
		t.Fatal(err)
	}
	var others atomic.Int64
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		if r.In.URL.Host != "controller.invalid:8080" {
			others.Add(1)
		}
		r.SetURL(there)
	}})
	defer proxy.Close()
	for name, value := range map[string]string{
		"PORT": "0", "CONTROLLER_URL": "http://controller.invalid:8080", "WORKER_URL": worker,
		"CACHE_FILE": filepath.Join(t.TempDir(), "cache"), "LOG_LEVEL": "debug",
		"CONTROLLER_PASSWORD": sharedPassword, "WORKER_TOKEN": workerToken,
		"http_proxy": "http://agent:hunter2@" + strings.TrimPrefix(proxy.URL, "http://"),
	} {
		t.Setenv(name, value)
	}
	ctx, stop := context.WithCancel(t.Context())
	log, ended := &lines{}, make(chan error)
	go func() { ended <- run(ctx, nil, io.Discard, log) }() // ends with stop
	addr := log.addr(t)
	eventually(t, "version 1 is applied", func() bool {
		return strings.Contains(read(t, "http://"+addr+"/status"), `"applied_version":1`)
	})
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	if n := others.Load(); n != 0 {
		t.Errorf("%d requests to other servers than the controller came by the proxy, want none", n)
	}
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("the log holds the proxy's password:\n%s", log)
	}
}

func TestSelf_ThisMachine_IsValid(t *testing.T) {
	request := self(os.Hostname())
	if err := request.Validate(); err != nil {
		t.Errorf("got %v", err)
	}
	var metadata map[string]string
	if err := json.Unmarshal(request.Metadata, &metadata); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"os", "arch", "agent_version"} {
		if metadata[key] == "" {
			t.Errorf("metadata lacks %s", key)
		}
	}
}

// The name of a machine may be any bytes, which JSON cannot encode.
func TestSelf_HostnameNotUTF8_IsValid(t *testing.T) {
	for name, want := range map[string]string{
		"caf\xe9":                             "caf\uFFFD",
		"\xff\xfe":                            "\uFFFD",
		strings.Repeat("a", 251) + "\xff\x00": "unknown",
		"web\n1":                              "unknown",
		"":                                    "unknown",
	} {
		request := self(name, nil)
		if request.Hostname != want {
			t.Errorf("%q: got %q, want %q", name, request.Hostname, want)
		}
		document, err := models.Encode(request)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if got, err := models.Decode[models.RegisterRequest](document); err != nil || got.Validate() != nil {
			t.Errorf("%q: the controller reads %+v, %v", name, got, err)
		}
	}
	if got := self("web1", os.ErrPermission).Hostname; got != "unknown" {
		t.Errorf("a name that cannot be read: got %q", got)
	}
}
