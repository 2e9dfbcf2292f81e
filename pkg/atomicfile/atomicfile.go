// Package atomicfile writes files atomically. It follows links, and never replaces a pipe, a
// device or a folder.
//
// A file survives a power cut once Commit or MoveNew has returned nil. Errors do not contain the
// random names of temporary files, so the same failure has the same text each time.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// maxLinks is the longest chain of links that Resolve follows.
const maxLinks = 40

// Resolve returns the absolute path of the file that path leads to, without links. The file and
// its folder need not exist.
func Resolve(path string) (string, error) {
	name, err := filepath.Abs(path)
	for range maxLinks {
		if err != nil {
			return "", err
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(name))
		if errors.Is(err, fs.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		name = filepath.Join(dir, filepath.Base(name))
		to, err := os.Readlink(name)
		switch {
		case errors.Is(err, syscall.EINVAL), errors.Is(err, fs.ErrNotExist): // not a link
			return name, nil
		case err != nil:
			return "", err
		case !filepath.IsAbs(to):
			to = filepath.Join(dir, to)
		}
		name = filepath.Clean(to)
	}
	return "", &fs.PathError{Op: "follow", Path: path, Err: syscall.ELOOP}
}

// CheckRegular returns an error that names path if it leads to anything but a regular file. It
// returns nil for a path that does not exist or cannot be examined: opening it gives the error.
func CheckRegular(path string) error {
	info, err := os.Stat(path) // also follows the links of /proc, which are not paths
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is %s; name a file", path, Kind(info.Mode()))
	}
	return nil
}

// Kind returns what a file that is not regular is, for errors.
func Kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeSymlink != 0:
		return "a link"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "no regular file"
}

// File is a file that is being written under a temporary name.
type File struct {
	path    string
	pending *renameio.PendingFile
}

// Create creates the temporary file for path, which may be a link, with these permissions. The
// caller must call Discard.
func Create(path string, mode fs.FileMode) (*File, error) {
	if err := CheckRegular(path); err != nil {
		return nil, err
	}
	target, err := Resolve(path)
	if err != nil {
		return nil, err
	}
	beside := renameio.WithTempDir(filepath.Dir(target))
	pending, err := renameio.NewPendingFile(target, beside, renameio.WithStaticPermissions(mode))
	if err != nil {
		return nil, rename(err, target)
	}
	return &File{target, pending}, nil
}

func (f *File) Write(p []byte) (int, error) {
	n, err := f.pending.Write(p)
	return n, rename(err, f.path)
}

// Commit replaces the file of Create's path.
func (f *File) Commit() error {
	if err := f.pending.CloseAtomicallyReplace(); err != nil {
		return rename(err, f.path)
	}
	return SyncFile(filepath.Dir(f.path))
}

// Discard removes the temporary file, unless it was committed.
func (f *File) Discard() { _ = f.pending.Cleanup() }

// sync is File.Sync, replaced in tests.
var sync = (*os.File).Sync

// SyncFile makes what was written to a file, or created, renamed or removed in a folder,
// survive a power cut.
func SyncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // opened for reading only
	return sync(f)
}

// MoveNew renames the synced file from to to in the same folder. It never replaces a file: the error
// is fs.ErrExist if to exists.
func MoveNew(from, to string) error {
	var err error
	for _, move := range moves {
		if err = move(from, to); err == nil {
			return SyncFile(filepath.Dir(to))
		}
		if errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return rename(err, to)
}

// moves are the ways to do so, the best first: not every file system has links, or a rename that
// does not replace.
var moves = []func(from, to string) error{
	func(from, to string) error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	},
	os.Link,
	copyNew,
}

// copyNew is for file systems with neither. A power cut may leave an incomplete copy.
func copyNew(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // opened for reading only
	made, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, made.Close()); err != nil {
			_ = os.Remove(to)
		}
	}()
	if _, err := io.Copy(made, source); err != nil {
		return err
	}
	return sync(made)
}

// rename returns err with path instead of a temporary name.
func rename(err error, path string) error {
	var (
		one  *fs.PathError
		two  *os.LinkError
		bare syscall.Errno
	)
	switch {
	case errors.As(err, &one):
		return &fs.PathError{Op: one.Op, Path: path, Err: one.Err}
	case errors.As(err, &two):
		return &fs.PathError{Op: two.Op, Path: path, Err: two.Err}
	case errors.As(err, &bare):
		return &fs.PathError{Op: "write", Path: path, Err: bare}
	}
	return err
}
