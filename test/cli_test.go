package test

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var programs = []string{"controller", "agent", "worker"}

// runProgram runs a program in an empty folder and returns its output and exit status.
func runProgram(t *testing.T, path string, env []string, args ...string) (output string, status int) {
	t.Helper()
	cmd := command(path, env, args...)
	cmd.Dir = t.TempDir()
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// settingsOf returns the settings in --help of a program.
func settingsOf(t *testing.T, name string) []string {
	t.Helper()
	page, _ := runProgram(t, filepath.Join(binaries, name), nil, "--help")
	_, list, _ := strings.Cut(page, "\nSettings")
	list, _, _ = strings.Cut(list, "\nExit status")
	found := matches(`(?m)^  ([A-Z][A-Z0-9_]+)`, list)
	if len(found) < 5 {
		t.Fatalf("--help of %s lists %d settings, want at least 5:\n%s", name, len(found), page)
	}
	return found
}

func TestHelp_Lines_Fit80Columns(t *testing.T) {
	t.Parallel()
	for _, name := range programs {
		installed := filepath.Join(t.TempDir(), "fleetconf-"+name)
		must(t, os.Symlink(filepath.Join(binaries, name), installed))
		for _, path := range []string{filepath.Join(binaries, name), installed} {
			page, status := runProgram(t, path, nil, "help")
			if status != 0 {
				t.Errorf("%s help: exit status %d", path, status)
			}
			for line := range strings.Lines(page) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
					t.Errorf("%s --help has a line of %d columns: %s", filepath.Base(path), n, line)
				}
			}
			if groups := matches(`(?m)^([A-Z][A-Za-z ]+):$`, page); len(groups) < 4 {
				t.Errorf("%s --help groups its settings under %q, want at least four headings", name, groups)
			}
		}
	}
}

func TestUsageErrors_AllPrograms_SameMessage(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, row := range []struct {
		env  []string
		args []string
	}{
		{env: []string{"PORT=abc"}},
		{env: []string{"PORT=70000"}},
		{env: []string{"LOG_LEVEL=loud"}},
		{env: []string{"LOG_FORMAT=xml"}},
		{env: []string{"DEBUG_PORT=-1"}},
		{env: []string{"PORT=" + port, "LOG_LEVEL=error"}},
		{args: []string{"--prot", "1"}},
		{args: []string{"--config", "nowhere.yaml"}},
		{args: []string{"--print", "money"}},
		{args: []string{"health", "now"}},
		{args: []string{"health"}, env: []string{"PORT=1"}},
	} {
		var first string
		for _, name := range programs {
			said, status := runProgram(t, filepath.Join(binaries, name), row.env, row.args...)
			said = strings.ReplaceAll(said, name, "PROGRAM")
			if status == 0 || said == "" {
				t.Errorf("%v %v: %s exit status %d and %q, want an error", row.env, row.args, name, status, said)
			}
			if first == "" {
				first = said
			}
			if said != first {
				t.Errorf("%v %v: %s prints\n%s\nand the %s\n%s", row.env, row.args, name, said, programs[0], first)
			}
		}
	}
}

// One environment file may serve all three programs.
func TestMistypedSettings_OtherProgramsSettings_NoWarning(t *testing.T) {
	t.Parallel()
	for _, name := range programs {
		own := settingsOf(t, name)
		var env []string
		for _, other := range programs {
			for _, setting := range settingsOf(t, other) {
				// These are mistaken for settings of ours, which are not set.
				same := strings.HasPrefix(setting, "AGENT_") || strings.HasPrefix(setting, "CONTROLLER_")
				if !same && !slices.Contains(own, setting) {
					env = append(env, setting+"=x")
				}
			}
		}
		out, status := runProgram(t, filepath.Join(binaries, name), env, "--print", "settings")
		if status != 0 || strings.Contains(out, "did you mean") {
			t.Errorf("%s, with the settings of the others: exit status %d\n%s", name, status, out)
		}
	}
}

// The first log line names the build, the listen address and the peers.
func TestStart_FirstLogLine_NamesBuildAndAddresses(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string]string{
		"controller": "listen database transport", "agent": "listen controller worker transport", "worker": "listen",
	} {
		dir := t.TempDir()
		p := run(t, name, "DB_PATH="+filepath.Join(dir, "c.db"), "CACHE_FILE="+filepath.Join(dir, "a.cache"),
			"REDIS_URLL=redis://:hunter2@localhost")
		first, _, _ := strings.Cut(p.log.String(), "\n")
		var event map[string]any
		must(t, json.Unmarshal([]byte(first), &event))
		if name == "agent" && (event["controller"] != unreachableURL || event["worker"] != unreachableURL) {
			t.Errorf("an agent without URLs logs %s, want %s for both", first, unreachableURL)
		}
		for _, field := range append(strings.Fields(fields), "build") {
			if event[field] == nil || event["msg"] != "Starting" {
				t.Errorf("%s logs first %s, want Starting with the field %s", name, first, field)
			}
		}
		log := p.log.String()
		if warned := strings.Contains(log, "REDIS_URLL"); warned != (name != "worker") ||
			strings.Contains(log, "hunter2") {
			t.Errorf("%s: warned of REDIS_URLL: %v, want a warning without the value if REDIS_URL is a setting:\n%s",
				name, warned, log)
		}
	}
}

// docs/settings.md lists the settings that --help lists, program by program.
func TestSettingsDoc_Settings_Complete(t *testing.T) {
	t.Parallel()
	page := readText(t, "../docs/settings.md")
	var all []string
	for _, name := range programs {
		_, section, _ := strings.Cut(page, "\n<!-- settings of the "+name+" -->\n")
		section, _, _ = strings.Cut(section, "\n<!-- end of settings -->\n")
		settings := settingsOf(t, name)
		all = append(all, settings...)
		for _, setting := range settings {
			if !strings.Contains(section, "\n| `"+setting+"`") {
				t.Errorf("docs/settings.md lacks %s of the %s", setting, name)
			}
		}
		for _, setting := range matches("(?m)^\\| `([A-Z0-9_]+)`", section) {
			if !slices.Contains(settings, setting) {
				t.Errorf("docs/settings.md has %s, which is not a setting of the %s", setting, name)
			}
		}
	}
	for _, setting := range matches("`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", page) {
		known := slices.Contains(all, setting) || slices.Contains(all, strings.TrimSuffix(setting, "_FILE"))
		if !known && !strings.HasPrefix(setting, "X_") {
			t.Errorf("docs/settings.md names %s, which no program has", setting)
		}
	}
}
