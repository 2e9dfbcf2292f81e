package models_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/pkg/models"
)

func TestValidate_ValidURLs(t *testing.T) {
	for _, url := range []string{
		"http://a",
		"https://example.com/",
		"HTTPS://EXAMPLE.com/",
		"http://localhost:8080/a/b?c=d&e=%20",
		"http://example.com.:80/",
		"http://a_b.example.com/",
		"http://127.0.0.1:65535",
		"http://[::1]:8080/",
		"http://[2001:db8::1]/",
		"http://xn--mnchen-3ya.de/",
		"http://example.com/?q=a+b&r=%00",
		"http://example.com/a%2Fb",
		"http://" + strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + ".com/",
		"http://a/" + strings.Repeat("x", models.MaxURLBytes-len("http://a/")),
	} {
		if err := (models.WorkerConfig{URL: url}).Validate(); err != nil {
			t.Errorf("%.80s: got %v, want nil", url, err)
		}
	}
}

func TestValidate_InvalidURLs(t *testing.T) {
	for name, row := range map[string]struct{ url, detail string }{
		"none":                  {"", "missing"},
		"relative":              {"/hello", "must be absolute"},
		"relative, no slash":    {"hello", "must be absolute"},
		"a host alone":          {"example.com", "must be absolute"},
		"a host and a port":     {"example.com:8080", `scheme "example.com"`},
		"without a scheme":      {"//example.com/", "must be absolute"},
		"no host":               {"http://", "has no host"},
		"no host but a path":    {"http:///hello", "has no host"},
		"no host but a port":    {"http://:8080/", "has no host"},
		"no slashes":            {"http:example.com", "has no host"},
		"ftp":                   {"ftp://example.com/", `scheme "ftp"`},
		"file":                  {"file:///etc/passwd", `scheme "file"`},
		"javascript":            {"javascript:alert(1)", `scheme "javascript"`},
		"data":                  {"data:text/plain,hello", `scheme "data"`},
		"a user":                {"http://user@example.com/", "user name or password"},
		"a user and a password": {"http://user:secret@example.com/", "user name or password"},
		"an empty user":         {"http://@example.com/", "user name or password"},
		"a fragment":            {"http://example.com/#top", "fragment"},
		"an empty fragment":     {"http://example.com/#", "fragment"},
		"too long": {"http://a/" + strings.Repeat("x", models.MaxURLBytes),
			"2057 bytes long; at most 2048"},
		"a space before":               {" http://example.com/", "space"},
		"a space behind":               {"http://example.com/ ", "space"},
		"a space in the path":          {"http://example.com/a b", "%20"},
		"a tab":                        {"http://example.com/\t", "control character"},
		"a line feed":                  {"http://example.com/\nHost: b", "control character"},
		"NUL":                          {"http://example.com/\x00", "control character"},
		"DEL":                          {"http://example.com/\x7f", "control character"},
		"a no-break space":             {"http://example.com/\u00a0", "space"},
		"invalid UTF-8":                {"http://example.com/\xff", "UTF-8"},
		"a Unicode host":               {"http://münchen.de/", "Punycode"},
		"a Unicode dot":                {"http://example。com/", "Punycode"},
		"a percent-encoded host":       {"http://m%C3%BCnchen.de/", "Punycode"},
		"a Unicode path":               {"http://example.com/ü", "percent-encode"},
		"a bad escape":                 {"http://example.com/%zz", "cannot be parsed"},
		"a backslash for a slash":      {`http://example.com\@evil.com/`, "percent-encoded"},
		"a quote":                      {`http://example.com/"`, "percent-encoded"},
		"angle brackets":               {`http://example.com/<x>`, "percent-encoded"},
		"a pipe":                       {`http://example.com/a|b`, "percent-encoded"},
		"a number for a host":          {`http://2130706433/`, "no DNS name or address"},
		"a short IPv4 address":         {`http://127.1/`, "no DNS name or address"},
		"a hexadecimal IPv4 address":   {`http://0x7f.0.0.0x1/`, "no DNS name or address"},
		"an IPv4 address out of range": {`http://256.1.1.1/`, "no DNS name or address"},
		"a host of dots":               {"http://../", "no DNS name or address"},
		"an empty label":               {"http://a..b/", "no DNS name or address"},
		"a label that is too long":     {"http://" + strings.Repeat("a", 64) + ".com/", "no DNS name or address"},
		"a name that is too long":      {"http://" + strings.Repeat("a.", 127) + "com/", "no DNS name or address"},
		"a label that ends in a dash":  {"http://a-.com/", "no DNS name or address"},
		"a star":                       {"http://*.example.com/", "no DNS name or address"},
		"a comma":                      {"http://a,b/", "no DNS name or address"},
		"an address with a zone":       {"http://[fe80::1%25eth0]/", "zone"},
		"a bracket that stays open":    {"http://[::1/", "cannot be parsed"},
		"IPv4 in brackets":             {"http://[127.0.0.1]/", ""},
		"a name in brackets":           {"http://[example.com]/", ""},
		"IPv6 without brackets":        {"http://::1/", ""},
		"port 0":                       {"http://example.com:0/", "1 to 65535"},
		"port 65536":                   {"http://example.com:65536/", "1 to 65535"},
		"a port past 64 bits":          {"http://example.com:99999999999999999999/", "1 to 65535"},
		"a port of letters":            {"http://example.com:http/", "cannot be parsed"},
		"a negative port":              {"http://example.com:-1/", "cannot be parsed"},
		"two ports":                    {"http://example.com:80:80/", ""},
		"a colon and no port":          {"http://example.com:/", "no port"},
	} {
		t.Run(name, func(t *testing.T) {
			wantInvalid(t, models.WorkerConfig{URL: row.url}.Validate(), "url", row.detail)
			wantInvalid(t, models.PublishRequest{URL: &row.url}.Validate(), "url", row.detail)
			wantInvalid(t, models.Config{Version: 1, PollIntervalSeconds: 30,
				Data: models.Data{URL: row.url}}.Validate(), "data.url", row.detail)
		})
	}
}

func TestValidate_URLWithPassword_NotRepeated(t *testing.T) {
	for _, url := range []string{"http://user:hunter2@example.com/", "http://user:hunter2@exa mple.com/",
		"http://user:hunter2@[::1/", "http://user:hunter2@a:b/"} {
		if err := (models.WorkerConfig{URL: url}).Validate(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error without the password", url, err)
		}
	}
}

func TestPublishRequest_Validate_NamesEveryFault(t *testing.T) {
	url, interval, message := "ftp://a/", 0, "two\nlines"
	err := models.PublishRequest{URL: &url, PollIntervalSeconds: &interval, Message: &message}.Validate()
	var bad *models.Invalid
	if !errors.As(err, &bad) {
		t.Fatalf("got %v, want an *Invalid", err)
	}
	var fields []string
	for _, f := range bad.Errors {
		fields = append(fields, f.Field)
	}
	if diff := cmp.Diff([]string{"url", "poll_interval_seconds", "message"}, fields); diff != "" {
		t.Errorf("fields (-want +got)\n%s", diff)
	}
	for _, f := range bad.Errors {
		if !strings.Contains(err.Error(), f.Field+" "+f.Detail) {
			t.Errorf("got %q, want it to hold %q", err, f.Field+" "+f.Detail)
		}
	}
}

func TestPublishRequest_Validate_AllFieldsOptional(t *testing.T) {
	if err := (models.PublishRequest{}).Validate(); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestValidate_PollInterval(t *testing.T) {
	for seconds, ok := range map[int]bool{
		math.MinInt: false, -1: false, 0: false, 1: true, 30: true, 86_400: true, 86_401: false, math.MaxInt: false,
	} {
		err := models.PublishRequest{PollIntervalSeconds: &seconds}.Validate()
		if ok && err != nil {
			t.Errorf("%d: got %v, want nil", seconds, err)
		} else if !ok {
			wantInvalid(t, err, "poll_interval_seconds", "must be 1 to 86400 seconds")
		}
	}
}

func TestPollInterval_Parse(t *testing.T) {
	if n, err := models.PollInterval("poll_interval", "15"); n != 15 || err != nil {
		t.Errorf("got %d, %v, want 15", n, err)
	}
	for text, detail := range map[string]string{
		"": "whole number", "abc": "whole number", "1.5": "whole number", "15s": "whole number", " 15": "whole number",
		"NaN": "whole number", "9223372036854775808": "whole number",
		"0": "1 to 86400", "-15": "1 to 86400", "86401": "1 to 86400", "9223372036854775807": "1 to 86400",
	} {
		_, err := models.PollInterval("poll_interval", text)
		wantInvalid(t, err, "poll_interval", detail)
	}
}

func TestRegisterRequest_Validate(t *testing.T) {
	valid := models.RegisterRequest{Hostname: "web-17", AgentID: "019aa1f0-7e2c-7c31-9a51-0a4f6e1d2b3c",
		Metadata: jsontext.Value(`{"zone":"a"}`)}
	if err := valid.Validate(); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	most := valid
	most.Metadata = jsontext.Value(strings.Repeat(`{"a":`, 16) + "1" + strings.Repeat("}", 16))
	most.AgentSecret = strings.Repeat("a", 128)
	if err := most.Validate(); err != nil {
		t.Errorf("as much as there may be: got %v, want nil", err)
	}
	for name, row := range map[string]struct {
		change        func(*models.RegisterRequest)
		field, detail string
	}{
		"no hostname": {func(r *models.RegisterRequest) { r.Hostname = "" }, "hostname", "missing"},
		"a hostname that is too long": {func(r *models.RegisterRequest) { r.Hostname = strings.Repeat("a", 254) },
			"hostname", "253"},
		"a hostname with a line feed": {func(r *models.RegisterRequest) { r.Hostname = "a\nb" }, "hostname",
			"control character"},
		"an id with a colon":     {func(r *models.RegisterRequest) { r.AgentID = "a:b" }, "agent_id", "letters"},
		"an id with a slash":     {func(r *models.RegisterRequest) { r.AgentID = "../a" }, "agent_id", "letters"},
		"an id with a line feed": {func(r *models.RegisterRequest) { r.AgentID = "a\n" }, "agent_id", "letters"},
		"an id that is too long": {func(r *models.RegisterRequest) { r.AgentID = strings.Repeat("a", 65) },
			"agent_id", "64"},
		"metadata that is too long": {func(r *models.RegisterRequest) {
			r.Metadata = jsontext.Value(`{"a":"` + strings.Repeat("a", 8192) + `"}`)
		}, "metadata", "4096"},
		"metadata that is too deep": {func(r *models.RegisterRequest) {
			r.Metadata = jsontext.Value(strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17))
		}, "metadata", "16 levels"},
		"a secret that can be guessed": {func(r *models.RegisterRequest) {
			r.AgentSecret = strings.Repeat("a", 21)
		}, "agent_secret", "22"},
		"a secret that is too long": {func(r *models.RegisterRequest) {
			r.AgentSecret = strings.Repeat("a", 129)
		}, "agent_secret", "128"},
		"metadata that is an array": {func(r *models.RegisterRequest) { r.Metadata = jsontext.Value("[]") }, "metadata",
			"object"},
	} {
		t.Run(name, func(t *testing.T) {
			r := valid
			row.change(&r)
			wantInvalid(t, r.Validate(), row.field, row.detail)
		})
	}
}

func TestReport_Validate(t *testing.T) {
	for _, status := range []models.AttemptStatus{models.Applying, models.Applied, models.Failed} {
		if err := (models.Report{Version: 1, Status: status}).Validate(); err != nil {
			t.Errorf("%s: got %v, want nil", status, err)
		}
	}
	for name, row := range map[string]struct {
		report        models.Report
		field, detail string
	}{
		"no version":         {models.Report{Status: models.Applied}, "version", "1 or more"},
		"a negative version": {models.Report{Version: -8, Status: models.Applied}, "version", "not -8"},
		"no status":          {models.Report{Version: 1}, "status", "APPLYING, APPLIED or FAILED"},
		"a status in lower case": {models.Report{Version: 1, Status: "applied"}, "status",
			"APPLYING, APPLIED or FAILED"},
		"an error that is a book": {models.Report{Version: 1, Status: models.Failed, Error: strings.Repeat("a", 1025)},
			"error", "1024"},
		"an ETag that is a book": {models.Report{Version: 1, Status: models.Applied, ETag: strings.Repeat("a", 257)},
			"etag", "256"},
	} {
		t.Run(name, func(t *testing.T) { wantInvalid(t, row.report.Validate(), row.field, row.detail) })
	}
}

func TestWorkerConfig_Validate(t *testing.T) {
	if err := (models.WorkerConfig{URL: "http://a/"}).Validate(); err != nil {
		t.Errorf("a push by hand, with no version: got %v, want nil", err)
	}
	wantInvalid(t, models.WorkerConfig{URL: "http://a/", Version: -1}.Validate(), "version", "negative")
}

func TestText(t *testing.T) {
	if err := models.Text("message", "grüße 🎉", 64); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	wantInvalid(t, models.Text("message", "ééé", 5), "message", "longer than 5 bytes")
	wantInvalid(t, models.Text("message", "a\x1b[31mb", 64), "message", "control character")
}

func TestConfig_PollInterval(t *testing.T) {
	if got := (models.Config{PollIntervalSeconds: 90}).PollInterval(); got != 90*time.Second {
		t.Errorf("got %s, want 1m30s", got)
	}
}

func TestHeaderText_PrintableASCII(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "",
		" the worker\r\nX-Forged: 1\t ":  "the worker X-Forged: 1",
		"\x00nothing listens… \x7f\xff~": "?nothing listens? ??~",
		strings.Repeat("x", 256):         strings.Repeat("x", 256),
		strings.Repeat("x", 257):         strings.Repeat("x", 253) + "...",
		"\u2028" + "one line\u00a0only":  "one line only",
	} {
		if got := models.HeaderText(text); got != want {
			t.Errorf("HeaderText(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestTrim(t *testing.T) {
	for name, row := range map[string]struct{ text, want string }{
		"short":         {"connection refused", "connection refused"},
		"lines":         {" a\r\nb\x00 ", "a  b"},
		"invalid UTF-8": {"a\xffb", "a\uFFFDb"},
		"exactly as long": {strings.Repeat("a", models.MaxErrorBytes),
			strings.Repeat("a", models.MaxErrorBytes)},
		"too long": {strings.Repeat("a", models.MaxErrorBytes+1),
			strings.Repeat("a", models.MaxErrorBytes-3) + "…"},
		"cut within a character": {strings.Repeat("é", models.MaxErrorBytes),
			strings.Repeat("é", (models.MaxErrorBytes-3)/2) + "…"},
	} {
		t.Run(name, func(t *testing.T) {
			got := models.Trim(row.text)
			if got != row.want || len(got) > models.MaxErrorBytes || !utf8.ValidString(got) {
				t.Errorf("Trim(%.40q) = %.40q (%d bytes), want %.40q", row.text, got, len(got), row.want)
			}
		})
	}
}
