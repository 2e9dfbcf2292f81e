// Package atomicfile writes the files that an operator names: whole or not at all,
// where links point to, and never in the place of a pipe, a device or a folder.
//
// What was written outlives a power cut once the call that ends it returned nil. No
// error holds the random name of a temporary file, so the same failure has the same
// text each time.
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

// maxLinks is how many links Resolve follows one after the other.
const maxLinks = 40

// Resolve returns the absolute name of the file that path leads to, without links.
// The file and its folder need not exist.
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
		case errors.Is(err, syscall.EINVAL), errors.Is(err, fs.ErrNotExist): // it is no link
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

// CheckRegular returns an error that names path if it leads to anything but a regular
// file. What cannot be looked at, or is not there, is for whoever opens it to report.
func CheckRegular(path string) error {
	info, err := os.Stat(path) // follows the links of /proc too, which are no names
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is %s; name a file", path, Kind(info.Mode()))
	}
	return nil
}

// Kind says what is there instead of a regular file.
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

// File is a file that is being written. It has another name until Commit.
type File struct {
	path    string
	pending *renameio.PendingFile
}

// Create begins to write the file that path names, through links, with these
// permissions. Discard must follow.
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

// Commit puts the file in its place.
func (f *File) Commit() error {
	if err := f.pending.CloseAtomicallyReplace(); err != nil {
		return rename(err, f.path)
	}
	return SyncFile(filepath.Dir(f.path))
}

// Discard removes what was written, unless it was committed.
func (f *File) Discard() { _ = f.pending.Cleanup() }

// sync is that of files and folders.
var sync = (*os.File).Sync

// SyncFile makes what was written to a file, or created, renamed or removed in a folder,
// survive a power cut.
func SyncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	return sync(f)
}

// MoveNew gives the file from, whose content is on the disk, the name to in the same
// folder. It never replaces anything: the error is one of fs.ErrExist where to is
// there.
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

// moves are the ways to do so, the best first: not every file system has links, or
// a rename that does not replace.
var moves = []func(from, to string) error{
	func(from, to string) error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	},
	os.Link,
	copyNew,
}

// copyNew is for a file system that has neither. After a power cut a part of the copy
// may be there.
func copyNew(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // it was only read
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

// rename gives an error the name that the operator knows.
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
