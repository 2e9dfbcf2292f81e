package cli_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/cli"
	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/settings/settingstest"
)

type options = settingstest.Options

// accounts is a settings struct with a password.
type accounts struct {
	AdminPassword settings.Secret `setting:"ADMIN_PASSWORD" default:"admin123" usage:"password of the admin"`
}

func (*accounts) Validate() settings.Faults { return nil }

func TestProgram_Start_LogsBuildAndMistyped(t *testing.T) {
	settingstest.SetEnviron(t, "ADMIN_PASSWRD=hunter2")
	var out bytes.Buffer
	d := settings.Diagnosis{LogLevel: "info", LogFormat: "text"}
	if _, err := program.Start(&out, d, &accounts{}, logrus.Fields{"listen": "127.0.0.1:8080"}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "Starting") ||
		!strings.Contains(lines[0], "127.0.0.1:8080") || !strings.Contains(lines[0], "commit") ||
		!strings.Contains(lines[1], "ADMIN_PASSWRD") || !strings.Contains(lines[1], "did_you_mean=ADMIN_PASSWORD") {
		t.Errorf("got %q, want a line with build and listener, and a warning that names ADMIN_PASSWORD", lines)
	}
	if strings.Contains(strings.Join(lines, ""), "hunter2") {
		t.Errorf("the log holds the value: %q", lines)
	}
}

// A command has no log, and a mistyped DB_PATH would have it read another database.
func TestProgram_CommandWithMistypedSetting_Warns(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "CLI_TEST_COMMAND=save x", "T_PAHT=hunter2", "T_PASSWORD=b",
		"GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if want := "keeper: warning: T_PAHT is not a setting; did you mean T_PATH?\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}

func TestProgram_PrintSettings(t *testing.T) {
	secret := settingstest.WriteFile(t, "password", "hunter2")
	file := settingstest.WriteFile(t, "s.yaml", "t_port: 9000\n")
	settingstest.SetEnviron(t, "T_PATH=https://me:hunter2@example.com/a?key=hunter2", "T_PASSWORD_FILE="+secret, "T_PROT=hunter2")
	var out bytes.Buffer
	err := commander.Parse([]string{"--config", file, "--print", "settings"}, &whole{}, &out)
	if err == nil || errors.Is(err, cli.ErrUsage) {
		t.Fatalf("got %v, want what Exit takes for success", err)
	}
	const want = `T_PATH      https://[secret]@example.com/a?[secret]  environment
T_PORT      9000                                     --config
T_PASSWORD  [secret]                                 T_PASSWORD_FILE
T_PROT is not a setting; did you mean T_PORT?
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("--print settings (-want +got):\n%s", diff)
	}
}

func TestProgram_PrintSettings_UnusableSetting_IsFault(t *testing.T) {
	settingstest.SetEnviron(t, "T_PORT=abc")
	var out bytes.Buffer
	err := commander.Parse([]string{"--print", "settings"}, &whole{}, &out)
	var faults settings.Faults
	printed := strings.Contains(out.String(), "T_PASSWORD  -")
	if !errors.As(err, &faults) || !strings.Contains(err.Error(), "T_PORT") || !printed {
		t.Errorf("got %v and\n%s\nwant T_PORT named, and the others printed", err, out.String())
	}
}

func TestProgram_Help_FitsTerminal(t *testing.T) {
	p := commander
	p.Commands = append(slices.Clone(p.Commands),
		cli.Command{Name: "long", Argument: "FILE", About: strings.Repeat("more words ", 30)})
	var out bytes.Buffer
	_ = p.Parse([]string{"--help"}, &wide{}, &out)
	for line := range strings.Lines(out.String()) {
		if len(line) > 81 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	if strings.Count(out.String(), "192.0.2.0/24") != 6 {
		t.Errorf("a part of a default is lost:\n%s", out.String())
	}
}

// wide has a default that is a list longer than a line.
type wide struct {
	Deny string `setting:"DENY" default:"192.0.2.0/24,192.0.2.0/24,192.0.2.0/24,192.0.2.0/24,192.0.2.0/24,192.0.2.0/24" usage:"networks"`
}

func (*wide) Validate() settings.Faults { return nil }
