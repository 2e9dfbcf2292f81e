package census

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
)

// hostnameBytes is the length of the prefix of a hostname that a row has itself. Most
// hostnames, and nearly all searched prefixes, are no longer, so that a search reads the
// rows only.
const hostnameBytes = 24

// hostnameHead is the prefix of a hostname in lower case, padded with zeros. A concurrent
// store may be visible in some of its words only.
type hostnameHead [hostnameBytes / 8]atomic.Uint64

func (h *hostnameHead) store(hostname string) {
	for i, word := range words(lower(hostname)) {
		h[i].Store(word)
	}
}

// hostPattern matches a hostname, or a prefix of hostnames.
type hostPattern struct {
	text       string // in lower case
	isPrefix   bool
	head, mask [hostnameBytes / 8]uint64
}

// newHostPattern parses a pattern. A * at its end makes it a prefix.
func newHostPattern(pattern string) *hostPattern {
	text, isPrefix := strings.CutSuffix(lower(pattern), "*")
	p := &hostPattern{
		text: text, isPrefix: isPrefix, head: words(text), mask: words(strings.Repeat("\xff", hostnameBytes)),
	}
	if isPrefix {
		p.mask = words(strings.Repeat("\xff", min(len(text), hostnameBytes)))
	}
	return p
}

func (p *hostPattern) matches(r *row) bool {
	for i := range p.head {
		if r.head[i].Load()&p.mask[i] != p.head[i] {
			return false
		}
	}
	hostname := lower(*r.hostname.Load())
	return hostname == p.text || p.isPrefix && strings.HasPrefix(hostname, p.text)
}

func words(text string) (w [hostnameBytes / 8]uint64) {
	var b [hostnameBytes]byte
	copy(b[:], text)
	for i := range w {
		w[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return w
}

// lower returns s with ASCII letters in lower case: the DNS ignores the case of no others
// (RFC 4343 §3).
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
