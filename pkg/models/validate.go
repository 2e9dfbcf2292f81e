package models

import (
	"bytes"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// FieldError is a fault of a field of a document, a query or a header.
type FieldError struct {
	Field  string `json:"field" example:"url"`
	Detail string `json:"detail" example:"must be absolute: begin with http:// or https://"`
}

// Invalid is the error of a document that breaks the contract. It holds every fault.
type Invalid struct {
	Errors []FieldError
}

func (e *Invalid) Error() string {
	faults := make([]string, len(e.Errors))
	for i, f := range e.Errors {
		faults[i] = strings.TrimSpace(f.Field + " " + f.Detail)
	}
	return strings.Join(faults, "; ")
}

// Bad returns the error of one field.
func Bad(field, format string, args ...any) *Invalid {
	return &Invalid{Errors: []FieldError{{Field: field, Detail: fmt.Sprintf(format, args...)}}}
}

// faults collects faults.
type faults []FieldError

func (c *faults) require(ok bool, field, format string, args ...any) {
	if !ok {
		*c = append(*c, FieldError{Field: field, Detail: fmt.Sprintf(format, args...)})
	}
}

func (c *faults) err() error {
	if len(*c) == 0 {
		return nil
	}
	return &Invalid{Errors: *c}
}

// Validate returns an *Invalid that names every bad field, or nil.
func (c Config) Validate() error {
	var f faults
	f.require(c.Version > 0, "version", "must be 1 or more, not %d", c.Version)
	f.url("data.url", c.Data.URL)
	f.pollInterval(c.PollIntervalSeconds)
	return f.err()
}

// Validate returns an *Invalid that names every bad field, or nil. It accepts a missing URL: the
// publish checks it against the current configuration.
func (r PublishRequest) Validate() error {
	var f faults
	if r.URL != nil {
		f.url("url", *r.URL)
	}
	if r.PollIntervalSeconds != nil {
		f.pollInterval(*r.PollIntervalSeconds)
	}
	if r.Message != nil {
		f.text("message", *r.Message, MaxMessageBytes)
	}
	return f.err()
}

// Validate returns an *Invalid that names every bad field, or nil.
func (r RegisterRequest) Validate() error {
	var f faults
	f.require(r.Hostname != "", "hostname", "is missing")
	f.text("hostname", r.Hostname, MaxHostnameBytes)
	if r.AgentID != "" {
		f.require(agentID.MatchString(r.AgentID), "agent_id",
			"must be 1 to %d letters, digits, dots, dashes or underscores", MaxAgentIDBytes)
	}
	f.require(r.AgentSecret == "" || agentSecret.MatchString(r.AgentSecret), "agent_secret",
		"must be %d to %d letters, digits or any of ._~+/=-", minSecretBytes, maxSecretBytes)
	f.require(len(r.Metadata) == 0 || r.Metadata.Kind() == '{', "metadata", "must be an object")
	f.require(len(r.Metadata) <= MaxMetadataBytes, "metadata", "is longer than %d bytes", MaxMetadataBytes)
	f.require(depth(r.Metadata) <= MaxMetadataDepth, "metadata", "is nested deeper than %d levels", MaxMetadataDepth)
	return f.err()
}

// depth returns the number of levels of objects and arrays in a JSON value.
func depth(value jsontext.Value) (deepest int) {
	d := jsontext.NewDecoder(bytes.NewReader(value))
	for {
		if _, err := d.ReadToken(); err != nil {
			return deepest
		}
		deepest = max(deepest, d.StackDepth())
	}
}

// Validate returns an *Invalid that names every bad field, or nil.
func (r Report) Validate() error {
	var f faults
	f.require(r.Version > 0, "version", "must be 1 or more, not %d", r.Version)
	switch r.Status {
	case Applying, Applied, Failed:
	default:
		f.require(false, "status", "must be APPLYING, APPLIED or FAILED")
	}
	f.require(len(r.Error) <= MaxErrorBytes, "error", "is longer than %d bytes", MaxErrorBytes)
	f.require(len(r.ETag) <= MaxETagBytes, "etag", "is longer than %d bytes", MaxETagBytes)
	return f.err()
}

// IsFleet reports whether id is a valid id of a fleet, which is part of a Redis channel and of a
// NATS subject.
func IsFleet(id string) bool {
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '_' {
			return false
		}
	}
	return id != "" && len(id) <= MaxFleetBytes
}

// Validate returns an *Invalid that names every bad field, or nil.
func (w WorkerConfig) Validate() error {
	var f faults
	f.url("url", w.URL)
	f.require(w.Version >= 0, "version", "must not be negative")
	return f.err()
}

// agentID matches the ids of agents, which are user-ids of Basic authentication (RFC 7617 §2: no
// colon) and segments of paths.
var agentID = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9][A-Za-z0-9._-]{0,%d}$`, MaxAgentIDBytes-1))

// agentSecret matches the secrets of agents, which must be too long to be guessed.
var agentSecret = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9._~+/=-]{%d,%d}$`, minSecretBytes, maxSecretBytes))

const minSecretBytes, maxSecretBytes = 22, 128 // 22 characters of Base64 are 128 bits

// PollInterval parses a poll interval in whole seconds.
func PollInterval(field, text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, Bad(field, "must be a whole number of seconds, such as 30")
	}
	var f faults
	f.interval(field, n)
	return n, f.err()
}

func (c *faults) pollInterval(seconds int) { c.interval("poll_interval_seconds", seconds) }

func (c *faults) interval(field string, seconds int) {
	low, high := int(MinPollInterval/time.Second), int(MaxPollInterval/time.Second)
	c.require(seconds >= low && seconds <= high, field, "must be %d to %d seconds", low, high)
}

func (c *faults) text(field, s string, limit int) {
	c.require(len(s) <= limit, field, "is longer than %d bytes", limit)
	c.require(!strings.ContainsFunc(s, unicode.IsControl), field, "holds a control character")
}

// Text returns an error that names the field unless s is at most limit bytes long and has no
// control character.
func Text(field, s string, limit int) error {
	var f faults
	f.text(field, s, limit)
	return f.err()
}

// url validates a target as strictly as every part of the system needs: what passes here is
// fetched as written.
func (c *faults) url(field, s string) {
	if detail := urlFault(s); detail != "" {
		*c = append(*c, FieldError{Field: field, Detail: detail})
	}
}

// hostname matches DNS names in ASCII (RFC 1035 §2.3.1), with underscores and a root dot.
var hostname = regexp.MustCompile(`^(?:` + dnsLabel + `\.)*` + dnsLabel + `\.?$`)

const dnsLabel = `[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?`

// numeric matches names whose last label is a number. Some resolvers parse them as IPv4
// addresses, so they would mean different hosts on different machines.
var numeric = regexp.MustCompile(`(?i)(?:^|\.)(?:\d+|0x[0-9a-f]*)\.?$`)

func urlFault(s string) string {
	switch {
	case s == "":
		return "is missing: say which URL the workers fetch, such as https://example.com/"
	case len(s) > MaxURLBytes:
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), MaxURLBytes)
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return "holds a space or a control character; write a space as %20"
	case strings.ContainsAny(s, "\"<>\\^`{|}"): // RFC 3986 §2: no part of a URI may hold them
		return "holds one of \"<>\\^`{|}, which must be percent-encoded"
	}
	u, err := url.Parse(s)
	if err != nil {
		return "is not a URL: it cannot be parsed"
	}
	switch {
	case u.Scheme == "":
		return "must be absolute: begin with http:// or https://"
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Sprintf("has the scheme %q; only http and https are fetched", u.Scheme)
	case u.User != nil:
		return "must not hold a user name or password"
	case strings.Contains(s, "#"):
		return "must not hold a fragment (#…): it is never sent to a server"
	case u.Opaque != "" || u.Hostname() == "":
		return "has no host"
	}
	if detail := hostFault(u); detail != "" {
		return detail
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "holds characters outside ASCII; percent-encode them"
	}
	return ""
}

func hostFault(u *url.URL) string {
	host := u.Hostname()
	if strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "has a host outside ASCII; write it in Punycode (xn--…)"
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "has an address with a zone, which means something on one machine only"
		}
	} else if !hostname.MatchString(host) || len(host) > MaxHostnameBytes || numeric.MatchString(host) {
		return fmt.Sprintf("has a host that is no DNS name or address: %q", host)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "has a port that is not 1 to 65535"
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return "ends its host with a colon but names no port"
	}
	return ""
}

// Trim returns text of another process fit for a report and a log line: valid UTF-8, one line,
// at most MaxErrorBytes.
func Trim(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	text = strings.TrimSpace(text)
	if len(text) <= MaxErrorBytes {
		return text
	}
	end := MaxErrorBytes - len("…")
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// HeaderText returns text fit for a header: one line of printable ASCII, at most MaxHeaderText
// bytes. Other characters become question marks.
func HeaderText(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	if len(text) > MaxHeaderText {
		text = text[:MaxHeaderText-len("...")] + "..."
	}
	return text
}
