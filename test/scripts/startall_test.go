package scripts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMake_NoCCompiler_NamesWhatToInstall(t *testing.T) {
	bin, built := t.TempDir(), filepath.Join(t.TempDir(), "built")
	fake(t, bin, "go", `[ "$*" != "env CC" ] || { echo "no-such-cc -m64"; exit; }; : >"`+built+`"`)
	out, err := script(bin, nil, "make", "controller")
	if err == nil || !strings.Contains(out, "no-such-cc") || !strings.Contains(out, "apt-get install gcc libc6-dev") {
		t.Errorf("got %v, want a failure that names the compiler and what to install:\n%s", err, out)
	}
	if _, err := os.Stat(built); err == nil {
		t.Error("a controller was built without SQLite")
	}
}

// With the GOFLAGS in CONTRIBUTING.md the build of one module does not compile SQLite again.
func TestMake_GOFLAGS_ShareTheCompiledSQLite(t *testing.T) {
	printed, err := script("", nil, "make", "-s", "goflags")
	must(t, err)
	flags := strings.TrimSpace(printed)
	dryRun, err := script("", []string{"GOFLAGS="}, "make", "-n", "controller")
	must(t, err)
	_, tags, _ := strings.Cut(flags, "-tags=")
	if !strings.Contains(dryRun, "-tags "+tags+" ") || !strings.HasPrefix(flags, "-trimpath ") {
		t.Errorf("make goflags prints %q, and the controller is built by\n%s", flags, dryRun)
	}
	if b := block(t, "CONTRIBUTING.md", "go build -C controller"); !strings.Contains(b,
		`export GOFLAGS="$(make -s goflags)"`) {
		t.Errorf("CONTRIBUTING.md builds a module without these flags:\n%s", b)
	}
}

// tree returns a copy of start-all.sh with fake programs, which print some settings, are
// healthy, and run until they are killed.
func tree(t *testing.T) (startAll, bin string) {
	t.Helper()
	root := t.TempDir()
	for _, folder := range []string{"scripts", "bin", "fakes"} {
		must(t, os.Mkdir(filepath.Join(root, folder), 0o755))
	}
	for _, name := range []string{"controller", "agent", "worker"} {
		fake(t, filepath.Join(root, "bin"), name, `[ "$*" != health ] || exit 0
			echo "`+name+` colours=$CLICOLOR_FORCE port=$PORT format=$LOG_FORMAT" \
				"to=$CONTROLLER_URL ca=$CONTROLLER_CA_FILE"
			echo "`+name+` nats=$NATS_URL"
			exec sleep 60`)
	}
	bin = filepath.Join(root, "fakes")
	fake(t, bin, "make", "exit 0")
	fake(t, bin, "curl", "exit 1") // only HTTP health checks use it
	startAll = filepath.Join(root, "scripts", "start-all.sh")
	must(t, os.WriteFile(startAll, []byte(readText(t, "../../scripts/start-all.sh")), 0o755))
	return startAll, bin
}

// ports are for the fake programs, which do not listen.
var ports = []string{"CONTROLLER_PORT=1", "AGENT_PORT=2", "WORKER_PORT=3"}

// eventually waits until the result of ask contains words.
func eventually(t *testing.T, words string, ask func() string) {
	t.Helper()
	var said string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if said = ask(); strings.Contains(said, words) {
			return
		}
	}
	t.Fatalf("after 30 s %q is not in\n%s", words, said)
}

func TestStartAll_Tmux_TitledPanesAndGreeting(t *testing.T) {
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("tmux is not installed")
	}
	startAll, bin := tree(t)
	socket, err := os.MkdirTemp("", "tmux") // socket paths must be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(socket) })
	env := append(ports, "TMUX_TMPDIR="+socket, "SHELL=/bin/sh", "TERM=xterm", "NATS_URL=embedded",
		"NATS_LISTEN=127.0.0.1:4")
	tmux := func(args ...string) string {
		out, _ := script(bin, env, append([]string{"tmux", "-L", "fleetconf"}, args...)...)
		return out
	}
	t.Cleanup(func() { tmux("kill-server") })
	if out, err := script(bin, env, startAll, "--tmux"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if titles := tmux("list-panes", "-F", "#{pane_title}"); titles != "controller\nworker\nagent\nshell\n" {
		t.Errorf("the panes have the titles %q, want controller, worker, agent and shell", titles)
	}
	if status := tmux("show-options", "-w", "pane-border-status"); !strings.Contains(status, "top") {
		t.Errorf("%q: the titles are not shown", status)
	}
	eventually(t, "/hit", func() string { return tmux("capture-pane", "-p", "-J", "-t", "fleetconf:.3") })
	for i, name := range []string{"controller nats=embedded", "worker nats=embedded",
		"agent nats=nats://127.0.0.1:4"} {
		eventually(t, name+"\n", func() string {
			return tmux("capture-pane", "-p", "-J", "-t",
				fmt.Sprint("fleetconf:.", i))
		})
	}
}

// startInTree runs a command with the start-all.sh of a tree until the test ends.
func startInTree(t *testing.T, bin string, cmd *exec.Cmd, env ...string) (said func() string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	file, err := os.Create(log)
	must(t, err)
	cmd.Env = slices.Concat(os.Environ(), []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, ports, env)
	cmd.Stdout, cmd.Stderr = file, file
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait(); file.Close() })
	return func() string { return readText(t, log) }
}

func TestStartAll_Terminal_ColouredUnlessNOCOLOR(t *testing.T) {
	if _, err := exec.LookPath("script"); err != nil {
		t.Skip("script(1) is not installed, which provides a terminal")
	}
	for noColor, want := range map[string]string{"": "controller colours=1 ", "1": "controller colours= "} {
		startAll, bin := tree(t)
		cmd := exec.Command("script", "-qefc", startAll, "/dev/null")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		said := startInTree(t, bin, cmd, "NO_COLOR="+noColor)
		eventually(t, want, said)
		if said := said(); strings.Contains(said, "\x1b[36m") != (noColor == "") {
			t.Errorf("NO_COLOR=%q: want colours unless it is set:\n%q", noColor, said)
		}
	}
}

// The agent gets the URL of a controller with TLS, and trusts its certificate unless CONTROLLER_CA_FILE is set.
func TestStartAll_Foreground_AgentFindsController(t *testing.T) {
	const to = "colours= port=2 format=text to="
	for name, row := range map[string]struct{ env, agent, greeting string }{
		"plain":    {"TLS_CERT_FILE=", to + "http://localhost:1 ca=\n", "}' http://localhost:1/"},
		"TLS":      {"TLS_CERT_FILE=/c", to + "https://localhost:1 ca=/c\n", "curl --cacert /c -u"},
		"odd path": {"TLS_CERT_FILE=/c&d", to + "https://localhost:1 ca=/c&d\n", `curl --cacert /c\&d -u`},
		"own CA too": {"TLS_CERT_FILE=/c CONTROLLER_CA_FILE=/ca", to + "https://localhost:1 ca=/ca\n",
			"}' https://localhost:1/"},
		"embedded NATS": {"NATS_URL=embedded NATS_LISTEN=127.0.0.1:4", "nats=nats://127.0.0.1:4\n", "/hit"},
	} {
		startAll, bin := tree(t)
		log := startInTree(t, bin, exec.Command(startAll), strings.Fields("CONTROLLER_CA_FILE= "+row.env)...)
		said := func() string { return name + "\n" + log() }
		eventually(t, "agent      | agent "+row.agent, said)
		eventually(t, row.greeting, said)
	}
}
