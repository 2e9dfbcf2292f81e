package proxy

import (
	"net/http"
	"net/url"
	"strings"
)

// encode percent-encodes the characters of u that RFC 3986 §3.3 and §3.4 do not allow in a
// path or a query, and returns u. net/url accepts such a URL, and net/http sends its query
// unchanged, with spaces.
func encode(u *url.URL) *url.URL {
	if path := u.EscapedPath(); !legal(path) {
		u.RawPath = percentEncode(path)
	}
	if !legal(u.RawQuery) {
		u.RawQuery = percentEncode(u.RawQuery)
	}
	return u
}

func legal(s string) bool {
	for i := range len(s) {
		if !legalAt(s, i) {
			return false
		}
	}
	return true
}

// legalAt reports whether the byte s[i] is allowed in a path or a query: a pchar, a slash, or
// a question mark, which in a path is encoded already.
func legalAt(s string, i int) bool {
	switch c := s[i]; {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	case c == '%':
		return i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2])
	default:
		return strings.IndexByte("-._~!$&'()*+,;=:@/?", c) >= 0
	}
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; legalAt(s, i) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// lenient is a transport that removes whitespace between a field name and its colon, as RFC
// 9112 §5.1 requires of a proxy. net/http keeps it in the name, and would drop the field when
// it writes the response.
type lenient struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t lenient) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	for name, values := range res.Header {
		if !strings.HasSuffix(name, " ") {
			continue
		}
		delete(res.Header, name)
		name = http.CanonicalHeaderKey(strings.TrimRight(name, " "))
		if name == "Content-Length" || name == "Transfer-Encoding" { // they did not delimit the body
			continue
		}
		res.Header[name] = append(res.Header[name], values...)
	}
	return res, nil
}
