package registry

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
)

// hostnameBytes is how much of a hostname stands in the row itself. Most of
// them, and nearly all prefixes, are no longer: to look there is a matter of
// the row, not of another place in memory for each of a million.
const hostnameBytes = 24

// hostnameHead is the beginning of a hostname in lower case, with zeros behind
// it. Its words may be of two neighbouring moments.
type hostnameHead [hostnameBytes / 8]atomic.Uint64

func (h *hostnameHead) store(hostname string) {
	for i, word := range words(lower(hostname)) {
		h[i].Store(word)
	}
}

// hostPattern is a hostname that is looked for, or what one begins with.
type hostPattern struct {
	text       string // in lower case
	isPrefix   bool
	head, mask [hostnameBytes / 8]uint64
}

// newHostPattern reads a pattern: a * at its end stands for anything.
func newHostPattern(pattern string) *hostPattern {
	text, isPrefix := strings.CutSuffix(lower(pattern), "*")
	p := &hostPattern{text: text, isPrefix: isPrefix, head: words(text), mask: words(strings.Repeat("\xff", hostnameBytes))}
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

// lower is the lower case of ASCII, all that the DNS knows of it (RFC 4343 §3).
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
