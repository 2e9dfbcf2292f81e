package query_test

import (
	"math"
	"net/url"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/pkg/query"
)

func TestCheck(t *testing.T) {
	for raw, want := range map[string]string{
		"":            "",
		"limit=1":     "",
		"limit=1&b":   "",
		"b=1&b=2":     "b is given more than once",
		"limt=1":      "limt is not a parameter of this route",
		"limit=%zz":   `400 Bad Request: the query cannot be read: invalid URL escape "%zz"`,
		"limit=1;b=2": "400 Bad Request: the query cannot be read: invalid semicolon separator in query",
	} {
		wantError(t, raw, query.Check(raw, []string{"limit", "b"}), want)
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		raw     string
		most    int64
		want    int64
		wantErr string
	}{
		{"", 10, 7, ""},
		{"n=1", 10, 1, ""},
		{"n=10", 10, 10, ""},
		{"n=11", 10, 0, "n must be a whole number, 1 to 10"},
		{"n=0", 10, 0, "n must be a whole number, 1 to 10"},
		{"n=", 10, 0, "n must be a whole number, 1 to 10"},
		{"n=x", math.MaxInt64, 0, "n must be a whole number, 1 or more"},
		{"n=0", math.MaxInt64, 0, "n must be a whole number, 1 or more"},
	} {
		got, err := query.Number(parse(t, c.raw), "n", 7, c.most)
		wantError(t, c.raw, err, c.wantErr)
		if got != c.want {
			t.Errorf("%q: got %d, want %d", c.raw, got, c.want)
		}
	}
}

func TestFlag(t *testing.T) {
	for _, c := range []struct {
		raw     string
		want    bool
		wantErr string
	}{
		{"", false, ""},
		{"f=false", false, ""},
		{"f=true", true, ""},
		{"f=", false, "f must be true or false"},
		{"f=1", false, "f must be true or false"},
	} {
		got, err := query.Flag(parse(t, c.raw), "f")
		wantError(t, c.raw, err, c.wantErr)
		if got != c.want {
			t.Errorf("%q: got %t, want %t", c.raw, got, c.want)
		}
	}
}

func TestOneOf(t *testing.T) {
	for _, c := range []struct{ raw, want, wantErr string }{
		{"", "", ""},
		{"v=a", "a", ""},
		{"v=c", "", "v must be one of a, b"},
		{"v=", "", "v must be one of a, b"},
	} {
		got, err := query.OneOf(parse(t, c.raw), "v", []string{"a", "b"})
		wantError(t, c.raw, err, c.wantErr)
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.raw, got, c.want)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30": 30 * time.Second, "-1": -time.Second, "1m30s": 90 * time.Second, "0": 0, "": -1, "1.5": -1, "x": -1,
	} {
		if got, ok := query.Duration(text); ok != (want != -1) || ok && got != want {
			t.Errorf("%q: got %s, %t, want %s", text, got, ok, want)
		}
	}
}

func parse(t *testing.T, raw string) url.Values {
	t.Helper()
	values, err := url.ParseQuery(raw)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func wantError(t *testing.T, raw string, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("%q: got error %q, want %q", raw, got, want)
	}
}
