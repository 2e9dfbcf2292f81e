package cache

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/agent/internal/state"
)

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpen_NotRegularFile_Refused(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, syscall.Mkfifo(at("pipe"), 0o600))
	must(t, os.Mkdir(at("folder"), 0o700))
	must(t, os.WriteFile(at("file"), nil, 0o600))
	socket, err := net.Listen("unix", at("socket"))
	must(t, err)
	defer func() { _ = socket.Close() }()
	must(t, os.Symlink("pipe", at("link")))
	must(t, os.Symlink("loop", at("loop")))
	for path, words := range map[string]string{
		at("pipe"):       "is " + at("pipe") + ", which is a named pipe",
		at("link"):       "is " + at("pipe") + ", which is a named pipe",
		at("folder"):     "a folder",
		at("socket"):     "a socket",
		"/dev/null":      "is /dev/null, which is a device",
		at("loop"):       "cannot be followed",
		at("file/below"): "not a directory",
	} {
		before, _ := os.Lstat(path)
		f, err := Open(path)
		if err == nil {
			_ = f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: got %v, want %q", path, err, words)
		}
		if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
			t.Errorf("%s: was replaced", path)
		}
	}
}

func TestOpen_WritableByOthers_Refused(t *testing.T) {
	f, path := saved(t, version(1))
	must(t, f.Close())
	for _, mode := range []fs.FileMode{0o660, 0o602, 0o666} {
		must(t, os.Chmod(path, mode))
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "others may write") {
			t.Errorf("mode %o: got %v, want it refused", mode, err)
		}
		if s, err := f.Load(); !errors.Is(err, ErrBroken) || s != (state.Stored{}) {
			t.Errorf("mode %o, changed since Open: got %+v and %v, want ErrBroken and nothing else", mode, s, err)
		}
	}
	must(t, os.Chmod(path, 0o644)) // others may read it, until the next Save
	must(t, opened(t, path).Save(version(2)))
}

func TestOpen_FileOfAnotherUser_Refused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	f, path := saved(t, version(1))
	must(t, f.Close())
	must(t, os.Chown(path, 12345, -1))
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "belongs to user id 12345") {
		t.Errorf("got %v, want it refused", err)
	}
	if s, err := f.Load(); !errors.Is(err, ErrBroken) || s != (state.Stored{}) {
		t.Errorf("given away since Open: got %+v and %v, want ErrBroken and nothing else", s, err)
	}
}

// A symbolic link of the operator is kept, and its target is replaced.
func TestOpen_Symlink_SaveReplacesTarget(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "disk"), 0o700))
	must(t, os.Symlink("disk", filepath.Join(dir, "folder")))
	must(t, os.Symlink("folder/agent.cache", filepath.Join(dir, "one")))
	must(t, os.Symlink("one", filepath.Join(dir, "two")))
	for round := range int64(2) { // in the first round the file does not exist
		f, err := Open(filepath.Join(dir, "two"))
		must(t, err)
		must(t, f.Save(version(round+1)))
		must(t, f.Close())
		for _, link := range []string{"one", "two", "folder"} {
			if info, err := os.Lstat(filepath.Join(dir, link)); err != nil || info.Mode()&fs.ModeSymlink == 0 {
				t.Errorf("%s is no link any more: %v", link, err)
			}
		}
		got := load(t, &File{path: filepath.Join(dir, "disk", "agent.cache")})
		if diff := cmp.Diff(version(round+1), got); diff != "" {
			t.Errorf("state (-saved +loaded):\n%s", diff)
		}
	}
}

// What replaces the file after Open is neither read nor replaced.
func TestFile_SwappedSinceOpen_Refused(t *testing.T) {
	f, path := saved(t, version(1))
	elsewhere := filepath.Join(t.TempDir(), "another's")
	must(t, os.Rename(path, elsewhere))
	for name, put := range map[string]func() error{
		"a link": func() error { return os.Symlink(elsewhere, path) },
		"a pipe": func() error { return syscall.Mkfifo(path, 0o600) },
	} {
		must(t, put())
		before, err := os.Lstat(path)
		must(t, err)
		if s, err := f.Load(); !errors.Is(err, ErrBroken) || s != (state.Stored{}) {
			t.Errorf("%s: Load: got %+v and %v, want ErrBroken and nothing else", name, s, err)
		}
		if err := f.Save(version(2)); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: Save: got %v, want an error that names it", name, err)
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: was replaced (%v)", name, err)
		}
		must(t, os.Remove(path))
	}
}

// What replaces the file between the check and the opening is neither followed, nor read,
// nor waited for.
func TestLoad_SwappedDuringOpen_Refused(t *testing.T) {
	dir := t.TempDir()
	elsewhere, open := filepath.Join(dir, "another's"), filepath.Join(dir, "anybody's")
	must(t, opened(t, elsewhere).Save(version(7)))
	must(t, opened(t, open).Save(version(7)))
	must(t, os.Chmod(open, 0o666))
	for name, put := range map[string]func(path string) error{
		"a link":                       func(path string) error { return os.Symlink(elsewhere, path) },
		"a file that others may write": func(path string) error { return os.Link(open, path) },
		"a pipe":                       func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		f, path := saved(t, version(1))
		other, mine := path+".other", path+".mine"
		must(t, put(other))
		must(t, os.Link(path, mine))
		swapped := make(chan error)
		go func() { // ends by itself
			for range 1000 {
				err := errors.Join(os.Rename(other, path), put(other))
				if err = errors.Join(err, os.Rename(mine, path), os.Link(path, mine)); err != nil {
					swapped <- err
					return
				}
			}
			close(swapped)
		}()
		for done := false; !done; {
			if s, _ := f.Load(); s != (state.Stored{}) && s.LastGood.Config.Version != 1 {
				t.Errorf("%s: read version %d", name, s.LastGood.Config.Version)
			}
			select {
			case err := <-swapped:
				must(t, err)
				done = true
			default:
			}
		}
	}
}

func TestOpen_SecondAgent_Refused(t *testing.T) {
	f, path := saved(t, version(1))
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(path, link))
	for _, name := range []string{path, link} {
		_, err := Open(name)
		if err == nil || !strings.Contains(err.Error(), "is "+path+", which another agent has open") {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
	must(t, f.Save(version(2))) // replaces the file, not the lock
	if _, err := Open(path); err == nil {
		t.Error("after a save: got no error")
	}
	must(t, f.Close())
	load(t, opened(t, path))
}

// If no lock file can be made, nothing can be saved either, and the agent goes on in memory.
func TestOpen_LockCannotBeMade_NoLock(t *testing.T) {
	// neither its folder, nor the lock file
	for _, path := range []string{"/proc/none/agent.cache", "/proc/agent.cache"} {
		f := opened(t, path)
		if diff := cmp.Diff(state.Stored{}, load(t, f)); diff != "" {
			t.Errorf("%s: state (-want +got):\n%s", path, diff)
		}
		if err := f.Save(version(1)); err == nil {
			t.Errorf("%s: Save: got no error", path)
		}
	}
}

// Another user may have put something else where the lock file is.
func TestOpen_LockNotRegularFile_Refused(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for name, put := range map[string]func(lock string) error{
		"a link":   func(lock string) error { return os.Symlink(elsewhere, lock) },
		"a pipe":   func(lock string) error { return syscall.Mkfifo(lock, 0o600) },
		"a folder": func(lock string) error { return os.Mkdir(lock, 0o700) },
	} {
		path := filepath.Join(t.TempDir(), "agent.cache")
		must(t, put(path+".lock"))
		f, err := Open(path)
		if err == nil {
			_ = f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), path+".lock") {
			t.Errorf("%s: got %v, want an error that names the lock", name, err)
		}
	}
	if _, err := os.Lstat(elsewhere); err == nil {
		t.Error("a file was made where the link leads to")
	}
}

// newer returns a cache that a newer agent could have written in this format.
func newer(t *testing.T, path string, change ...string) {
	t.Helper()
	document, err := os.ReadFile(path)
	must(t, err)
	_, payload, _ := bytes.Cut(document, []byte("\n"))
	changed := strings.NewReplacer(change...).Replace(string(payload))
	if changed == string(payload) {
		t.Fatalf("nothing to change in %s", payload)
	}
	must(t, os.WriteFile(path, append(header([]byte(changed)), changed...), 0o600))
}

func TestLoad_FieldsOfANewerAgent_KeepsIdentityAndConfiguration(t *testing.T) {
	f, path := saved(t, version(1))
	newer(t, path,
		`{"identity":{`, `{"pins":[1],"hint":null,"identity":{"key":"k",`,
		`"config":{`, `"source":"x","config":{"labels":{},`)
	got := load(t, f)
	if diff := cmp.Diff(version(1), got); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	must(t, f.Save(got)) // drops unknown fields
	if diff := cmp.Diff(version(1), load(t, f)); diff != "" {
		t.Errorf("state after a save (-want +got):\n%s", diff)
	}
}

// A configuration with an unknown field is not run.
func TestLoad_ConfigurationOfANewerAgent_KeepsIdentity(t *testing.T) {
	f, path := saved(t, version(1))
	newer(t, path, `"data":{`, `"data":{"headers":{},`)
	got, err := f.Load()
	if err == nil || !strings.Contains(err.Error(), "last good configuration: data.headers") {
		t.Errorf("got %v, want an error that names the field", err)
	}
	if diff := cmp.Diff(state.Stored{Identity: version(1).Identity}, got); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}
