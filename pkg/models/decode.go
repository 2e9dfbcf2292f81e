package models

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// times reads times of RFC 3339 §5.6, in which T and Z may be in lower case.
var times = json.WithUnmarshalers(json.UnmarshalFromFunc(func(d *jsontext.Decoder, t *time.Time) error {
	if d.PeekKind() != '"' {
		return errors.ErrUnsupported
	}
	token, err := d.ReadToken()
	if err != nil {
		return err
	}
	*t, err = time.Parse(time.RFC3339Nano, strings.ToUpper(token.String()))
	return err
}))

// Decode reads exactly one JSON document (RFC 8259, and RFC 7493 §2: UTF-8, no duplicate names)
// into a T. Unknown fields, wrong types, null, NUL characters and trailing data are errors: an
// *Invalid that names the field. It checks the shape only; Validate checks the values.
func Decode[T any](document []byte) (T, error) {
	var v T
	if err := scan(document); err != nil {
		return v, invalid(err)
	}
	if err := json.Unmarshal(document, &v, json.RejectUnknownMembers(true), times); err != nil {
		return v, invalid(err)
	}
	return v, nil
}

// DecodeOpen is Decode, but ignores unknown members, which a newer program may have written.
func DecodeOpen[T any](document []byte) (T, error) {
	var v T
	if err := scan(document); err != nil {
		return v, invalid(err)
	}
	if err := json.Unmarshal(document, &v, times); err != nil {
		return v, invalid(err)
	}
	return v, nil
}

// DecodeConfig reads and validates a configuration as the controller serves it. It ignores
// unknown fields beside the data, which a newer controller may add, but rejects those within:
// a configuration is applied as a whole or not at all.
func DecodeConfig(document []byte) (Config, error) {
	if len(document) > MaxBodyBytes {
		return Config{}, Bad("", "document is longer than %d bytes", MaxBodyBytes)
	}
	envelope, err := DecodeOpen[struct {
		Version             int64          `json:"version"`
		Data                jsontext.Value `json:"data"`
		PollIntervalSeconds int            `json:"poll_interval_seconds"`
	}](document)
	if err != nil {
		return Config{}, err
	}
	if len(envelope.Data) == 0 {
		return Config{}, Bad("data", "is missing")
	}
	data, err := Decode[Data](envelope.Data)
	if err != nil {
		var bad *Invalid
		if errors.As(err, &bad) {
			for i := range bad.Errors {
				bad.Errors[i].Field = strings.TrimSuffix("data."+bad.Errors[i].Field, ".")
			}
		}
		return Config{}, err
	}
	c := Config{Version: envelope.Version, Data: data, PollIntervalSeconds: envelope.PollIntervalSeconds}
	return c, c.Validate()
}

// Encode returns v as compact JSON. Invalid UTF-8, which names of hosts and files may have,
// becomes U+FFFD. It fails only for values that no wire type has, such as NaN.
func Encode(v any) ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// scan rejects what Unmarshal accepts: null, which would equal an omitted field, and NUL, which
// ends C strings. Below the fields of the document null is allowed, in values that are stored
// unchanged.
func scan(document []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(document))
	for {
		token, err := d.ReadToken()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			if len(bytes.TrimSpace(document)) == 0 {
				return Bad("", "the body is empty; a JSON document was expected")
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch token.Kind() {
		case 'n':
			if d.StackDepth() > 1 {
				continue
			}
			if d.StackDepth() == 0 {
				return Bad("", "the document must be an object, not null")
			}
			return Bad(field(d.StackPointer()), "must not be null; leave the field out instead")
		case '"':
			if strings.ContainsRune(token.String(), 0) {
				return Bad(field(d.StackPointer()), "holds a NUL character")
			}
		}
	}
}

// invalid returns an error of the JSON library as an *Invalid.
func invalid(err error) error {
	var (
		bad       *Invalid
		syntactic *jsontext.SyntacticError
		semantic  *json.SemanticError
	)
	switch {
	case errors.As(err, &bad):
		return bad
	case errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &syntactic):
		return Bad(field(syntactic.JSONPointer), "occurs twice")
	case errors.As(err, &syntactic):
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return Bad("", "the JSON document ends too early, at byte %d", syntactic.ByteOffset)
		}
		return Bad("", "not a valid JSON document at byte %d: %v", syntactic.ByteOffset, syntactic.Err)
	case errors.Is(err, json.ErrUnknownName) && errors.As(err, &semantic):
		return Bad(field(semantic.JSONPointer), "is not a known field")
	case errors.As(err, &semantic) && semantic.JSONPointer == "":
		return Bad("", "the document must be %s", expectedType(semantic.GoType))
	case errors.As(err, &semantic):
		return Bad(field(semantic.JSONPointer), "must be %s", expectedType(semantic.GoType))
	}
	return Bad("", "not a valid JSON document")
}

// field returns a JSON Pointer (RFC 6901) in dotted form: data.url.
func field(p jsontext.Pointer) string {
	var names []string
	for name := range p.Tokens() {
		names = append(names, name)
	}
	return strings.Join(names, ".")
}

func expectedType(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[time.Time]() {
		return "a time in RFC 3339, such as 2026-11-24T18:00:00Z"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}
