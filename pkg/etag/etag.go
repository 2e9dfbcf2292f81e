// Package etag compares entity tags as RFC 9110 §8.8.3 and §13.1 say. A tag is
// handled as it stands in a header, in its quotes.
package etag

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// Quote makes a strong entity tag of an opaque text, which must hold neither a
// quote nor a control character.
func Quote(opaque string) string { return `"` + opaque + `"` }

// Of makes a strong entity tag of what a representation depends on.
func Of(parts ...string) string { return Quote(Hash(parts...)) }

// HashLength is the length of what Hash returns: 16 bytes in base64url.
const HashLength = 22

// Hash identifies parts among all lists of texts that hold no zero byte.
func Hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// HashContent identifies what a configuration distributes, whatever its version.
// Equal hashes stand for an equal URL, poll interval and probe.
func HashContent(url string, pollIntervalSeconds int, probe bool) string {
	return Hash(url, strconv.Itoa(pollIntervalSeconds), strconv.FormatBool(probe))
}

// codings are the content codings whose names gateways append to the opaque part of
// an entity tag, behind a separator: Apache makes "abc-gzip" of "abc".
var codings = []string{"gzip", "br", "zstd", "deflate", "bzip2", "compress"}

// cutSuffix takes off what a gateway appended to the opaque part of an entity tag.
// An entity tag of ours never ends in one: the last character of a hash of 16 bytes
// in base64url is A, Q, g or w.
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

// Original returns an entity tag as the origin server sent it: a gateway that
// compresses may have marked it as weak, or appended a suffix.
func Original(tag string) string {
	tag = strings.TrimPrefix(tag, "W/")
	opaque, quoted := strings.CutSuffix(tag, `"`)
	if bare := cutSuffix(opaque); quoted && bare != opaque {
		return bare + `"`
	}
	return tag
}

// NoneMatch reports whether the If-None-Match lines of a request name current,
// the entity tag of what would be sent, so that 304 is the answer to a GET
// (RFC 9110 §13.1.2). "*" names anything that exists. The comparison is weak, and
// ignores suffixes, because a gateway that compresses may have changed the tag on
// its way. A member that is no entity tag ends the reading of its line: it matches
// nothing, and the document is sent.
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

// Match reports whether the If-Match lines of a request allow a change of what
// current names (RFC 9110 §13.1.1). The comparison is strong: a weak tag never
// matches. An empty current stands for nothing being there: "*" does not match
// it. ok is false when a line is not a list of entity tags, which is an error
// to tell the caller of: a precondition must not be guessed at.
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

// Single returns the entity tag that the lines of a request consist of, if it is
// one alone.
func Single(lines []string) (tag string, ok bool) {
	if len(lines) != 1 {
		return "", false
	}
	rest := lines[0]
	tag, ok = next(&rest)
	return tag, ok && rest == ""
}

func isStar(line string) bool { return strings.Trim(line, " \t") == "*" }

// next takes the first entity tag off a list. ok is false at the end, which
// leaves list empty, and at what is no entity tag, which leaves it as it is.
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
