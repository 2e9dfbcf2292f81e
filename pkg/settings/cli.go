package settings

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
)

// Program is what --help says of a binary before it lists the settings.
type Program struct {
	Name     string // as it is typed
	About    string // what it does, in a few lines
	Examples string // command lines to paste
	Commands []Command
}

// Command is something that a program does instead of what it is for.
type Command struct {
	Name     string
	Argument string // how --help calls its one argument, in brackets if it may be left out; "" for none
	About    string
}

// Health is the command by which a supervisor that has no client of its own asks
// whether the program lives.
var Health = Command{Name: "health", About: "ask the one that runs here, at PORT, whether it lives: exit status 0 if so"}

// errDone ends a run that was asked only to print something.
var errDone = errors.New("done")

// Parse reads the command line, then the settings. --help and --version print
// to stdout and give an error that Exit takes for success.
func (p Program) Parse(args []string, into Validator, stdout io.Writer) error {
	_, _, err := p.ParseCommand(args, func(string) Validator { return into }, stdout)
	return err
}

// ParseCommand is Parse for a program with commands. It returns the command,
// "" for none, and its argument. into gives the settings of a command: some of
// those of the program itself, which into gives for "". The others need not be
// usable then, but a file may hold them.
func (p Program) ParseCommand(args []string, into func(command string) Validator, stdout io.Writer) (command, argument string, err error) {
	p = p.calledAs(os.Args[0])
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	file := flags.String("config", "", "")
	version := flags.Bool("version", false, "")
	page := flags.String("print", "", "")
	words, err := Words(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		p.help(into(""), stdout)
		return "", "", errDone
	case err != nil:
		return "", "", fmt.Errorf("%w: %w; --help says what can be given", ErrUsage, err)
	case *version:
		_, _ = fmt.Fprintln(stdout, p.Name, buildinfo.Read())
		return "", "", errDone
	case pages[*page] != nil:
		pages[*page](p, into(""), stdout)
		return "", "", errDone
	case *page != "":
		return "", "", fmt.Errorf("%w: --print takes man or env, not %q", ErrUsage, *page)
	}
	if command, argument, err = p.command(words); err != nil {
		return "", "", err
	}
	return command, argument, read(into(command), *file, fieldsOf(into("")))
}

// Words sets flags, wherever they stand, and returns the words between them.
func Words(flags *flag.FlagSet, args []string) (words []string, err error) {
	for err = flags.Parse(args); err == nil && flags.NArg() > 0; err = flags.Parse(flags.Args()[1:]) {
		words = append(words, flags.Arg(0))
	}
	return words, err
}

// command takes the words of a command line for a command and its argument, as
// --help lists them.
func (p Program) command(words []string) (name, argument string, err error) {
	if len(words) == 0 {
		return "", "", nil
	}
	i := slices.IndexFunc(p.Commands, func(c Command) bool { return c.Name == words[0] })
	if i < 0 {
		return "", "", fmt.Errorf("%w: %q is no command; %s", ErrUsage, words[0], p.choice())
	}
	c, rest := p.Commands[i], words[1:]
	optional := c.Argument == "" || strings.HasPrefix(c.Argument, "[")
	switch {
	case len(rest) > 1, len(rest) == 1 && c.Argument == "", len(rest) == 0 && !optional:
		return "", "", fmt.Errorf("%w: type %s", ErrUsage, p.line(c))
	case len(rest) == 0:
		return c.Name, "", nil
	case rest[0] == "": // an unset variable in its quotes, say
		return "", "", fmt.Errorf("%w: %s is empty; type %s", ErrUsage, strings.Trim(c.Argument, "[]"), p.line(c))
	}
	return c.Name, rest[0], nil
}

// choice says which commands there are.
func (p Program) choice() string {
	if len(p.Commands) == 0 {
		return p.Name + " takes none"
	}
	names := make([]string, len(p.Commands))
	for i, c := range p.Commands {
		names[i] = c.Name
	}
	return "type " + strings.Join(names, ", ") + ", or none"
}

// line is how a command is typed.
func (p Program) line(c Command) string {
	return strings.TrimSpace(p.Name + " " + c.Name + " " + c.Argument)
}

func (p Program) help(into Validator, w io.Writer) {
	_, _ = fmt.Fprintf(w, `%s

Usage:
  %s [--config FILE]
%s
`, strings.TrimSpace(p.About), p.Name, p.usages())
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, o := range options {
		_, _ = fmt.Fprintf(table, "  %s\t%s\n", o.name, o.usage)
	}
	_ = table.Flush()
	_, _ = fmt.Fprint(w, "\nSettings, each a variable of the environment or a key of the file (default):\n")
	table = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range fieldsOf(into) {
		_, _ = fmt.Fprintf(table, "  %s\t%s\n", f.title(), f.meaning())
	}
	_ = table.Flush()
	_, _ = fmt.Fprintf(w, `
Exit status: %s

Examples:
%s
`, exitStatus, strings.Trim(p.Examples, "\n"))
}

// options are the flags that all programs take.
var options = []struct{ name, usage string }{
	{"--config FILE", "read settings from a YAML, TOML or JSON file; the environment wins over it"},
	{"--help", "print this page"},
	{"--print PAGE", "print this page as a manual page (man), or the settings as a file that systemd reads (env)"},
	{"--version", "print which build this is"},
}

const exitStatus = `0 after a clean stop (SIGTERM or SIGINT), 1 when the program cannot
go on, 2 when the command line or a setting cannot be used.`

// title is how a setting may be given.
func (f field) title() string {
	if f.secret {
		return f.name + " or " + f.name + "_FILE"
	}
	return f.name
}

// meaning is what a setting does, and its default.
func (f field) meaning() string {
	if f.fallback != "" {
		return f.usage + " (" + f.fallback + ")"
	}
	return f.usage
}

// usages lists the commands, a line each.
func (p Program) usages() string {
	var lines strings.Builder
	table := tabwriter.NewWriter(&lines, 0, 0, 3, ' ', 0)
	for _, c := range p.Commands {
		_, _ = fmt.Fprintf(table, "  %s\t%s\n", p.line(c), c.About)
	}
	_ = table.Flush()
	return lines.String()
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
