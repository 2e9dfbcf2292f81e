package buildinfo_test

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
)

func TestRead_NoStamp_HasDefaults(t *testing.T) {
	info := buildinfo.Read()
	if info.Version != "dev" || info.Commit == "" || info.Date == "" || info.Go != runtime.Version() {
		t.Errorf("got %+v, want dev, and no field empty", info)
	}
}

func TestRead_ReturnsStampedValues(t *testing.T) {
	t.Cleanup(func() { buildinfo.Release, buildinfo.Commit, buildinfo.Date = "", "", "" })
	buildinfo.Release, buildinfo.Commit, buildinfo.Date = "v1.2.3", "3f2c1e9", "2026-11-24T02:00:00Z"
	if got, want := buildinfo.Read().String(),
		"v1.2.3 (commit 3f2c1e9, built 2026-11-24T02:00:00Z, "+runtime.Version()+")"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The names that the Makefile stamps exist: the linker says nothing of one that
// does not.
func TestRelease_IsStampedByMakefile(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("make")
	if err != nil {
		t.Skip("there is no make here")
	}
	out, err := exec.Command(program, "-C", root, "-n", "controller").CombinedOutput()
	if err != nil {
		t.Fatalf("make -n: %v\n%s", err, out)
	}
	for _, name := range []string{"Release", "Commit", "Date"} {
		if !strings.Contains(string(out), "-X github.com/fleetconf/fleetconf/pkg/buildinfo."+name+"=") {
			t.Errorf("make does not stamp %s:\n%s", name, out)
		}
	}
}
