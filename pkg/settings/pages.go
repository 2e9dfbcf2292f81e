package settings

import (
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
)

// pages are the other formats of --help, from which packages are made.
var pages = map[string]func(p Program, into Validator, w io.Writer){
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
func (p Program) manual(into Validator, w io.Writer) {
	build := buildinfo.Read()
	day, _, _ := strings.Cut(build.Date, "T")
	first, _, _ := strings.Cut(strings.TrimSpace(p.About), ". ")
	title := strings.Join(strings.Fields(strings.TrimSuffix(first, ".")), " ")
	put := func(format string, args ...any) {
		for i := range args {
			args[i] = roff(fmt.Sprint(args[i]))
		}
		_, _ = fmt.Fprintf(w, format+"\n", args...)
	}
	put(`.TH %s 8 "%s" "Fleetconf %s" "Fleetconf"`+"\n.ad l", strings.ToUpper(p.Name), day, build.Version)
	put(".SH NAME\n%s \\- %s", p.Name, title)
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
	for _, f := range fieldsOf(into) {
		if f.group != "" {
			put(".SS %s", f.group)
		}
		put(".TP\n.B %s\n%s", f.title(), f.description())
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
func (p Program) environment(into Validator, w io.Writer) {
	_, _ = fmt.Fprintf(w, `# Settings of %s, as variables of its environment: see %[1]s(8).
# What is commented out shows the default. They are read at the start: restart
# the program after a change. Secrets are best kept in files of their own.
# Write yours to %s.local.env beside this file: it wins, and an upgrade,
# which brings a newer list of settings here, never asks what to do with it.
`, p.Name, strings.TrimPrefix(p.Name, "fleetconf-"))
	for _, f := range fieldsOf(into) {
		_, _ = fmt.Fprintf(w, "\n# %s\n", f.usage)
		if f.secret {
			_, _ = fmt.Fprintf(w, "#%s_FILE=\n", f.name)
			continue
		}
		_, _ = fmt.Fprintf(w, "#%s=%s\n", f.name, f.defaultText)
	}
}

// printEffective writes the effective settings and their sources, and of a secret only whether it
// is set. The error holds the settings that cannot be used.
func (p Program) printEffective(into Validator, file string, w io.Writer) error {
	fields, err := read(into, file, fieldsOf(into))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", f.name, f.shown(), f.source)
	}
	_ = table.Flush()
	for _, m := range FindMistyped(into) {
		_, _ = fmt.Fprintln(w, m)
	}
	if err != nil {
		return err
	}
	return errDone
}

// The parts of a URL that may be secret.
var userinfo, query = regexp.MustCompile(`://[^/@\s]*@`), regexp.MustCompile(`\?\S+`)

// shown returns the value of a setting without secrets.
func (f field) shown() string {
	var text string
	switch value := f.value.Interface().(type) {
	case Secret:
		if value == "" {
			return "-"
		}
		return hidden
	case []string:
		text = strings.Join(value, ",")
	case []netip.Prefix:
		parts := make([]string, len(value))
		for i, prefix := range value {
			parts[i] = prefix.String()
		}
		text = strings.Join(parts, ",")
	default:
		text = fmt.Sprint(value)
	}
	if text == "" {
		return "-"
	}
	if strings.Contains(text, "://") {
		text = query.ReplaceAllString(userinfo.ReplaceAllString(text, "://"+hidden+"@"), "?"+hidden)
	}
	return text
}
