// Package docs holds the description of the controller's API. `make generate`
// writes it from the annotations of package api.
package docs

import _ "embed" // for the directive below

// OpenAPI is the description, as OpenAPI 3 in JSON.
//
//go:embed openapi.json
var OpenAPI string
