package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/cli"
	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/settings/settingstest"
)

var program = cli.Program{
	Name:     "tester",
	About:    "\nTester tests.\n",
	Examples: "\n  tester --config tester.yaml\n",
}

// TestMain is the program itself when a test starts it again to see how it
// ends.
func TestMain(m *testing.M) {
	if line, ok := os.LookupEnv("CLI_TEST_ARGS"); ok {
		switch line {
		case "run":
			program.Exit(errors.New("the disk is full"))
		case "daemon":
			program.Main(daemon)
		}
		program.Exit(program.Parse(strings.Fields(line), &options{}, os.Stdout))
	}
	if line, ok := os.LookupEnv("CLI_TEST_COMMAND"); ok {
		_, _, err := commander.ParseCommand(strings.Fields(line), func(string) settings.Validator { return &whole{} },
			os.Stdout)
		commander.Exit(err)
	}
	// Under nohup the programs that are tested would ignore it as this one does.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
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
		"help":                {"--help", nil, 0, "Tester tests.", ""},
		"help in short":       {"-h", nil, 0, "Tester tests.", ""},
		"version":             {"--version", nil, 0, "tester dev (commit ", ""},
		"nothing to complain": {"", nil, 0, "", ""},
		"an unknown flag": {"--port 8080", nil, 2, "",
			"tester: the command line cannot be understood: flag provided but not defined: -port; --help says what " +
				"can be given\n"},
		"the word help":        {"help", nil, 0, "Tester tests.", ""},
		"the word version":     {"version", nil, 0, "tester dev (commit ", ""},
		"version of something": {"version x", nil, 2, "", `"version" is not a command`},
		"an argument": {"start", nil, 2, "",
			`cannot be understood: "start" is not a command; type help, version, or none`},
		"a flag without value": {"--config", nil, 2, "", "flag needs an argument"},
		"a setting": {"", []string{"T_PORT=abc", "T_TIMEOUT=5"}, 2, "",
			"tester: these settings cannot be used:\n  T_PORT is \"abc\"; it must be a whole number\n  T_TIMEOUT is " +
				"\"5\""},
		"a file that is not": {"--config /nonexistent/a.yaml", nil, 2, "",
			"--config names a file that cannot be read: /nonexistent/a.yaml: open"},
		"what cannot go on":     {"run", nil, 1, "", "tester: the disk is full\n"},
		"help before a setting": {"--help", []string{"T_PORT=abc"}, 0, "Settings", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := exec.Command(self)
			cmd.Env = append(append(os.Environ(), row.env...), "CLI_TEST_ARGS="+row.args,
				"GORACE=atexit_sleep_ms=0")
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != row.status {
				t.Errorf("exit status %d, want %d", got, row.status)
			}
			for _, stream := range []struct{ name, got, want string }{{"stdout", stdout.String(), row.stdout},
				{"stderr", stderr.String(), row.stderr}} {
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
	if err := program.Parse([]string{"--help"}, &options{}, &out); err == nil ||
		!strings.Contains(fmt.Sprint(err), "done") {
		t.Errorf("Parse = %v, want what Exit takes for success", err)
	}
	const want = `Tester tests.

Usage:
  tester [--config FILE]

  --config FILE          read settings from a YAML, TOML or JSON file; the
                         environment wins over it
  --help, help           print this page
  --print PAGE           print this page as a manual page (man), the settings as
                         a file that systemd reads (env), or the settings in
                         effect and where each comes from, without secrets
                         (settings)
  --version, version     print which build this is

Settings, each a variable of the environment or a key of the file (default):

Listener:
  T_HOST                 address to listen on (127.0.0.1)
  T_PORT                 TCP port to listen on (8080)

Hits:
  T_TIMEOUT              how long a hit may take (30s)
  T_STRICT               refuse what is unknown (true)
  T_DENY                 networks that are not fetched from (169.254.0.0/16,
                         fe80::/10)
  T_PASSWORD or T_PASSWORD_FILE
                         password of the admin (admin123)

Exit status: 0 after a clean stop (SIGTERM, SIGINT or SIGHUP), 1 when the
program cannot go on, 2 when the command line or a setting cannot be used, 128
and the number of the signal when a second SIGTERM or SIGINT ends it
immediately.

Examples:
  tester --config tester.yaml
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestProgram_Parse_ReadsFile(t *testing.T) {
	var got options
	file := settingstest.WriteFile(t, "s.yaml", "t_port: 9000")
	if err := program.Parse([]string{"--config", file}, &got, nil); err != nil ||
		got.Port != 9000 {
		t.Errorf("got %d, %v, want 9000", got.Port, err)
	}
}

// Part is what a command of the program below reads of its settings.
type Part struct {
	Path string `setting:"T_PATH" default:"./t.db" usage:"file to keep things in"`
}

func (p *Part) Validate() (faults settings.Faults) {
	faults.Check(p.Path != "", "T_PATH", "is empty")
	return faults
}

// whole is all of its settings.
type whole struct {
	Part
	Port     int             `setting:"T_PORT" default:"8080" usage:"TCP port to listen on"`
	Password settings.Secret `setting:"T_PASSWORD" usage:"password of the admin"`
}

func (w *whole) Validate() (faults settings.Faults) {
	faults.Check(w.Password != "", "T_PASSWORD", "is empty")
	return append(faults, w.Part.Validate()...)
}

var commander = cli.Program{
	Name: "keeper", About: "Keeper keeps.",
	Commands: []cli.Command{
		{Name: "save", Argument: "FILE", About: "save things"},
		{Name: "show", Argument: "[FILE]", About: "show things"},
		{Name: "drop", About: "drop things"},
	},
}

func parseCommand(t *testing.T, args ...string) (command, argument, path string, err error) {
	t.Helper()
	var set whole
	command, argument, err = commander.ParseCommand(args, func(command string) settings.Validator {
		if command != "" {
			return &set.Part
		}
		return &set
	}, io.Discard)
	return command, argument, set.Path, err
}

func TestProgram_ParseCommand(t *testing.T) {
	t.Setenv("T_PORT", "abc")                // what a command does not read need not be usable,
	t.Setenv("T_PASSWORD_FILE", "/not/here") // nor readable
	file := settingstest.WriteFile(t, "s.yaml", "t_path: /var/t.db\nt_port: 9000")
	for name, row := range map[string]struct {
		args                    []string
		command, argument, path string
	}{
		"a command and its argument":     {[]string{"save", "x"}, "save", "x", "./t.db"},
		"without the one that is left":   {[]string{"show"}, "show", "", "./t.db"},
		"with it":                        {[]string{"show", "-"}, "show", "-", "./t.db"},
		"one that takes none":            {[]string{"drop"}, "drop", "", "./t.db"},
		"a flag before the command":      {[]string{"--config", file, "save", "x"}, "save", "x", "/var/t.db"},
		"a flag behind the command":      {[]string{"save", "--config", file, "x"}, "save", "x", "/var/t.db"},
		"a flag behind the argument":     {[]string{"save", "x", "--config=" + file}, "save", "x", "/var/t.db"},
		"an argument that looks as such": {[]string{"save", "--", "-x"}, "save", "-x", "./t.db"},
	} {
		t.Run(name, func(t *testing.T) {
			command, argument, path, err := parseCommand(t, row.args...)
			if err != nil || command != row.command || argument != row.argument || path != row.path {
				t.Errorf("got %q %q with T_PATH=%q, %v, want %q %q with %q", command, argument, path, err, row.command,
					row.argument, row.path)
			}
		})
	}
}

func TestProgram_ParseCommand_UsageErrors(t *testing.T) {
	for name, row := range map[string]struct {
		args []string
		want string
	}{
		"no such command": {[]string{"safe", "x"},
			`"safe" is not a command; type save, show, drop, help, version, or none`},
		"no word": {[]string{""},
			`"" is not a command; type save, show, drop, help, version, or none`},
		"an argument that is missing": {[]string{"save"}, "type keeper save FILE"},
		"an argument that is empty":   {[]string{"save", ""}, "FILE is empty; type keeper save FILE"},
		"an empty one of choice":      {[]string{"show", ""}, "FILE is empty; type keeper show [FILE]"},
		"one too many":                {[]string{"show", "x", "y"}, "type keeper show [FILE]"},
		"one where none is taken":     {[]string{"drop", "x"}, "type keeper drop"},
		"one beside a page": {[]string{"--print", "settings", "x"},
			`--print settings takes no argument, and "x" was given`},
		"a flag that is not known": {[]string{"save", "x", "--force"}, "not defined: -force; --help says"},
	} {
		t.Run(name, func(t *testing.T) {
			command, _, _, err := parseCommand(t, row.args...)
			if !errors.Is(err, cli.ErrUsage) || !strings.Contains(err.Error(), row.want) || command != "" {
				t.Errorf("got %q, %v, want an ErrUsage that says %q", command, err, row.want)
			}
		})
	}
}

func TestProgram_Command_ValidatesOnlyItsSettings(t *testing.T) {
	for name, row := range map[string]struct{ file, want string }{
		"a bad value":    {"t_path: ''", "T_PATH is empty"},
		"an unknown key": {"t_pass: /x", "T_PASS is not a setting of this program"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := parseCommand(t, "save", "x", "--config", settingstest.WriteFile(t, "s.yaml", row.file))
			var faults settings.Faults
			if !errors.As(err, &faults) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want a fault that says %q", err, row.want)
			}
		})
	}
	if _, _, _, err := parseCommand(t); err == nil || !strings.Contains(err.Error(), "T_PASSWORD is empty") {
		t.Errorf("without a command: got %v, want all settings read", err)
	}
}

func TestProgram_Help_ListsCommands(t *testing.T) {
	var out bytes.Buffer
	_, _, err := commander.ParseCommand([]string{"save", "--help"}, func(string) settings.Validator { return &whole{} },
		&out)
	const want = `
Usage:
  keeper [--config FILE]
  keeper save FILE       save things
  keeper show [FILE]     show things
  keeper drop            drop things

  --config FILE          read`
	if err == nil || !strings.Contains(err.Error(), "done") || !strings.Contains(out.String(), want) {
		t.Errorf("got %v and:\n%s\nwant within it:\n%s", err, out.String(), want)
	}
	if !strings.Contains(out.String(), "T_PATH ") || !strings.Contains(out.String(), "T_PASSWORD ") {
		t.Errorf("not every setting is listed:\n%s", out.String())
	}
}

func TestAddress(t *testing.T) {
	if got := cli.Address("::1", 80); got != "[::1]:80" {
		t.Errorf("got %q, want [::1]:80", got)
	}
}
