package docs

import _ "embed" // for the document

// Swagger is the document as it is, without swag's way to change it at run time.
//
//go:embed swagger.json
var Swagger string
