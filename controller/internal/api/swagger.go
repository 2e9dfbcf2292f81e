package api

import (
	"context"
	"io/fs"
	"net/http"
	"os"
	"strings"

	swaggerfiles "github.com/swaggo/files/v2"
	ginswagger "github.com/swaggo/gin-swagger"
	"golang.org/x/net/webdav"

	"github.com/fleetconf/fleetconf/pkg/problem"
)

// swaggerUI serves the pages of the API. The UI's files stay where the linker
// put them until somebody asks for one; the usual package would read all of
// them into memory at start.
func swaggerUI() func(*call) error {
	handle := ginswagger.WrapHandler(&webdav.Handler{
		FileSystem: readOnly{http.FS(swaggerfiles.FS)},
		LockSystem: webdav.NewMemLS(),
	})
	return func(c *call) error {
		name := strings.TrimPrefix(c.Param("page"), "/")
		switch info, err := fs.Stat(swaggerfiles.FS, name); {
		case name == "":
			c.Redirect(http.StatusFound, "/swagger/index.html")
			return nil
		case name == "doc.json": // made from the annotations
		case err != nil || info.IsDir():
			return problem.New(http.StatusNotFound, "there is no such page; begin at /swagger/index.html")
		}
		c.Header("Content-Security-Policy", "frame-ancestors 'none'") // no other site may have its visitors click here
		if c.Request.Method == http.MethodHead {                      // which gin-swagger does not know
			get := *c.Request
			get.Method = http.MethodGet
			c.Request = &get
		}
		handle(c.Context)
		return nil
	}
}

// readOnly is a file system as gin-swagger wants it.
type readOnly struct{ files http.FileSystem }

func (r readOnly) OpenFile(_ context.Context, name string, flag int, _ os.FileMode) (webdav.File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR) != 0 {
		return nil, fs.ErrPermission
	}
	f, err := r.files.Open(name)
	return readOnlyFile{f}, err
}

func (r readOnly) Stat(_ context.Context, name string) (fs.FileInfo, error) {
	f, err := r.files.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return f.Stat()
}

func (readOnly) Mkdir(context.Context, string, os.FileMode) error { return fs.ErrPermission }
func (readOnly) RemoveAll(context.Context, string) error          { return fs.ErrPermission }
func (readOnly) Rename(_ context.Context, _, _ string) error      { return fs.ErrPermission }

type readOnlyFile struct{ http.File }

func (readOnlyFile) Write([]byte) (int, error) { return 0, fs.ErrPermission }
