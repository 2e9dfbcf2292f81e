// Package docs holds the description of the controller's API, and serves it with Swagger UI.
// `make generate` writes it from the annotations of package api, and from these:
//
//	@title						Fleetconf controller
//	@version					1.0
//	@description				Publish one configuration; the whole fleet follows. Errors are problem documents (RFC 9457).
//	@x-secured					[400,401,403,429,503]
//	@x-body						[408,413,415]
//	@x-problem-400				"a parameter, header or field is unknown or invalid; errors names it"
//	@x-problem-401				"the credentials are missing or invalid"
//	@x-problem-403				"the credentials do not allow this request, a required client certificate is missing or belongs to another agent, or a page of another site sent the request"
//	@x-problem-404				"the resource does not exist"
//	@x-problem-408				"the body did not arrive in time"
//	@x-problem-412				"If-Match or If-None-Match does not hold for the current state"
//	@x-problem-413				"the body is larger than 64 KiB"
//	@x-problem-415				"the body is not application/json in UTF-8, or is compressed"
//	@x-problem-429				"too many requests of this route class; Retry-After says when to retry"
//	@x-problem-503				"the database is locked, read-only or damaged, its disk fails, its files were moved or removed, or the controller is stopping"
//	@x-problem-507				"the disk is full; nothing was changed"
//
//	@securityDefinitions.apikey	Admin
//	@in							header
//	@name						Authorization
//	@description				Basic: ADMIN_USERNAME and ADMIN_PASSWORD.
//	@securityDefinitions.apikey	Enroller
//	@in							header
//	@name						Authorization
//	@description				Basic: AGENT_USERNAME and AGENT_PASSWORD, which all agents share.
//	@securityDefinitions.apikey	Agent
//	@in							header
//	@name						Authorization
//	@description				Basic: an agent's id and the token that its registration returned.
package docs

import _ "embed" // for the directive below

// OpenAPI is the description, as OpenAPI 3 in JSON.
//
//go:embed openapi.json
var OpenAPI string
