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

// Open implements fs.FS. What it returns is an io.Seeker too.
func (files) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) || name == "." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if packed, err := static.FS.Open(name + ".gz"); err == nil {
		return unpack(name, packed)
	}
	return static.FS.Open(name)
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
