package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
)

// store creates a database at DB_PATH, and makes its folder the working directory.
func store(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "controller.db")
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DB_PATH", path)
	t.Chdir(dir)
	return dir
}

// command runs the program with a command line.
func command(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, log bytes.Buffer
	err = run(t.Context(), args, &out, &log)
	return out.String(), err
}

func TestExport_Dash_WritesToStandardOutput(t *testing.T) {
	dir := store(t)
	for _, args := range [][]string{{"export"}, {"export", "-"}} {
		if out, err := command(t, args...); err != nil || !strings.HasPrefix(out, `{"kind":"store"`) {
			t.Errorf("%v: got %q, %v, want the lines", args, out, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "-")); err == nil {
		t.Error("there is a file named -")
	}
}

func TestExport_Symlink_WritesTarget(t *testing.T) {
	dir := store(t)
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := command(t, "export", "link"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(filepath.Join(dir, "real"))
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 {
		t.Errorf("the target of the link: got %v, %v, want a file of this user alone", info, err)
	}
}

// Commands reject files that are not regular: opening a pipe would block, and replacing one
// would remove it.
func TestCommands_NotARegularFile_Rejected(t *testing.T) {
	dir := store(t)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		args []string
		db   string
		want string
	}{
		"export to a pipe":     {[]string{"export", "pipe"}, "controller.db", "pipe is a named pipe"},
		"export to a device":   {[]string{"export", "/dev/null"}, "controller.db", "/dev/null is a device"},
		"export to a folder":   {[]string{"export", "."}, "controller.db", "is a folder"},
		"export of a pipe":     {[]string{"export"}, "pipe", "pipe is a named pipe"},
		"backup to a pipe":     {[]string{"backup", "pipe"}, "controller.db", "exists already"},
		"backup of a pipe":     {[]string{"backup", "new"}, "pipe", "pipe is a named pipe"},
		"backup to output":     {[]string{"backup", "-"}, "controller.db", "name a new file"},
		"import into a pipe":   {[]string{"import", "controller.db"}, "pipe", "pipe is a named pipe"},
		"import into a device": {[]string{"import", "controller.db"}, "/dev/null", "/dev/null is a device"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("DB_PATH", row.db)
			ended := make(chan error, 1)
			go func() { _, err := command(t, row.args...); ended <- err }()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v, want an error that says %q", err, row.want)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("the command blocks")
			}
			if info, err := os.Lstat("pipe"); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
				t.Errorf("the pipe was replaced: %v, %v", info, err)
			}
		})
	}
}
