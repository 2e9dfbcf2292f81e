// Package etag compares entity tags by RFC 9110 §8.8.3 and §13.1. Tags include their quotes, as in a
// header.
package etag

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// Quote returns the strong entity tag of an opaque text, which must not contain quotes or control
// characters.
func Quote(opaque string) string { return `"` + opaque + `"` }

// Of returns a strong entity tag of the parts on which a representation depends.
func Of(parts ...string) string { return Quote(Hash(parts...)) }

// HashLength is the length of a Hash: 16 bytes in base64url.
const HashLength = 22

// Hash returns a hash of parts, which must not contain zero bytes.
func Hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// HashContent returns a hash of the content of a configuration, which does not depend on the
// version.
func HashContent(url string, pollIntervalSeconds int, probe bool) string {
	return Hash(url, strconv.Itoa(pollIntervalSeconds), strconv.FormatBool(probe))
}

// codings are the content codings that gateways append to the opaque part of an entity tag, after a
// separator: Apache turns "abc" into "abc-gzip".
var codings = []string{"gzip", "br", "zstd", "deflate", "bzip2", "compress"}

// cutSuffix returns the opaque part of an entity tag without the suffix of a gateway. Our tags never
// end like one: the last character of 16 bytes in base64url is A, Q, g or w.
func cutSuffix(opaque string) string {
	for _, coding := range codings {
		if bare, found := strings.CutSuffix(opaque, coding); found {
			if trimmed := strings.TrimRight(bare, "-;:+/."); len(trimmed) < len(bare) {
				return trimmed
			}
		}
	}
	return opaque
}

// Original returns the entity tag of the origin server: a gateway that compresses may have marked it
// as weak, or appended a suffix.
func Original(tag string) string {
	tag = strings.TrimPrefix(tag, "W/")
	opaque, quoted := strings.CutSuffix(tag, `"`)
	if bare := cutSuffix(opaque); quoted && bare != opaque {
		return bare + `"`
	}
	return tag
}

// NoneMatch reports whether the If-None-Match lines of a request match current, the entity tag of
// the representation, so that a GET is answered 304 (RFC 9110 §13.1.2). "*" matches any. The
// comparison is weak and ignores suffixes, because a gateway that compresses may have changed the
// tag. Parsing of a line ends at an invalid member, which matches nothing.
func NoneMatch(lines []string, current string) (matches bool) {
	for _, line := range lines {
		if isStar(line) {
			return true
		}
		for tag, ok := next(&line); ok; tag, ok = next(&line) {
			if tag = strings.TrimPrefix(tag, "W/"); tag == current ||
				cutSuffix(tag[:len(tag)-1]) == strings.TrimSuffix(current, `"`) {
				return true
			}
		}
	}
	return false
}

// Match reports whether the If-Match lines of a request match current (RFC 9110 §13.1.1). The
// comparison is strong: a weak tag never matches. An empty current means that there is no
// representation, and "*" does not match it. ok is false if a line is not a list of entity tags;
// such a request must be rejected.
func Match(lines []string, current string) (matches, ok bool) {
	for _, line := range lines {
		if isStar(line) {
			matches = matches || current != ""
			continue
		}
		read := 0
		for tag, more := next(&line); more; tag, more = next(&line) {
			matches = matches || (tag == current && current != "")
			read++
		}
		if read == 0 || line != "" {
			return false, false
		}
	}
	return matches, true
}

// Single returns the entity tag of the lines of a request, if they are exactly one.
func Single(lines []string) (tag string, ok bool) {
	if len(lines) != 1 {
		return "", false
	}
	rest := lines[0]
	tag, ok = next(&rest)
	return tag, ok && rest == ""
}

func isStar(line string) bool { return strings.Trim(line, " \t") == "*" }

// next removes the first entity tag from a list. ok is false at the end, where list is empty, and at
// an invalid member, which stays in list.
func next(list *string) (tag string, ok bool) {
	rest := strings.TrimLeft(*list, " \t,")
	open := 0
	if strings.HasPrefix(rest, "W/") {
		open = 2
	}
	if len(rest) <= open || rest[open] != '"' {
		*list = rest
		return "", false
	}
	length := strings.IndexByte(rest[open+1:], '"')
	if length < 0 {
		*list = rest
		return "", false
	}
	end := open + 1 + length + 1
	after := strings.TrimLeft(rest[end:], " \t")
	if after != "" && after[0] != ',' {
		*list = rest
		return "", false
	}
	*list = after
	return rest[:end], true
}
