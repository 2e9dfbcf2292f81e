//go:build plainswagger

package api

import (
	"github.com/gin-gonic/gin"

	"github.com/fleetconf/fleetconf/controller/docs"
	"github.com/fleetconf/fleetconf/pkg/swaggerui"
)

var pages = swaggerui.Pages{Title: "Fleetconf controller", Swagger: docs.Swagger}

// servePage answers with a page of the API, or returns fs.ErrNotExist.
func servePage(c *gin.Context, name string) error { return pages.ServePage(c.Writer, c.Request, name) }
