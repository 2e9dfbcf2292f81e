// Command openapi finishes the API document that swag made of a program's
// annotations: it adds what holds for every operation and what the Go types say,
// and converts the result to OpenAPI 3.
//
//	openapi DOCS SOURCE...
//
// DOCS/swagger.json, which swag has written, is replaced by DOCS/openapi.json. The SOURCE
// folders hold the types that the document describes. `make generate` runs it.
//
// Extensions of the whole document say what the operations have in common, and
// are removed from it:
//
//	@x-secured      [401]        // statuses of every operation that needs credentials
//	@x-body         [413, 415]   // statuses of every operation that takes a body
//	@x-problem-413  "too large"  // the description of a status, where an operation has none of its own
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
)

const (
	definitions = "#/definitions/"
	problemRef  = definitions + "problem.Problem"
	problemType = "application/problem+json"
	anyType     = "*/*"
)

// closed is said of an object that has no properties but those that are named.
var closed = openapi3.AdditionalProperties{Has: openapi3.Ptr(false)}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: openapi DOCS SOURCE...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

func run(docs string, sources []string) error {
	structs, err := readStructs(sources)
	if err != nil {
		return err
	}
	path := filepath.Join(docs, "swagger.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var doc openapi2.T
	if err := json.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	d := document{T: &doc, alternatives: map[string]*openapi2.SchemaRef{}}
	if err := d.finish(structs); err != nil {
		return err
	}
	converted, err := d.convert()
	if err != nil {
		return err
	}
	if err := write(filepath.Join(docs, "openapi.json"), converted); err != nil {
		return err
	}
	return os.Remove(path)
}

func write(path string, doc any) error {
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// document is an OpenAPI 2 document, and what only OpenAPI 3 can say of it.
type document struct {
	*openapi2.T
	alternatives map[string]*openapi2.SchemaRef // by operationId: what 200 may be instead
}

// operation is an operation of the document.
type operation struct {
	*openapi2.Operation
	method, path string
}

func (o operation) String() string { return o.method + " " + o.path }

func (o operation) hasBody() bool {
	return slices.ContainsFunc(o.Parameters, func(p *openapi2.Parameter) bool { return p.In == "body" })
}

// operations lists the operations in the order of their paths.
func (d *document) operations() (all []operation) {
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		operations := d.Paths[path].Operations()
		for _, method := range slices.Sorted(maps.Keys(operations)) {
			all = append(all, operation{operations[method], method, path})
		}
	}
	return all
}

// finish completes the document, and returns an error that names what the
// annotations lack.
func (d *document) finish(structs map[string]structType) error {
	secured, body := d.statuses("x-secured"), d.statuses("x-body")
	ids := map[string]string{}
	var faults []error
	for _, o := range d.operations() {
		switch other, doubled := ids[o.OperationID]; {
		case o.OperationID == "":
			faults = append(faults, fmt.Errorf("%s has no @ID", o))
		case doubled:
			faults = append(faults, fmt.Errorf("%s has the @ID of %s", o, other))
		}
		ids[o.OperationID] = o.String()
		if o.Security == nil {
			o.Security = &openapi2.SecurityRequirements{}
		} else {
			d.add(o, secured)
		}
		if o.hasBody() {
			d.add(o, body)
		}
		if err := d.finishResponses(o); err != nil {
			faults = append(faults, err)
		}
	}
	for name, scheme := range d.SecurityDefinitions {
		if scheme.Description == "" {
			faults = append(faults, fmt.Errorf("the security definition %s has no @description", name))
		}
		if strings.HasPrefix(scheme.Description, "Basic:") { // swag takes no description of its own basic schemes
			scheme.Type, scheme.In, scheme.Name = "basic", "", ""
		}
	}
	requests, err := d.finishSchemas(structs)
	faults = append(faults, err)
	for _, name := range requests {
		d.Definitions[name].Value.AdditionalProperties = closed
	}
	for name := range d.Extensions {
		if name == "x-secured" || name == "x-body" || strings.HasPrefix(name, "x-problem-") {
			delete(d.Extensions, name)
		}
	}
	return errors.Join(faults...)
}

// statuses reads a list of statuses from an extension of the document.
func (d *document) statuses(extension string) (codes []string) {
	list, _ := d.Extensions[extension].([]any)
	for _, status := range list {
		codes = append(codes, fmt.Sprint(status))
	}
	return codes
}

// add documents statuses that an operation has in common with others.
func (d *document) add(o operation, codes []string) {
	for _, code := range codes {
		if o.Responses.Value(code) == nil {
			o.Responses.Set(code, &openapi2.Response{Description: title(code)})
		}
	}
}

func title(code string) string {
	status, _ := strconv.Atoi(code)
	return http.StatusText(status)
}

// finishResponses describes each response of an operation: the schema of errors,
// the headers that belong to a status. Responses that are the same in many
// operations become references to one.
func (d *document) finishResponses(o operation) error {
	for code, response := range o.Responses.Map() {
		if response.Schema == nil && code >= "400" && code != "default" {
			response.Schema = &openapi2.SchemaRef{Ref: problemRef}
		}
		if response.Schema == nil || response.Schema.Ref != problemRef {
			continue
		}
		shared, _ := d.Extensions["x-problem-"+code].(string)
		common := response.Description == title(code) && shared != ""
		if common {
			response.Description = shared
		}
		header := func(name, kind, description string) {
			if response.Headers == nil {
				response.Headers = map[string]*openapi2.Header{}
			}
			if response.Headers[name] == nil {
				response.Headers[name] = &openapi2.Header{Parameter: openapi2.Parameter{
					Type: &openapi3.Types{kind}, Description: description,
				}}
			} else {
				common = false
			}
		}
		common = common && len(response.Headers) == 0
		switch code {
		case "401":
			header("WWW-Authenticate", "string", "how to present credentials (RFC 9110 §11.6.1)")
		case "429", "503":
			header("Retry-After", "integer", "seconds")
		}
		if name := strings.ReplaceAll(title(code), " ", ""); common {
			if d.Responses == nil {
				d.Responses = map[string]*openapi2.Response{}
			}
			d.Responses[name] = response
			o.Responses.Set(code, &openapi2.Response{Ref: "#/responses/" + name})
		}
	}
	if len(o.Produces) == 0 {
		o.Produces = []string{"application/json"}
	}
	if !slices.Contains(o.Produces, problemType) {
		o.Produces = append(o.Produces, problemType)
	}
	return d.splitAlternative(o)
}

// splitAlternative takes a schema apart that an annotation writes as
// A{parameter=B}: the operation answers B instead of A when that parameter is
// true. OpenAPI 2 has A, of which B must be an extension.
func (d *document) splitAlternative(o operation) error {
	response := o.Responses.Value("200")
	if response == nil || response.Schema == nil || response.Schema.Value == nil ||
		len(response.Schema.Value.AllOf) != 2 {
		return nil
	}
	parts := response.Schema.Value.AllOf
	for name, alternative := range parts[1].Value.Properties {
		named := func(p *openapi2.Parameter) bool { return p.In == "query" && p.Name == name }
		if !slices.ContainsFunc(o.Parameters, named) {
			return fmt.Errorf("%s has an alternative for %s, which is no parameter of it", o, name)
		}
		d.alternatives[o.OperationID] = alternative
	}
	response.Schema = parts[0]
	return nil
}

// convert returns the document as OpenAPI 3, with what OpenAPI 2 cannot say.
func (d *document) convert() (*openapi3.T, error) {
	doc, err := openapi2conv.ToV3(d.T)
	if err != nil {
		return nil, err
	}
	doc.Servers = openapi3.Servers{{URL: ".", Description: "the server that this document came from"}}
	for _, response := range doc.Components.Responses {
		finishResponse(response.Value, false)
	}
	for _, o2 := range d.operations() {
		o := doc.Paths.Value(o2.path).GetOperation(o2.method)
		if o.RequestBody != nil {
			delete(o.RequestBody.Value.Extensions, "x-originalParamName")
		}
		for _, response := range o.Responses.Map() {
			if response.Ref == "" {
				finishResponse(response.Value, slices.Contains(o2.Produces, anyType))
			}
		}
		if alternative := d.alternatives[o.OperationID]; alternative != nil {
			if err := addAlternative(doc, o, openapi2conv.ToV3Ref(alternative.Ref)); err != nil {
				return nil, err
			}
		}
	}
	for _, definition := range doc.Components.Schemas {
		for _, property := range definition.Value.Properties {
			// OpenAPI 3.0.3: null must be among the values of a nullable enumeration.
			if s := property.Value; property.Ref == "" && s.Nullable && len(s.Enum) > 0 {
				s.Enum = append(s.Enum, nil)
			}
		}
	}
	for _, scheme := range doc.Components.SecuritySchemes {
		if s := scheme.Value; s.Type == "apiKey" && strings.HasPrefix(s.Description, "Bearer:") {
			s.Type, s.Scheme, s.In, s.Name = "http", "bearer", "", ""
		}
	}
	doc.Components.Headers = openapi3.Headers{"X-Request-Id": {Value: &openapi3.Header{Parameter: openapi3.Parameter{
		Description: "names the request in the log; the caller's own if it sent one", Required: true,
		Schema: openapi3.NewSchemaRef("", openapi3.NewStringSchema()),
	}}}}
	return doc, valid(doc)
}

// valid returns an error unless what will be read is a valid document.
func valid(doc *openapi3.T) error {
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	loader := openapi3.NewLoader()
	read, err := loader.LoadFromData(text)
	if err != nil {
		return err
	}
	return read.Validate(loader.Context)
}

// finishResponse gives a response the media type of its schema, and marks the
// headers that it always has: those whose description ends so, and those that
// belong to a status. Where an operation passes on what another server answers,
// that may have any status.
func finishResponse(r *openapi3.Response, passesOn bool) {
	content := r.Content
	for mime, media := range content {
		isProblem := media.Schema.Ref == openapi2conv.ToV3Ref(problemRef)
		switch {
		case isProblem:
			r.Content = openapi3.Content{problemType: media}
			if passesOn {
				r.Content[anyType] = openapi3.NewMediaType().WithSchema(
					openapi3.NewStringSchema().WithFormat("binary"))
			}
		case mime == problemType:
			delete(content, problemType)
		case strings.HasPrefix(mime, "text/"): // the same for a reader
			content[mime] = openapi3.NewMediaType().WithSchema(openapi3.NewStringSchema())
		}
	}
	for name, header := range r.Headers {
		always := name == "WWW-Authenticate" || name == "Retry-After" && !passesOn
		header.Value.Required = always || strings.HasSuffix(header.Value.Description, "; always")
	}
	if r.Headers == nil {
		r.Headers = openapi3.Headers{}
	}
	r.Headers["X-Request-Id"] = &openapi3.HeaderRef{Ref: "#/components/headers/X-Request-Id"}
}

// addAlternative makes the 200 of an operation one of two documents. Each is
// closed, so that no document is both.
func addAlternative(doc *openapi3.T, o *openapi3.Operation, ref string) error {
	media := o.Responses.Value("200").Value.Content["application/json"]
	oneOf := openapi3.SchemaRefs{media.Schema, {Ref: ref}}
	for _, schema := range oneOf {
		definition := doc.Components.Schemas[strings.TrimPrefix(schema.Ref, "#/components/schemas/")]
		if definition == nil {
			return fmt.Errorf("%s has an alternative that is not defined: %q", o.OperationID, schema.Ref)
		}
		definition.Value.AdditionalProperties = closed
	}
	media.Schema = &openapi3.SchemaRef{Value: &openapi3.Schema{OneOf: oneOf}}
	return nil
}
