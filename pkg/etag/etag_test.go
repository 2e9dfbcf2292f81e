package etag_test

import (
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/etag"
)

const current = `"abc"`

func TestNoneMatch(t *testing.T) {
	for name, row := range map[string]struct {
		lines []string
		want  bool
	}{
		"no header":                {nil, false},
		"the same tag":             {[]string{`"abc"`}, true},
		"the same tag, weakened":   {[]string{`W/"abc"`}, true},
		"suffixed by Apache":       {[]string{`"abc-gzip"`}, true},
		"suffixed and weakened":    {[]string{`"x", W/"abc;br"`}, true},
		"suffixed by Jetty":        {[]string{`"abc--gzip"`}, true},
		"another tag, suffixed":    {[]string{`"abd-gzip"`}, false},
		"another suffix":           {[]string{`"abc-more"`}, false},
		"a suffix run together":    {[]string{`"abcgzip"`}, false},
		"nothing but a suffix":     {[]string{`"-gzip"`}, false},
		"another tag":              {[]string{`"abd"`}, false},
		"in a list":                {[]string{`"x", "abc" , "y"`}, true},
		"in a list without spaces": {[]string{`"x","abc"`}, true},
		"in a list with holes":     {[]string{`,, "x",,"abc",`}, true},
		"in the second line":       {[]string{`"x"`, `"abc"`}, true},
		"star":                     {[]string{" * "}, true},
		"a tag that is a star":     {[]string{`"*"`}, false},
		"a tag that holds a comma": {[]string{`"x,y", "abc"`}, true},
		"unquoted":                 {[]string{`abc`}, false},
		"half quoted":              {[]string{`"abc`}, false},
		"empty":                    {[]string{``}, false},
		"an empty tag":             {[]string{`""`}, false},
		"lower-case weak":          {[]string{`w/"abc"`}, false},
		"two tags run together":    {[]string{`"x""abc"`}, false},
		"ten thousand bytes":       {[]string{`"` + strings.Repeat("a", 10_000) + `"`}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := etag.NoneMatch(row.lines, current); got != row.want {
				t.Errorf("NoneMatch(%.40q) = %v, want %v", row.lines, got, row.want)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	for name, row := range map[string]struct {
		lines       []string
		current     string
		matches, ok bool
	}{
		"the same tag":                   {[]string{`"abc"`}, current, true, true},
		"another tag":                    {[]string{`"abd"`}, current, false, true},
		"weak is never strong":           {[]string{`W/"abc"`}, current, false, true},
		"in a list":                      {[]string{`"x", "abc"`}, current, true, true},
		"in the second line":             {[]string{`"x"`, `"abc"`}, current, true, true},
		"star":                           {[]string{`*`}, current, true, true},
		"star, and nothing is there":     {[]string{`*`}, "", false, true},
		"an empty tag, nothing is there": {[]string{`""`}, "", false, true},
		"unquoted":                       {[]string{`abc`}, current, false, false},
		"empty":                          {[]string{``}, current, false, false},
		"a good tag, then rubbish":       {[]string{`"abc", rubbish`}, current, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			matches, ok := etag.Match(row.lines, row.current)
			if matches != row.matches || ok != row.ok {
				t.Errorf("Match(%q, %q) = %v, %v, want %v, %v", row.lines, row.current, matches, ok, row.matches,
					row.ok)
			}
		})
	}
}

func TestSingle(t *testing.T) {
	for name, row := range map[string]struct {
		lines []string
		tag   string
		ok    bool
	}{
		"one tag":   {[]string{` "abc" `}, `"abc"`, true},
		"weak":      {[]string{`W/"abc"`}, `W/"abc"`, true},
		"two tags":  {[]string{`"abc", "x"`}, "", false},
		"two lines": {[]string{`"abc"`, `"x"`}, "", false},
		"star":      {[]string{`*`}, "", false},
		"rubbish":   {[]string{`abc`}, "", false},
		"no header": {nil, "", false},
	} {
		if tag, ok := etag.Single(row.lines); ok != row.ok || ok && tag != row.tag {
			t.Errorf("%s: Single(%q) = %q, %v, want %q, %v", name, row.lines, tag, ok, row.tag, row.ok)
		}
	}
}

func TestOriginal_StripsGatewaySuffixes(t *testing.T) {
	for tag, want := range map[string]string{
		`"abc"`: `"abc"`, `W/"abc"`: `"abc"`, `"abc-gzip"`: `"abc"`, `W/"abc;br"`: `"abc"`, `"abc--gzip"`: `"abc"`,
		`"abc/zstd"`: `"abc"`, `"abc-more"`: `"abc-more"`, `"br"`: `"br"`,
		`"gzip`: `"gzip`, `abc-gzip`: `abc-gzip`, ``: ``, `"`: `"`, `W/`: ``,
	} {
		if got := etag.Original(tag); got != want {
			t.Errorf("Original(%s) = %s, want %s", tag, got, want)
		}
	}
}

func TestOf(t *testing.T) {
	tag := etag.Of("a", "b")
	if single, ok := etag.Single([]string{tag}); !ok || single != tag || tag != etag.Of("a", "b") {
		t.Errorf("got %s, want one strong tag, the same for the same parts", tag)
	}
	for _, parts := range [][]string{{"ab"}, {"a", "c"}, {"b", "a"}, {"a", "b", ""}, {"a"}, nil} {
		if other := etag.Of(parts...); other == tag {
			t.Errorf("Of(%q) is that of other parts", parts)
		}
	}
}

// A list that holds the current tag in its proper form matches whatever stands
// around it, and what has no quote and no star matches nothing.
func FuzzNoneMatch(f *testing.F) {
	for _, seed := range []string{``, `*`, `"abc"`, `W/"abc"`, `"x", "abc"`, `abc`, `"`, `W/`, `,,,`, `"a" "b"`, "\x00",
		strings.Repeat(`"a",`, 2500)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if !etag.NoneMatch([]string{current + "," + line}, current) {
			t.Errorf("the current tag at the head of %q does not match", line)
		}
		if etag.NoneMatch([]string{line}, current) && !strings.Contains(line, strings.TrimSuffix(current, `"`)) &&
			strings.Trim(line, " \t") != "*" {
			t.Errorf("%q matches %s", line, current)
		}
		if matches, ok := etag.Match([]string{line}, current); matches && ok && !strings.Contains(line, current) &&
			strings.Trim(line, " \t") != "*" {
			t.Errorf("%q is a strong match of %s", line, current)
		}
	})
}
