// Package cli is the command line of the three programs: commands, --help and its other formats, signals,
// exit statuses and the start of the log.
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

// Program describes a binary for --help.
type Program struct {
	Name     string // of the command
	About    string // its purpose, in a few lines
	Examples string // command lines
	Commands []Command
}

// Command is a subcommand of a program.
type Command struct {
	Name     string
	Argument string // the name of its one argument, in brackets if optional; "" for none
	About    string
}

// Health is the health check of supervisors without an HTTP client.
var Health = Command{
	Name:  "health",
	About: "check the process that listens on PORT of this machine: exit status 0 if it is alive",
}

// ErrUsage is the error of a command line that cannot be understood.
var ErrUsage = errors.New("the command line cannot be understood")

// errDone ends a run that only prints something.
var errDone = errors.New("done")

// Parse reads the command line and the settings. --help and --version print to stdout and return
// an error that Exit treats as success.
func (p Program) Parse(args []string, into settings.Validator, stdout io.Writer) error {
	_, _, err := p.ParseCommand(args, func(string) settings.Validator { return into }, stdout)
	return err
}

// ParseCommand is Parse for a program with commands. It returns the command, "" for none, and
// its argument. into returns the settings of a command, and those of the program for "". A
// command's settings are a part of the program's; a file may have the others too, which are not
// validated.
func (p Program) ParseCommand(args []string, into func(command string) settings.Validator, stdout io.Writer) (command,
	argument string, err error) {
	p = p.withInstalledName(os.Args[0])
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	file := flags.String("config", "", "")
	version := flags.Bool("version", false, "")
	page := flags.String("print", "", "")
	arguments, err := ParseArgs(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		p.help(into(""), stdout)
		return "", "", errDone
	case err != nil:
		return "", "", fmt.Errorf("%w: %w; --help says what can be given", ErrUsage, err)
	case *version:
		_, _ = fmt.Fprintln(stdout, p.Name, buildinfo.Read())
		return "", "", errDone
	case *page != "" && len(arguments) > 0:
		return "", "", fmt.Errorf("%w: --print %s takes no argument, and %q was given", ErrUsage, *page, arguments[0])
	case pages[*page] != nil:
		pages[*page](p, into(""), stdout)
		return "", "", errDone
	case *page == "settings":
		return "", "", p.printEffective(into(""), *file, stdout)
	case *page != "":
		return "", "", fmt.Errorf("%w: --print takes man, env or settings, not %q", ErrUsage, *page)
	}
	if command, argument, err = p.command(arguments); err != nil {
		return "", "", err
	}
	switch command {
	case "help":
		p.help(into(""), stdout)
		return "", "", errDone
	case "version":
		_, _ = fmt.Fprintln(stdout, p.Name, buildinfo.Read())
		return "", "", errDone
	case "", Health.Name: // Start logs them
	default:
		for _, m := range settings.FindMistyped(into("")) {
			_, _ = fmt.Fprintf(os.Stderr, "%s: warning: %s\n", p.Name, m)
		}
	}
	_, err = settings.Load(into(command), *file, settings.Fields(into("")))
	return command, argument, err
}

// AllOr returns the into of ParseCommand for a program whose one command is Health, which
// needs the settings of the listener only.
func AllOr(all, listener settings.Validator) func(command string) settings.Validator {
	return func(command string) settings.Validator {
		if command == Health.Name {
			return listener
		}
		return all
	}
}

// ParseArgs sets flags and returns the other arguments, in any order.
func ParseArgs(flags *flag.FlagSet, args []string) (arguments []string, err error) {
	for err = flags.Parse(args); err == nil && flags.NArg() > 0; err = flags.Parse(flags.Args()[1:]) {
		arguments = append(arguments, flags.Arg(0))
	}
	return arguments, err
}

// command returns the command and the argument of a command line.
func (p Program) command(arguments []string) (name, argument string, err error) {
	if len(arguments) == 0 {
		return "", "", nil
	}
	i := slices.IndexFunc(p.Commands, func(c Command) bool { return c.Name == arguments[0] })
	if i < 0 && len(arguments) == 1 && (arguments[0] == "help" || arguments[0] == "version") {
		return arguments[0], "", nil
	}
	if i < 0 {
		return "", "", fmt.Errorf("%w: %q is not a command; %s", ErrUsage, arguments[0], p.listCommands())
	}
	c, rest := p.Commands[i], arguments[1:]
	optional := c.Argument == "" || strings.HasPrefix(c.Argument, "[")
	switch {
	case len(rest) > 1, len(rest) == 1 && c.Argument == "", len(rest) == 0 && !optional:
		return "", "", fmt.Errorf("%w: type %s", ErrUsage, p.synopsis(c))
	case len(rest) == 0:
		return c.Name, "", nil
	case rest[0] == "": // such as an unset variable in quotes
		return "", "", fmt.Errorf("%w: %s is empty; type %s", ErrUsage, strings.Trim(c.Argument, "[]"), p.synopsis(c))
	}
	return c.Name, rest[0], nil
}

// listCommands returns a sentence that lists the commands.
func (p Program) listCommands() string {
	names := make([]string, 0, len(p.Commands)+2)
	for _, c := range p.Commands {
		names = append(names, c.Name)
	}
	return "type " + strings.Join(append(names, "help", "version"), ", ") + ", or none"
}

// synopsis returns the command line of a command.
func (p Program) synopsis(c Command) string {
	return strings.TrimSpace(p.Name + " " + c.Name + " " + c.Argument)
}

func (p Program) help(into settings.Validator, w io.Writer) {
	_, _ = fmt.Fprintf(w, "%s\n\nUsage:\n  %s [--config FILE]\n", strings.TrimSpace(p.About), p.Name)
	for _, c := range p.Commands {
		entry(w, p.synopsis(c), c.About)
	}
	_, _ = fmt.Fprintln(w)
	for _, o := range options {
		entry(w, o.name, o.usage)
	}
	_, _ = fmt.Fprint(w, "\nSettings, each a variable of the environment or a key of the file (default):\n")
	for _, f := range settings.Fields(into) {
		if f.Group != "" {
			_, _ = fmt.Fprintf(w, "\n%s:\n", f.Group)
		}
		entry(w, title(f), description(f))
	}
	_, _ = fmt.Fprintf(w, `
Exit status: %s

Examples:
%s
`, exitStatus, strings.Trim(p.Examples, "\n"))
}

// The layout of --help.
const (
	pageWidth = 80
	column    = 25 // of the descriptions
)

// entry writes a term with its description beside or below it.
func entry(w io.Writer, term, text string) {
	line := "  " + term
	if len(line) > column-2 {
		_, _ = fmt.Fprintln(w, line)
		line = ""
	}
	for _, part := range wrap(text, pageWidth-column) {
		_, _ = fmt.Fprintf(w, "%-*s%s\n", column, line, part)
		line = ""
	}
}

// wrap breaks text into lines after spaces and commas.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		glue := " "
		for _, piece := range strings.SplitAfter(word, ",") {
			switch {
			case line == "":
				line = piece
			case len(line)+len(glue)+len(piece) > width && piece != "":
				lines, line = append(lines, line), piece
			default:
				line += glue + piece
			}
			glue = ""
		}
	}
	return append(lines, line)
}

// options are the flags of all programs.
var options = []struct{ name, usage string }{
	{"--config FILE", "read settings from a YAML, TOML or JSON file; the environment wins over it"},
	{"--help, help", "print this page"},
	{"--print PAGE", "print this page as a manual page (man), the settings as a file that systemd reads (env), or " +
		"the settings in effect and where each comes from, without secrets (settings)"},
	{"--version, version", "print which build this is"},
}

const exitStatus = `0 after a clean stop (SIGTERM, SIGINT or SIGHUP), 1 when the
program cannot go on, 2 when the command line or a setting cannot be used, 128
and the number of the signal when a second SIGTERM or SIGINT ends it
immediately.`

// title returns the variables of a setting.
func title(f settings.Field) string {
	if f.Secret {
		return f.Name + " or " + f.Name + "_FILE"
	}
	return f.Name
}

// description returns the description of a setting with its default.
func description(f settings.Field) string {
	if f.Default != "" {
		return f.Usage + " (" + f.Default + ")"
	}
	return f.Usage
}

// Exit prints err to standard error, after the program's name, and ends the process with the exit
// status that --help documents.
func (p Program) Exit(err error) {
	var faults settings.Faults
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
