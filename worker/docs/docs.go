// Package docs holds the description of the worker's API, generated from the
// comments of package api; `go generate ./cmd` writes it anew.
package docs

import _ "embed" // for the directive below

// Swagger is the description, in OpenAPI 2.0.
//
//go:embed swagger.json
var Swagger string
