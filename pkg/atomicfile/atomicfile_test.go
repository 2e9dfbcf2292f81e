package atomicfile_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/atomicfile"
)

// write writes text to the file that path names.
func write(path, text string) error {
	f, err := atomicfile.Create(path, 0o600)
	if err != nil {
		return err
	}
	defer f.Discard()
	if _, err := io.WriteString(f, text); err != nil {
		return err
	}
	return f.Commit()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCreate_SymbolicLink_WritesItsTarget(t *testing.T) {
	for name, to := range map[string]string{
		"an absolute link": "/real/file", "a relative one": "../real/file", "one to another": "link2",
		"one into a linked folder": "../way/file",
	} {
		for _, there := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				must(t, os.MkdirAll(filepath.Join(dir, "real"), 0o700))
				must(t, os.MkdirAll(filepath.Join(dir, "named"), 0o700))
				must(t, os.Symlink("real", filepath.Join(dir, "way")))
				must(t, os.Symlink("../real/file", filepath.Join(dir, "named", "link2")))
				link, file := filepath.Join(dir, "named", "link"), filepath.Join(dir, "real", "file")
				pointsAt := to
				if filepath.IsAbs(to) {
					pointsAt = dir + to
				}
				must(t, os.Symlink(pointsAt, link))
				if there {
					must(t, os.WriteFile(file, []byte("old"), 0o644))
				}
				must(t, write(link, "new"))
				if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
					t.Errorf("the link: got %v, %v, want it kept", info.Mode(), err)
				}
				got, err := os.ReadFile(file)
				if err != nil || string(got) != "new" {
					t.Errorf("what it points at: got %q, %v, want new", got, err)
				}
				if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("what it points at: got %v, %v, want 0600", info, err)
				}
			})
		}
	}
}

func TestCreate_NotARegularFile_Refused(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	must(t, syscall.Mkfifo(pipe, 0o600))
	must(t, os.Symlink(pipe, filepath.Join(dir, "link")))
	must(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	reader, writer, err := os.Pipe()
	must(t, err)
	defer reader.Close()
	defer writer.Close()
	for path, want := range map[string]string{
		pipe:                           "pipe is a named pipe",
		filepath.Join(dir, "link"):     "link is a named pipe",
		filepath.Join(dir, "loop"):     "too many levels",
		dir:                            "is a folder",
		"/dev/null":                    "/dev/null is a device",
		filepath.Join(dir, "no/where"): "no such file",
	} {
		if err := write(path, "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error that says %q", path, err, want)
		}
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		t.Errorf("the pipe is %v, %v by now", info, err)
	}
}

// The same failure has the same text: who logs it once compares texts.
func TestCreate_Error_NamesTheTarget(t *testing.T) {
	for name, path := range map[string]string{
		"a folder that is not there": filepath.Join(t.TempDir(), "missing", "file"),
		"a folder of the kernel's":   "/proc/self/file",
	} {
		first, second := write(path, "x"), write(path, "x")
		if first == nil || second == nil || first.Error() != second.Error() {
			t.Errorf("%s: got %v, then %v, want the same", name, first, second)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	var texts []string
	for range 2 {
		f, err := atomicfile.Create(path, 0o600)
		must(t, err)
		must(t, os.Mkdir(path, 0o700)) // in between
		err = f.Commit()
		f.Discard()
		must(t, os.Remove(path))
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Fatalf("got %v, want an error that names %s", err, path)
		}
		texts = append(texts, err.Error())
	}
	if texts[0] != texts[1] {
		t.Errorf("got %q, want the same twice", texts)
	}
}

func TestCommit_SyncsFileThenFolder(t *testing.T) {
	dir := t.TempDir()
	synced := atomicfile.Observe(t, nil)
	must(t, write(filepath.Join(dir, "file"), "x"))
	if want := []string{dir}; !slices.Equal(*synced, want) {
		t.Errorf("synced %q after the rename, want %q", *synced, want)
	}
	atomicfile.Observe(t, syscall.EIO)
	if err := write(filepath.Join(dir, "file"), "x"); !errors.Is(err, syscall.EIO) {
		t.Errorf("when the folder cannot be synced: got %v, want EIO", err)
	}
}

func TestDiscard_RemovesTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	f, err := atomicfile.Create(filepath.Join(dir, "file"), 0o600)
	must(t, err)
	f.Discard()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("got %v, %v, want an empty folder", entries, err)
	}
}

func TestMoveNew_TargetExists_Refused(t *testing.T) {
	for broken := range 3 { // ways that the file system does not have
		dir := t.TempDir()
		from, to := filepath.Join(dir, "draft"), filepath.Join(dir, "file")
		must(t, os.WriteFile(from, []byte("content"), 0o600))
		atomicfile.Break(t, broken)
		synced := atomicfile.Observe(t, nil)
		if err := atomicfile.MoveNew(from, to); err != nil {
			t.Errorf("without %d ways: %v", broken, err)
		}
		if got, err := os.ReadFile(to); err != nil || string(got) != "content" || !slices.Contains(*synced, dir) {
			t.Errorf("without %d ways: got %q, %v, synced %q", broken, got, err, *synced)
		}
		_ = os.Remove(from) // which may have been linked
		must(t, os.WriteFile(from, []byte("other"), 0o600))
		if err := atomicfile.MoveNew(from, to); !errors.Is(err, fs.ErrExist) || strings.Contains(err.Error(), "draft") {
			t.Errorf("without %d ways, over a file: got %v, want that it exists", broken, err)
		}
		if got, _ := os.ReadFile(to); string(got) != "content" {
			t.Errorf("without %d ways a file was replaced by %q", broken, got)
		}
	}
	dir := t.TempDir()
	from, to := filepath.Join(dir, "draft"), filepath.Join(dir, "file")
	must(t, os.WriteFile(from, []byte("content"), 0o600))
	atomicfile.Break(t, 2)
	atomicfile.Observe(t, syscall.ENOSPC)
	if err := atomicfile.MoveNew(from, to); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a copy on a full disk: got %v, want ENOSPC", err)
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a part of the copy is there: %v", err)
	}
}
