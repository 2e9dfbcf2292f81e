// Package scripts tests the scripts and documents of this repository. It needs none of
// the three programs.
package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

// fake writes a shell script named name into the directory bin.
func fake(t *testing.T, bin, name, script string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script), 0o755))
}

// script runs a command in the root of the repository, with bin first in PATH.
func script(bin string, env []string, command ...string) (output string, err error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = "../.."
	cmd.Env = append(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "MAKEFLAGS="), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// engine is a container engine that logs its calls, and fails to build images.
const engine = `echo "$0 $*" >>"$CALLS"
case "$*" in
"image inspect"*) exit 1 ;;
build*) echo "no space left on device" >&2; exit 1 ;;
esac
`

func TestCompose_FailedBuild_StartsNothing(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	calls := filepath.Join(dir, "calls")
	fake(t, bin, "docker", engine)
	fake(t, bin, "docker-compose", engine)
	env := []string{"CALLS=" + calls, "WAIT_TIMEOUT=0", "SECRETS=" + filepath.Join(dir, "secrets")}
	out, err := script(bin, env, "scripts/compose.sh", "up")
	if err == nil {
		t.Errorf("compose.sh up succeeded after a failed build:\n%s", out)
	}
	log := readText(t, calls)
	if !strings.Contains(log, " build ") {
		t.Fatalf("nothing was built:\n%s\n%s", log, out)
	}
	if regexp.MustCompile(`(?m) up -d`).MatchString(log) {
		t.Errorf("the system was started after a failed build:\n%s", log)
	}
}

// Local images have names that no public registry serves, so an engine that does not find
// one cannot pull another's.
func TestImages_Names_LocalOnly(t *testing.T) {
	const local = "localhost/fleetconf"
	for file, pattern := range map[string]string{
		"../../deploy/compose.yaml":           `image: \$\{IMAGES:-([^}]*)\}`,
		"../../scripts/compose.sh":            `\$\{IMAGES:-([^}]*)\}`,
		"../../Makefile":                      `(?m)^IMAGES \?= (.*)$`,
		"../../scripts/check-images.sh":       `(?m)^images=(.*)$`,
		"../../scripts/check-compose.sh":      `IMAGES=(\S*)`,
		"../../.github/workflows/release.yml": `docker tag "([^$]*)/\$name`,
	} {
		names := regexp.MustCompile(pattern).FindAllStringSubmatch(readText(t, file), -1)
		if len(names) == 0 {
			t.Errorf("%s has no image name that matches %s", file, pattern)
		}
		for _, name := range names {
			if !strings.HasPrefix(name[1], local) {
				t.Errorf("%s uses the image name %s, want %s…", file, name[1], local)
			}
		}
	}
	ofChecks := regexp.MustCompile(`\S*fleetconf-(?:check|stand-in)/`)
	for _, file := range shell(t) {
		for _, name := range ofChecks.FindAllString(readText(t, file), -1) {
			if !strings.Contains(name, "localhost/fleetconf-") {
				t.Errorf("%s uses the image name %s…, want localhost/…", file, name)
			}
		}
	}
}

func TestCompose_OddFolderOfSecrets_QuotedForAShell(t *testing.T) {
	bin := t.TempDir()
	fake(t, bin, "docker", `echo "/a is healthy"`)
	fake(t, bin, "docker-compose", `echo "/a is healthy"`)
	secrets := filepath.Join(t.TempDir(), "my secrets")
	out, err := script(bin, []string{"SECRETS=" + secrets}, "scripts/compose.sh", "up")
	if want := `$(cat ` + strings.ReplaceAll(secrets, " ", `\ `) + "/admin_password.txt)"; err != nil ||
		!strings.Contains(out, want) {
		t.Errorf("compose.sh up prints (%v)\n%s\nwant %s in it", err, out, want)
	}
}

// If a secret cannot be generated, no empty file is left, which the next start would use.
func TestCompose_FailedSecret_LeavesNone(t *testing.T) {
	for _, broken := range []string{"od", "head"} {
		bin, dir := t.TempDir(), t.TempDir()
		fake(t, bin, "docker", "exit 0")
		fake(t, bin, broken, "exit 1")
		secrets := filepath.Join(dir, "secrets")
		out, err := script(bin, []string{"WAIT_TIMEOUT=0", "SECRETS=" + secrets}, "scripts/compose.sh", "up")
		if err == nil {
			t.Errorf("compose.sh up succeeded without %s:\n%s", broken, out)
		}
		files, err := filepath.Glob(filepath.Join(secrets, "*"))
		must(t, err)
		if len(files) > 0 {
			t.Errorf("without %s it made %q, want no secret", broken, files)
		}
	}
}

func TestPostinst_FailedSecret_LeavesNone(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	fake(t, bin, "head", "exit 1")
	for _, helper := range []string{"deb-systemd-helper", "deb-systemd-invoke", "systemctl"} {
		fake(t, bin, helper, "exit 0")
	}
	here := strings.NewReplacer("@PROGRAM@", "controller", "/etc/fleetconf/credentials", dir)
	postinst := here.Replace(readText(t, "../../deploy/deb/postinst"))
	file := filepath.Join(bin, "postinst")
	must(t, os.WriteFile(file, []byte(postinst), 0o755))
	if out, err := script(bin, nil, file, "configure"); err == nil {
		t.Errorf("the installation succeeded without random bytes:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "admin-password")); err == nil {
		t.Error("it made an empty admin-password")
	}
}

// shell returns the scripts for bash.
func shell(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../scripts/*.sh")
	must(t, err)
	if len(files) < 10 {
		t.Fatalf("found %d scripts, want at least 10", len(files))
	}
	standIns, err := filepath.Glob("../../test/standin/*.sh")
	must(t, err)
	return append(append(files, standIns...), "../../.ci/run")
}

// No script hides a failure from set -e.
func TestScripts_CommandFails_ScriptEnds(t *testing.T) {
	for pattern, why := range map[string]string{
		`&& *exit\b`: "goes on if the command before && fails; put ; there",
		`(?:local|export|declare|readonly) [^#\n]*[a-zA-Z_]=[^ \n]*\$\([^(]`: "" +
			"hides the status of its command substitution; assign on a line of its own",
		`\w && break;? *\}`:     "goes on if the command before && fails",
		`\bfor \w+ in \$\([^(]`: "runs over nothing if the command substitution fails; assign it first",
	} {
		hiding := regexp.MustCompile(pattern)
		for _, file := range shell(t) {
			for i, line := range strings.Split(readText(t, file), "\n") {
				if hiding.MatchString(line) && !strings.HasPrefix(strings.TrimSpace(line), "#") {
					t.Errorf("%s:%d %s:\n%s", file, i+1, why, line)
				}
			}
		}
	}
	for _, file := range shell(t) {
		if file == "../../.ci/run" {
			continue // it runs all parts, and fails at the end
		}
		if !strings.Contains(readText(t, file), "\nset -euo pipefail\n") {
			t.Errorf("%s lacks set -euo pipefail", file)
		}
	}
}

// The README tests with `make check e2e`, and CI in parts that run side by side.
func TestCI_TargetsOfMakeCheck_AllRun(t *testing.T) {
	if block(t, "README.md", "make check") != "make check e2e\n" {
		t.Error("README.md does not test with make check e2e")
	}
	check := regexp.MustCompile(`(?m)^check: ([a-z ]+) ##`).FindStringSubmatch(readText(t, "../../Makefile"))
	if check == nil {
		t.Fatal("the Makefile has no target check")
	}
	ci := readText(t, "../../.ci/run")
	for _, target := range append(strings.Fields(check[1]), "e2e") {
		if !regexp.MustCompile(`\bmake [a-z0-9 -]*\b` + target + `\b`).MatchString(ci) {
			t.Errorf(".ci/run does not run make %s", target)
		}
	}
}

// Failed tests are named at the very end, after all logs.
func TestCI_FailedTest_NamedLast(t *testing.T) {
	root, bin := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		".ci/run":                  readText(t, "../../.ci/run"),
		"scripts/install-deps.sh":  "exit 0",
		"scripts/check-compose.sh": "exit 0",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(root, name), []byte("#!/bin/sh\n"+text), 0o755))
	}
	fake(t, bin, "make", `[ "$*" = "test cover" ] || exit 0
echo "=== FAIL: fleetconf/test TestBad (1.00s)"
seq 1000
exit 2`)
	out, err := script(bin, nil, "bash", filepath.Join(root, ".ci/run"))
	if err == nil {
		t.Error("exit status 0, want a failure")
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	want := "1000\n=== FAIL: fleetconf/test TestBad (1.00s)"
	if end := strings.Join(lines[:len(lines)-1], "\n"); !strings.HasSuffix(end, want) {
		t.Errorf("the end of the output: got %q, want the end of the log, the test, and the time",
			lines[max(0, len(lines)-3):])
	}
}

func TestInstallDeps_NoInstall_OnlyNames(t *testing.T) {
	bin := t.TempDir()
	installed := filepath.Join(t.TempDir(), "installed")
	for _, name := range []string{"bash", "id", "env"} {
		path, err := exec.LookPath(name)
		must(t, err)
		must(t, os.Symlink(path, filepath.Join(bin, name)))
	}
	for _, name := range []string{"go", "service", "systemctl", "update-rc.d"} {
		fake(t, bin, name, "exit 0")
	}
	fake(t, bin, "apt-get", ": >"+installed)
	out, err := script(bin, []string{"PATH=" + bin, "NO_INSTALL=1"}, "scripts/install-deps.sh")
	if err == nil || !strings.Contains(out, "gcc") || !strings.Contains(out, "redis-server") {
		t.Errorf("got %v, want a failure that names gcc and redis-server:\n%s", err, out)
	}
	if _, err := os.Stat(installed); err == nil {
		t.Error("it called apt-get")
	}
}
