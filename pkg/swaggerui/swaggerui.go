// Package swaggerui is the Swagger UI: its files, which lie compressed in the
// binary, 0.6 MB of it, until somebody asks for one, and pages that load them.
package swaggerui

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"time"

	"github.com/swaggest/swgui/v5/static"
)

// FS is the files, under the names that they have in Swagger UI's own
// distribution. There are no folders, and no index.html: who serves it makes one.
var FS fs.FS = files{}

type files struct{}

// Exists reports whether FS has a file of that name. It unpacks none.
func Exists(name string) bool {
	file, _, err := find(name)
	if err == nil {
		_ = file.Close()
	}
	return err == nil
}

// Open implements fs.FS. What it returns is an io.Seeker too.
func (files) Open(name string) (fs.File, error) {
	file, packed, err := find(name)
	if packed {
		return unpack(name, file)
	}
	return file, err
}

// find opens a file as it lies in the binary, packed or not.
func find(name string) (file fs.File, packed bool, err error) {
	if !fs.ValidPath(name) || name == "." {
		return nil, false, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if file, err := static.FS.Open(name + ".gz"); err == nil {
		return file, true, nil
	}
	file, err = static.FS.Open(name)
	return file, false, err
}

func unpack(name string, packed fs.File) (fs.File, error) {
	defer func() { _ = packed.Close() }()
	in, err := gzip.NewReader(packed)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	content, err := io.ReadAll(in)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return file{bytes.NewReader(content), info{name, int64(len(content))}}, nil
}

// file is an unpacked file.
type file struct {
	*bytes.Reader
	info info
}

func (f file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (file) Close() error                 { return nil }

type info struct {
	name string
	size int64
}

func (i info) Name() string     { return i.name }
func (i info) Size() int64      { return i.size }
func (info) Mode() fs.FileMode  { return 0o444 }
func (info) ModTime() time.Time { return time.Time{} }
func (info) IsDir() bool        { return false }
func (info) Sys() any           { return nil }
