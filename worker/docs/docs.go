// Package docs holds the description of the worker's API. `make generate` writes
// it from the annotations of package api.
package docs

import _ "embed" // for the directives below

// Swagger is the description as OpenAPI 2.
//
//go:embed swagger.json
var Swagger string

// OpenAPI is the description as OpenAPI 3, which says more: the media type of
// errors.
//
//go:embed openapi.json
var OpenAPI string
