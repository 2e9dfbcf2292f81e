package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fleetconf/fleetconf/pkg/atomicfile"
)

// open opens the file for reading, and checks that no other user could have written it.
// Its errors name the file.
func (f *File) open() (*os.File, error) {
	before, err := os.Lstat(f.path)
	if err != nil {
		return nil, err
	}
	if err := trusted(f.path, before); err != nil {
		return nil, err // before it is opened, which has effects on a device
	}
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	opened, err := file.Stat()
	if err == nil {
		err = trusted(f.path, opened) // it may have been replaced since
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// trusted returns nil if no other user could have written a file, and otherwise why one
// could.
func trusted(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return fmt.Errorf("is %s, which is %s; set it to a file of its own, which need not exist",
			path, atomicfile.Kind(mode))
	case ok && int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("is %s, which belongs to user id %d and not to this one, %d; "+
			"run the agent as its owner, or remove the file", path, stat.Uid, os.Geteuid())
	case mode.Perm()&0o022 != 0:
		return fmt.Errorf("is %s, which others may write (mode %04o); "+
			"look at what it holds, then chmod 600 it, or remove it", path, mode.Perm())
	}
	return nil
}

// lock locks the cache at path until the returned file is closed or the process ends. The
// lock is on a file of its own, because the cache itself is replaced. If that file cannot
// be made, neither can the cache: then lock returns nil.
func lock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil
	}
	name := path + ".lock"
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		if _, missing := os.Lstat(name); missing != nil {
			return nil, nil
		}
		return nil, fmt.Errorf("needs the lock file %s, which this user cannot open (%w); remove it if no agent runs",
			name, err)
	}
	info, err := file.Stat()
	if err == nil {
		err = trusted(name, info)
	}
	if err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("is %s, which another agent has open; give each agent a file of its own", path)
	}
	return nil, err
}
