package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi2"
)

// structType is the fields of a struct by their JSON names.
type structType map[string]field

// field is what the Go type of a field says of its JSON.
type field struct {
	optional bool   // omitted when empty
	pointer  bool   // null when nil, unless it is optional
	format   string // of OpenAPI, "" for none
	any      bool   // any JSON value
}

// readStructs reads the structs in folders of Go files, by package.Name.
func readStructs(folders []string) (map[string]structType, error) {
	structs := map[string]structType{}
	for _, folder := range folders {
		paths, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if spec, ok := n.(*ast.TypeSpec); ok {
					if body, ok := spec.Type.(*ast.StructType); ok {
						structs[file.Name.Name+"."+spec.Name.Name] = fieldsOf(body)
					}
				}
				return true
			})
		}
	}
	if len(structs) == 0 {
		return nil, fmt.Errorf("no struct in %s: %w", strings.Join(folders, ", "), os.ErrNotExist)
	}
	return structs, nil
}

func fieldsOf(body *ast.StructType) structType {
	fields := structType{}
	for _, f := range body.Fields.List {
		if f.Tag == nil {
			continue
		}
		tag, _ := strconv.Unquote(f.Tag.Value)
		name, options, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		kind, pointer := f.Type, false
		if star, ok := kind.(*ast.StarExpr); ok {
			kind, pointer = star.X, true
		}
		out := field{optional: strings.Contains(options, "omit"), pointer: pointer}
		switch k := kind.(type) {
		case *ast.Ident:
			out.any = k.Name == "any"
			if k.Name == "int64" {
				out.format = "int64"
			}
		case *ast.SelectorExpr:
			if x, ok := k.X.(*ast.Ident); ok && x.Name+"."+k.Sel.Name == "time.Time" {
				out.format = "date-time"
			}
		}
		fields[name] = out
	}
	return fields
}

// finishSchemas takes over what the Go types say: which fields are required,
// which can be null, how a string is to be read. In a request, a pointer may be
// left out and is never null. It returns the definitions that only requests use.
func (d *document) finishSchemas(structs map[string]structType) (requests []string, err error) {
	inRequests, inResponses := map[string]bool{}, map[string]bool{}
	for _, o := range d.operations() {
		for _, p := range o.Parameters {
			d.reach(p.Schema, inRequests)
		}
		for _, r := range o.Responses.Map() {
			if r.Ref != "" {
				r = d.Responses[strings.TrimPrefix(r.Ref, "#/responses/")]
			}
			d.reach(r.Schema, inResponses)
		}
		d.reach(d.alternatives[o.OperationID], inResponses)
	}
	for name := range inRequests {
		if inResponses[name] && len(d.Definitions[name].Value.Properties) > 0 {
			return nil, fmt.Errorf("%s is in a request and in a response, where null means different things", name)
		}
	}
	for name, definition := range d.Definitions {
		fields, known := structs[name]
		if !known {
			if len(definition.Value.Properties) > 0 {
				return nil, fmt.Errorf("%s is not in the folders of sources", name)
			}
			continue
		}
		schema := definition.Value
		schema.Required = nil
		for _, property := range slices.Sorted(maps.Keys(schema.Properties)) {
			f, known := fields[property]
			if !known {
				return nil, fmt.Errorf("%s has no field %s", name, property)
			}
			if !f.optional && (!f.pointer || !inRequests[name]) {
				schema.Required = append(schema.Required, property)
			}
			nullable := !f.optional && (f.pointer || f.any) && !inRequests[name]
			schema.Properties[property] = d.finishProperty(schema.Properties[property], f, nullable)
		}
		if inRequests[name] {
			requests = append(requests, name)
		}
	}
	return requests, nil
}

func (d *document) finishProperty(p *openapi2.SchemaRef, f field, nullable bool) *openapi2.SchemaRef {
	if p.Ref != "" && !nullable {
		return p
	}
	if p.Ref != "" { // what stands beside a $ref does not count
		p = &openapi2.SchemaRef{Value: &openapi2.Schema{AllOf: openapi2.SchemaRefs{{Ref: p.Ref}}}}
	}
	s := p.Value
	if f.any {
		s.Type = nil
	}
	if f.format != "" {
		s.Format = f.format
	}
	if len(s.Enum) > 0 && len(s.AllOf) == 1 { // the values here are those that are possible here
		s.Type, s.AllOf = d.Definitions[strings.TrimPrefix(s.AllOf[0].Ref, definitions)].Value.Type, nil
	}
	if nullable {
		if s.Extensions == nil {
			s.Extensions = map[string]any{}
		}
		s.Extensions["x-nullable"] = true
	}
	return p
}

// reach notes the definitions that a schema leads to.
func (d *document) reach(schema *openapi2.SchemaRef, reached map[string]bool) {
	if schema == nil {
		return
	}
	if name := strings.TrimPrefix(schema.Ref, definitions); schema.Ref != "" && !reached[name] {
		reached[name] = true
		d.reach(d.Definitions[name], reached)
	}
	if s := schema.Value; s != nil {
		d.reach(s.Items, reached)
		if values := s.AdditionalProperties.Schema; values != nil {
			d.reach(&openapi2.SchemaRef{Ref: strings.Replace(values.Ref, "#/components/schemas/", definitions, 1)},
				reached)
		}
		for _, part := range s.AllOf {
			d.reach(part, reached)
		}
		for _, property := range s.Properties {
			d.reach(property, reached)
		}
	}
}
