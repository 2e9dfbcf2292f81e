package cli_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/pkg/cli"
)

// printed is what the program of these tests answers to --print.
func printed(t *testing.T, p cli.Program, page string) string {
	t.Helper()
	var out bytes.Buffer
	err := p.Parse([]string{"--print", page}, &whole{}, &out)
	if err == nil || errors.Is(err, cli.ErrUsage) || out.Len() == 0 {
		t.Fatalf("--print %s gave %v and %d bytes, want what Exit takes for success, and a page", page, err, out.Len())
	}
	return out.String()
}

func TestProgram_PrintEnv(t *testing.T) {
	t.Setenv("T_PASSWORD", "hunter2") // defaults, never what is set
	const want = `# Settings of keeper, as variables of its environment: see keeper(8).
# What is commented out shows the default. They are read at the start: restart
# the program after a change. Secrets are best kept in files of their own.
# Write yours to keeper.local.env beside this file: it wins, and an upgrade,
# which brings a newer list of settings here, never asks what to do with it.

# file to keep things in
#T_PATH=./t.db

# TCP port to listen on
#T_PORT=8080

# password of the admin
#T_PASSWORD_FILE=
`
	if diff := cmp.Diff(want, printed(t, commander, "env")); diff != "" {
		t.Errorf("--print env (-want +got):\n%s", diff)
	}
}

func TestProgram_PrintMan(t *testing.T) {
	p := commander
	p.About = "Keeper keeps\nwhat is kept. It\n.takes dots, 'quotes and C:\\paths."
	p.Examples = "  keeper copy here\n  'keeper' stays\n  a,b"
	page := printed(t, p, "man")
	for _, want := range []string{
		".TH KEEPER 8 ", ".SH NAME\nkeeper \\- Keeper keeps what is kept\n", ".B keeper [\\-\\-config FILE]\n",
		"\n\\&.takes dots, 'quotes and C:\\epaths.\n", ".B T_PASSWORD or T_PASSWORD_FILE\npassword of the admin\n",
		".B T_PORT\nTCP port to listen on (8080)\n", "\n  keeper copy here\n", "\n  a,\\:b\n",
		".SH EXIT STATUS\n0 after",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	for _, c := range p.Commands {
		if !strings.Contains(page, c.About) {
			t.Errorf("the page lacks the command %s:\n%s", c.Name, page)
		}
	}

	troff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("there is no groff here to read the page")
	}
	cmd := exec.Command(troff, "-man", "-Tutf8", "-ww", "-z")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}

func TestProgram_InstalledName_IsShown(t *testing.T) {
	self := os.Args[0]
	t.Cleanup(func() { os.Args[0] = self })
	os.Args[0] = "/usr/bin/fleet-keeper"
	p := commander
	p.Examples = "  keeper copy here\n  T_PORT=1 keeper\n  ls /var/keeper keeper.db"
	page := printed(t, p, "man")
	for _, want := range []string{
		".TH FLEET\\-KEEPER 8 ", "  fleet\\-keeper copy here\n", "T_PORT=1 fleet\\-keeper\n",
		"ls /var/keeper keeper.db\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	p.Name = "worker"
	os.Args[0] = "/usr/bin/fleetconf-worker"
	if page := printed(t, p, "env"); !strings.Contains(page, " of fleetconf-worker,") ||
		!strings.Contains(page, " to worker.local.env ") {
		t.Errorf("the settings name other files than the unit reads:\n%s", page)
	}
	p.Name = commander.Name
	os.Args[0] = "/usr/bin/bookkeeper" // another program's name
	if page := printed(t, p, "man"); !strings.Contains(page, ".TH KEEPER 8 ") {
		t.Errorf("the page goes by another name:\n%s", page)
	}
}

func TestProgram_Print_UnknownPage(t *testing.T) {
	err := commander.Parse([]string{"--print", "money"}, &whole{}, nil)
	if !errors.Is(err, cli.ErrUsage) || !strings.Contains(err.Error(), "money") {
		t.Errorf("got %v, want a fault of the command line that names it", err)
	}
}
