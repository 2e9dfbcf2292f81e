package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

// pages are the other formats of --help, from which packages are made.
var pages = map[string]func(p Program, into settings.Validator, w io.Writer){
	"man": Program.manual,
	"env": Program.environment,
}

// withInstalledName returns p under its installed name, such as fleetconf-agent for agent.
func (p Program) withInstalledName(path string) Program {
	name := filepath.Base(path)
	if !strings.HasSuffix(name, "-"+p.Name) {
		return p
	}
	word := regexp.MustCompile(`(?m)(^|\s)` + regexp.QuoteMeta(p.Name) + `(\s|$)`)
	p.Examples = word.ReplaceAllString(p.Examples, "${1}"+name+"${2}")
	p.Name = name
	return p
}

// manual writes a manual page of section 8, for man(1).
func (p Program) manual(into settings.Validator, w io.Writer) {
	build := buildinfo.Read()
	day, _, _ := strings.Cut(build.Date, "T")
	first, _, _ := strings.Cut(strings.TrimSpace(p.About), ". ")
	purpose := strings.Join(strings.Fields(strings.TrimSuffix(first, ".")), " ")
	put := func(format string, args ...any) {
		for i := range args {
			args[i] = roff(fmt.Sprint(args[i]))
		}
		_, _ = fmt.Fprintf(w, format+"\n", args...)
	}
	put(`.TH %s 8 "%s" "Fleetconf %s" "Fleetconf"`+"\n.ad l", strings.ToUpper(p.Name), day, build.Version)
	put(".SH NAME\n%s \\- %s", p.Name, purpose)
	put(".SH SYNOPSIS\n.nf\n.B %s [\\-\\-config FILE]", p.Name)
	for _, c := range p.Commands {
		put(".B %s", p.synopsis(c))
	}
	put(".fi\n.SH DESCRIPTION\n%s", strings.TrimSpace(p.About))
	if len(p.Commands) > 0 {
		put(".SH COMMANDS")
		for _, c := range p.Commands {
			put(".TP\n.B %s\n%s", strings.TrimSpace(c.Name+" "+c.Argument), c.About)
		}
	}
	put(".SH OPTIONS")
	for _, o := range options {
		put(".TP\n.B %s\n%s", o.name, o.usage)
	}
	put(".SH ENVIRONMENT\nEach setting is a variable of the environment or a key of the file that\n.B " +
		"\\-\\-config\nnames; the environment wins.")
	for _, f := range settings.Fields(into) {
		if f.Group != "" {
			put(".SS %s", f.Group)
		}
		put(".TP\n.B %s\n%s", title(f), description(f))
	}
	put(".SH EXIT STATUS\n%s", exitStatus)
	put(".SH EXAMPLES\n.nf\n%s\n.fi", strings.Trim(p.Examples, "\n"))
}

// roff escapes text for troff, and allows line breaks after commas.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, ", ", ", ", ",\n", ",\n", ",", `,\:`, "\n.", "\n\\&.", "\n'",
		"\n\\&'").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}

// environment writes every setting with its default, commented out, as an EnvironmentFile of
// systemd.
func (p Program) environment(into settings.Validator, w io.Writer) {
	_, _ = fmt.Fprintf(w, `# Settings of %s, as variables of its environment: see %[1]s(8).
# What is commented out shows the default. They are read at the start: restart
# the program after a change. Secrets are best kept in files of their own.
# Write yours to %s.local.env beside this file: it wins, and an upgrade,
# which brings a newer list of settings here, never asks what to do with it.
`, p.Name, strings.TrimPrefix(p.Name, "fleetconf-"))
	for _, f := range settings.Fields(into) {
		_, _ = fmt.Fprintf(w, "\n# %s\n", f.Usage)
		if f.Secret {
			_, _ = fmt.Fprintf(w, "#%s_FILE=\n", f.Name)
			continue
		}
		_, _ = fmt.Fprintf(w, "#%s=%s\n", f.Name, f.Default)
	}
}

// printEffective writes the effective settings and their sources, and of a secret only whether it
// is set. The error holds the settings that cannot be used.
func (p Program) printEffective(into settings.Validator, file string, w io.Writer) error {
	fields, err := settings.Load(into, file, settings.Fields(into))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", f.Name, f.Shown(), f.Source)
	}
	_ = table.Flush()
	for _, m := range settings.FindMistyped(into) {
		_, _ = fmt.Fprintln(w, m)
	}
	if err != nil {
		return err
	}
	return errDone
}
