package models_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/pkg/models"
)

// wantInvalid fails unless err is an *Invalid with one fault, of this field and with detail in its text.
func wantInvalid(t *testing.T, err error, field, detail string) {
	t.Helper()
	var bad *models.Invalid
	if !errors.As(err, &bad) {
		t.Fatalf("got error %v (%T), want an *Invalid of %q", err, err, field)
	}
	if len(bad.Errors) != 1 || bad.Errors[0].Field != field || !strings.Contains(bad.Errors[0].Detail, detail) {
		t.Errorf("got faults %q, want one of field %q that says %q", bad.Errors, field, detail)
	}
}

// RFC 3339 §5.6: T and Z may be in lower case.
func TestDecode_Times(t *testing.T) {
	want := time.Date(2026, 11, 24, 18, 0, 0, 0, time.UTC)
	for text, ok := range map[string]bool{
		"2026-11-24T18:00:00Z": true, "2026-11-24t18:00:00z": true, "2026-11-24t20:00:00.0+02:00": true,
		"2026-11-24 18:00:00Z": false, "2026-11-24T18:00:00": false, "today": false, "": false,
	} {
		got, err := models.Decode[models.FreezeRequest]([]byte(`{"reason":"r","until":"` + text + `"}`))
		switch {
		case !ok:
			wantInvalid(t, err, "until", "RFC 3339")
		case err != nil || !got.Until.Equal(want):
			t.Errorf("%s: got %v, %v, want %v", text, got.Until, err, want)
		}
	}
	_, err := models.Decode[models.FreezeRequest]([]byte(`{"reason":"r","until":5}`))
	wantInvalid(t, err, "until", "RFC 3339")
}

func TestDecode_InvalidDocuments(t *testing.T) {
	for name, row := range map[string]struct{ document, field, detail string }{
		"nothing":                       {"", "", "empty"},
		"white space":                   {" \n\t ", "", "empty"},
		"no JSON":                       {"url=http://a/", "", "not a valid JSON document at byte 0"},
		"cut off in a string":           {`{"url":"http://a`, "", "ends too early"},
		"cut off before the end":        {`{"url":"http://a/"`, "", "ends too early"},
		"a trailing comma":              {`{"url":"http://a/",}`, "", "not a valid JSON document"},
		"single quotes":                 {`{'url':'http://a/'}`, "", "not a valid JSON document"},
		"two documents":                 {`{"url":"http://a/"}{"url":"http://b/"}`, "", "not a valid JSON document"},
		"something behind the document": {`{"url":"http://a/"} x`, "", "not a valid JSON document"},
		"a byte order mark":             {"\ufeff{}", "", "not a valid JSON document"},
		"nested without end":            {strings.Repeat("[", 60_000), "", "not a valid JSON document"},
		"a name twice":                  {`{"url":"http://a/","url":"http://b/"}`, "url", "twice"},
		"a name twice, once escaped":    {`{"url":"http://a/","\u0075rl":"http://b/"}`, "url", "twice"},
		"an unknown field":              {`{"url":"http://a/","uri":"http://b/"}`, "uri", "not a known field"},
		"another case":                  {`{"URL":"http://a/"}`, "URL", "not a known field"},
		"null":                          {`null`, "", "an object, not null"},
		"a null field":                  {`{"url":null}`, "url", "must not be null"},
		"NUL in a value":                {`{"url":"http://a/\u0000"}`, "url", "NUL"},
		"a raw NUL":                     {"{\"url\":\"http://a/\x00\"}", "", "not a valid JSON document"},
		"invalid UTF-8":                 {"{\"url\":\"http://a/\xff\"}", "", "UTF-8"},
		"half a surrogate pair":         {`{"url":"http://a/\ud800"}`, "", "not a valid JSON document"},
		"an array":                      {`[]`, "", "must be an object"},
		"a string":                      {`"http://a/"`, "", "must be an object"},
		"a number for a string":         {`{"url":1}`, "url", "must be a string"},
		"an object for a string":        {`{"url":{}}`, "url", "must be a string"},
		"a string for a number": {`{"poll_interval_seconds":"30"}`, "poll_interval_seconds",
			"must be a whole number"},
		"a fraction": {`{"poll_interval_seconds":1.5}`, "poll_interval_seconds",
			"must be a whole number"},
		"an exponent": {`{"poll_interval_seconds":3e1}`, "poll_interval_seconds",
			"must be a whole number"},
		"a number out of range": {`{"poll_interval_seconds":99999999999999999999}`, "poll_interval_seconds",
			"must be a whole number"},
		"not a number": {`{"poll_interval_seconds":NaN}`, "", "not a valid JSON document"},
		"a boolean for a number": {`{"poll_interval_seconds":true}`, "poll_interval_seconds",
			"must be a whole number"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := models.Decode[models.PublishRequest]([]byte(row.document))
			wantInvalid(t, err, row.field, row.detail)
		})
	}
}

func TestDecode_RawValue_Unchanged(t *testing.T) {
	const metadata = `{"zone":null,"id":9007199254740993,"load":1.0}`
	got, err := models.Decode[models.RegisterRequest]([]byte(`{"hostname":"h","metadata":` + metadata + `}`))
	if err != nil || string(got.Metadata) != metadata {
		t.Errorf("got %s, %v, want %s", got.Metadata, err, metadata)
	}
}

func TestDecode_WrongType_NamesExpectedType(t *testing.T) {
	type document struct {
		Flag  *bool                 `json:"flag"`
		List  []string              `json:"list"`
		Inner struct{ N int }       `json:"inner"`
		Map   map[string]*int64     `json:"map"`
		Items []models.WorkerConfig `json:"items"`
	}
	for name, row := range map[string]struct{ document, field, detail string }{
		"a boolean":          {`{"flag":"yes"}`, "flag", "true or false"},
		"an array":           {`{"list":"a"}`, "list", "an array"},
		"an object":          {`{"inner":[]}`, "inner", "an object"},
		"within a map":       {`{"map":{"a":"b"}}`, "map.a", "a whole number"},
		"within an array":    {`{"items":[{"url":"http://a/"},{"url":5}]}`, "items.1.url", "a string"},
		"null":               {`{"map":null}`, "map", "null"},
		"a slash in a name":  {`{"a/b~c":1}`, "a/b~c", "not a known field"},
		"unknown far within": {`{"items":[{"uri":"http://a/"}]}`, "items.0.uri", "not a known field"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := models.Decode[document]([]byte(row.document))
			wantInvalid(t, err, row.field, row.detail)
		})
	}
}

func TestDecode_MissingFields_StayNil(t *testing.T) {
	got, err := models.Decode[models.PublishRequest]([]byte(` {"url":"http://a/"} ` + "\n"))
	if err != nil || got.URL == nil || *got.URL != "http://a/" || got.PollIntervalSeconds != nil || got.Message != nil {
		t.Errorf("got %+v, %v, want a URL and nothing else", got, err)
	}
}

func TestDecodeConfig(t *testing.T) {
	long := "http://a/" + strings.Repeat("a", models.MaxURLBytes-len("http://a/"))
	want := models.Config{Version: 8, Data: models.Data{URL: "http://a/"}, PollIntervalSeconds: 30}
	for name, row := range map[string]struct {
		document string
		want     models.Config
	}{
		"as it is served":  {`{"version":8,"data":{"url":"http://a/"},"poll_interval_seconds":30}`, want},
		"in another order": {`{"poll_interval_seconds":30,"data":{"url":"http://a/"},"version":8}`, want},
		"a newer envelope": {`{"version":8,"signature":{"k":[1]},"data":{"url":"http://a/"},"poll_interval_seconds":30}`, want},
		"the longest URL": {`{"version":1,"data":{"url":"` + long + `"},"poll_interval_seconds":1}`,
			models.Config{Version: 1, Data: models.Data{URL: long}, PollIntervalSeconds: 1}},
		"the longest poll interval": {`{"version":8,"data":{"url":"http://a/"},"poll_interval_seconds":86400}`,
			models.Config{Version: 8, Data: models.Data{URL: "http://a/"}, PollIntervalSeconds: 86400}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := models.DecodeConfig([]byte(row.document))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecodeConfig_Invalid_NamesField(t *testing.T) {
	for name, row := range map[string]struct{ document, field, detail string }{
		"nothing":         {``, "", "empty"},
		"an empty object": {`{}`, "data", "missing"},
		"an array":        {`[]`, "", "an object"},
		"longer than any answer": {`{"version":1,"x":"` + strings.Repeat("x", models.MaxBodyBytes) + `"}`, "",
			"longer than 65536 bytes"},
		"cut off": {`{"version":8,"data":{"url":"http://a/"},"poll`, "", "too early"},
		"doubled": {`{"version":8,"data":{"url":"http://a/"},"poll_interval_seconds":30}{}`, "",
			"not a valid JSON document"},
		"data twice": {`{"version":8,"data":{"url":"http://a/"},"data":{"url":"http://b/"},"poll_interval_seconds":30}`,
			"data", "twice"},
		"url twice": {`{"version":8,"data":{"url":"http://a/","url":"http://b/"},"poll_interval_seconds":30}`,
			"data.url", "twice"},
		"null data": {`{"version":8,"data":null,"poll_interval_seconds":30}`, "data", "null"},
		"data of another type": {`{"version":8,"data":"http://a/","poll_interval_seconds":30}`, "data",
			"an object"},
		"more data than it knows": {`{"version":8,"data":{"url":"http://a/","retries":3},"poll_interval_seconds":30}`,
			"data.retries", "not a known field"},
		"a url of another type": {`{"version":8,"data":{"url":["http://a/"]},"poll_interval_seconds":30}`,
			"data.url", "a string"},
		"no url": {`{"version":8,"data":{},"poll_interval_seconds":30}`, "data.url", "missing"},
		"a bad url": {`{"version":8,"data":{"url":"ftp://a/"},"poll_interval_seconds":30}`,
			"data.url", "ftp"},
		"NUL in the url": {`{"version":8,"data":{"url":"http://a/\u0000"},"poll_interval_seconds":30}`,
			"data.url", "NUL"},
		"no version": {`{"data":{"url":"http://a/"},"poll_interval_seconds":30}`, "version",
			"1 or more"},
		"version 0": {`{"version":0,"data":{"url":"http://a/"},"poll_interval_seconds":30}`,
			"version", "1 or more"},
		"a negative version": {`{"version":-1,"data":{"url":"http://a/"},"poll_interval_seconds":30}`,
			"version", "not -1"},
		"a version of another type": {`{"version":"8","data":{"url":"http://a/"},"poll_interval_seconds":30}`,
			"version", "a whole number"},
		"no poll interval": {`{"version":8,"data":{"url":"http://a/"}}`, "poll_interval_seconds",
			"1 to 86400 seconds"},
		"poll interval 0": {`{"version":8,"data":{"url":"http://a/"},"poll_interval_seconds":0}`,
			"poll_interval_seconds", "1 to 86400 seconds"},
		"a negative poll interval": {`{"version":8,"data":{"url":"http://a/"},"poll_interval_seconds":-30}`,
			"poll_interval_seconds", "1 to 86400 seconds"},
		"a huge poll interval": {`{"version":8,"data":{"url":"http://a/"},"poll_interval_seconds":86401}`,
			"poll_interval_seconds", "1 to 86400 seconds"},
		"a poll interval past 64 bits": {`{"version":8,"data":{"url":"http://a/"},"poll_interval_seconds":1e400}`,
			"poll_interval_seconds", "a whole number"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := models.DecodeConfig([]byte(row.document))
			wantInvalid(t, err, row.field, row.detail)
		})
	}
}

func TestEncode_Unsupported_NamesType(t *testing.T) {
	if b, err := models.Encode(func() {}); err == nil || !strings.Contains(err.Error(), "func()") {
		t.Errorf("got %q, %v, want an error that names the type", b, err)
	}
}

// What is taken for a configuration is one: it is valid, and comes through
// another trip over the wire unchanged. Everything else is an *Invalid.
func FuzzDecodeConfig(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{}`, `[`, `{"version":8,"data":{"url":"http://a/"},"poll_interval_seconds":30}`,
		`{"version":8,"data":{"url":"https://[::1]:8080/a?b=c"},"poll_interval_seconds":86400,"new":[{}]}`,
		`{"version":8,"data":{"url":"http://a/#b"},"poll_interval_seconds":30}`,
		`{"version":8,"data":{"url":"http://a/\u0000"},"poll_interval_seconds":30}`,
		`{"version":8,"data":{"url":"http://a/","url":"b"},"poll_interval_seconds":-0}`,
		"{\"version\":8,\"data\":{\"url\":\"http://\xff/\"},\"poll_interval_seconds\":30}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		c, err := models.DecodeConfig(document)
		if err != nil {
			var bad *models.Invalid
			if !errors.As(err, &bad) || len(bad.Errors) == 0 || err.Error() == "" {
				t.Fatalf("%q: got error %v (%T), want an *Invalid that says why", document, err, err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("%q: decodes to %+v, which is not valid: %v", document, c, err)
		}
		wire, err := models.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := models.DecodeConfig(wire); err != nil || again != c {
			t.Fatalf("%q: decodes to %+v, and after another trip as %q to %+v, %v", document, c, wire, again, err)
		}
	})
}

func ExampleDecode() {
	_, err := models.Decode[models.PublishRequest]([]byte(`{"url":"https://example.com/","pol_interval":5}`))
	fmt.Println(err)
	// Output: pol_interval is not a known field
}

// What this machine, a file system or a peer names is any bytes. What is written can
// be read by the strict decoder, and is no reason to say nothing.
func TestEncode_InvalidUTF8_Replaced(t *testing.T) {
	document, err := models.Encode(map[string]any{"path\xff": "/caf\xe9", "raw": jsontext.Value("\"\xff\"")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := models.Decode[map[string]string](document)
	if want := map[string]string{"path\uFFFD": "/caf\uFFFD", "raw": "\uFFFD"}; err != nil || !maps.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
