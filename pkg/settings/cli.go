package settings

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
)

// Program is what --help says of a binary before it lists the settings.
type Program struct {
	Name     string // as it is typed
	About    string // what it does, in a few lines
	Examples string // command lines to paste
}

// errDone ends a run that was asked only to print something.
var errDone = errors.New("done")

// Parse reads the command line, then the settings. --help and --version print
// to stdout and give an error that Exit takes for success.
func (p Program) Parse(args []string, into Validator, stdout io.Writer) error {
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	file := flags.String("config", "", "")
	version := flags.Bool("version", false, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		p.help(into, stdout)
		return errDone
	case err != nil:
		return fmt.Errorf("%w: %w; --help says what can be given", ErrUsage, err)
	case *version:
		_, _ = fmt.Fprintln(stdout, p.Name, buildinfo.Read())
		return errDone
	case flags.NArg() > 0:
		return fmt.Errorf("%w: %q; --help says what can be given", ErrUsage, flags.Arg(0))
	}
	return Read(into, *file)
}

func (p Program) help(into Validator, w io.Writer) {
	_, _ = fmt.Fprintf(w, `%s

Usage:
  %s [--config FILE]

  --config FILE   read settings from a YAML, TOML or JSON file; the environment wins over it
  --help          print this page
  --version       print which build this is

Settings, each a variable of the environment or a key of the file (default):
`, strings.TrimSpace(p.About), p.Name)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range fieldsOf(into) {
		name := f.name
		if f.secret {
			name += " or " + name + "_FILE"
		}
		usage := f.usage
		if f.fallback != "" {
			usage += " (" + f.fallback + ")"
		}
		_, _ = fmt.Fprintf(table, "  %s\t%s\n", name, usage)
	}
	_ = table.Flush()
	_, _ = fmt.Fprintf(w, `
Exit status: 0 after a clean stop (SIGTERM or SIGINT), 1 when the program cannot
go on, 2 when the command line or a setting cannot be used.

Examples:
%s
`, strings.Trim(p.Examples, "\n"))
}

// Exit reports err on standard error, under the program's name, and ends the
// process with the exit status that --help promises.
func (p Program) Exit(err error) {
	var faults Faults
	switch {
	case err == nil || errors.Is(err, errDone):
		os.Exit(0)
	case errors.As(err, &faults) || errors.Is(err, ErrUsage):
		_, _ = fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		os.Exit(2)
	default:
		_, _ = fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		os.Exit(1)
	}
}
