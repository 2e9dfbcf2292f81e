//go:build !plainswagger

package api

import (
	"context"
	"io/fs"
	"net/http"
	"os"
	"slices"

	"github.com/gin-gonic/gin"
	ginswagger "github.com/swaggo/gin-swagger"
	"github.com/swaggo/swag"
	"golang.org/x/net/webdav"

	"github.com/fleetconf/fleetconf/controller/docs"
	"github.com/fleetconf/fleetconf/pkg/swaggerui"
)

// made is the pages that gin-swagger makes itself.
var made = []string{"index.html", "index.css", "swagger-initializer.js", "doc.json"}

var ginSwagger = ginswagger.WrapHandler(&webdav.Handler{
	FileSystem: readOnly{http.FS(swaggerui.FS)},
	LockSystem: webdav.NewMemLS(),
}, ginswagger.URL(swaggerui.Document))

// document is an API document where gin-swagger looks for it.
type document string

func init() { swag.Register(swag.Name, document(docs.Swagger)) }

// ReadDoc implements swag.Swagger.
func (d document) ReadDoc() string { return string(d) }

// servePage answers with a page of the API, or returns fs.ErrNotExist.
func servePage(c *gin.Context, name string) error {
	if !slices.Contains(made, name) && !swaggerui.Exists(name) {
		return fs.ErrNotExist
	}
	if c.Request.Method == http.MethodHead { // which gin-swagger does not know
		get := *c.Request
		get.Method = http.MethodGet
		c.Request = &get
	}
	ginSwagger(c)
	return nil
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
