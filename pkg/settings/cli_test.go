package settings_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/settings"
)

var program = settings.Program{
	Name:     "tester",
	About:    "\nTester tests.\n",
	Examples: "\n  tester --config tester.yaml\n",
	Commands: []settings.Command{
		{Name: "copy", Argument: "FILE", About: "copy it"},
		{Name: "show", Argument: "[FILE]", About: "show it"},
		{Name: "wipe", About: "wipe it"},
	},
}

// TestMain is the program itself when a test starts it again to see how it
// ends.
func TestMain(m *testing.M) {
	if line, ok := os.LookupEnv("SETTINGS_TEST_ARGS"); ok {
		if line == "run" {
			program.Exit(errors.New("the disk is full"))
		}
		command, argument, err := program.ParseCommand(strings.Fields(line), func(string) settings.Validator { return &options{} }, os.Stdout)
		if command != "" {
			fmt.Println("command", command, "of", argument)
		}
		program.Exit(err)
	}
	os.Exit(m.Run())
}

func TestProgram_Exit(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		args           string
		env            []string
		status         int
		stdout, stderr string
	}{
		"help":                   {"--help", nil, 0, "Tester tests.", ""},
		"help in short":          {"-h", nil, 0, "Tester tests.", ""},
		"version":                {"--version", nil, 0, "tester dev (commit ", ""},
		"nothing to complain":    {"", nil, 0, "", ""},
		"an unknown flag":        {"--port 8080", nil, 2, "", "tester: the command line cannot be understood: flag provided but not defined: -port; --help says what can be given\n"},
		"an argument":            {"start", nil, 2, "", `cannot be understood: "start"`},
		"a command":              {"copy a.db", nil, 0, "command copy of a.db\n", ""},
		"a command, and flags":   {"copy --config=/dev/null.yaml a.db", nil, 2, "", "--config names a file that cannot be read"},
		"less than it takes":     {"copy", nil, 2, "", "type tester copy FILE"},
		"more than it takes":     {"copy a.db b.db", nil, 2, "", "type tester copy FILE"},
		"what it can do without": {"show", nil, 0, "command show of \n", ""},
		"what it does not take":  {"wipe a.db", nil, 2, "", "type tester wipe"},
		"help on commands":       {"--help", nil, 0, "  tester show [FILE]   show it\n", ""},
		"a flag without value":   {"--config", nil, 2, "", "flag needs an argument"},
		"a setting":              {"", []string{"T_PORT=abc", "T_TIMEOUT=5"}, 2, "", "tester: these settings cannot be used:\n  T_PORT is \"abc\"; it must be a whole number\n  T_TIMEOUT is \"5\""},
		"a file that is not":     {"--config /nonexistent/a.yaml", nil, 2, "", "--config names a file that cannot be read: /nonexistent/a.yaml: open"},
		"what cannot go on":      {"run", nil, 1, "", "tester: the disk is full\n"},
		"help before a setting":  {"--help", []string{"T_PORT=abc"}, 0, "Settings", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := exec.Command(self)
			cmd.Env = append(append(os.Environ(), row.env...), "SETTINGS_TEST_ARGS="+row.args, "GORACE=atexit_sleep_ms=0")
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != row.status {
				t.Errorf("exit status %d, want %d", got, row.status)
			}
			for _, stream := range []struct{ name, got, want string }{{"stdout", stdout.String(), row.stdout}, {"stderr", stderr.String(), row.stderr}} {
				if stream.want == "" && stream.got != "" || !strings.Contains(stream.got, stream.want) {
					t.Errorf("%s is %q, want %q", stream.name, stream.got, stream.want)
				}
			}
		})
	}
}

func TestProgram_Help(t *testing.T) {
	t.Setenv("T_PASSWORD", "hunter2") // help tells of defaults, never of what is set
	var out bytes.Buffer
	if err := program.Parse([]string{"--help"}, &options{}, &out); err == nil || !strings.Contains(fmt.Sprint(err), "done") {
		t.Errorf("Parse = %v, want what Exit takes for success", err)
	}
	const want = `Tester tests.

Usage:
  tester [--config FILE]
  tester copy FILE     copy it
  tester show [FILE]   show it
  tester wipe          wipe it

  --config FILE   read settings from a YAML, TOML or JSON file; the environment wins over it
  --help          print this page
  --version       print which build this is

Settings, each a variable of the environment or a key of the file (default):
  T_HOST                         address to listen on (127.0.0.1)
  T_PORT                         TCP port to listen on (8080)
  T_TIMEOUT                      how long a hit may take (30s)
  T_STRICT                       refuse what is unknown (true)
  T_DENY                         networks that are not fetched from (169.254.0.0/16, fe80::/10)
  T_PASSWORD or T_PASSWORD_FILE  password of the admin (admin123)

Exit status: 0 after a clean stop (SIGTERM or SIGINT), 1 when the program cannot
go on, 2 when the command line or a setting cannot be used.

Examples:
  tester --config tester.yaml
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestProgram_ParseReadsTheFile(t *testing.T) {
	var got options
	if err := program.Parse([]string{"--config", write(t, "s.yaml", "t_port: 9000")}, &got, nil); err != nil || got.Port != 9000 {
		t.Errorf("got %d, %v, want 9000", got.Port, err)
	}
}
