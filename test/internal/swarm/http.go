package swarm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// contentHash is the length of a content hash, in an ETag and alone.
const contentHash = 22

// pollRequest writes a poll, header by header as a real agent does.
func (a *agent) pollRequest(wait time.Duration) []byte {
	b := append(a.scratch[:0], "GET /api/v1/config"...)
	if a.swarm.options.Transport == LongPoll {
		b = append(b, "?wait="...)
		b = strconv.AppendInt(b, int64(wait/time.Second), 10)
		b = append(b, 's')
	}
	b = append(b, " HTTP/1.1\r\n"...)
	b = a.appendHeaders(b)
	if len(a.etag) > 0 {
		b = append(b, "If-None-Match: "...)
		b = append(b, a.etag...)
		b = append(b, "\r\n"...)
	}
	if a.swarm.options.Transport.Brokered() {
		b = append(b, "X-Transport: "...)
		b = append(b, a.swarm.options.Transport...)
		b = append(b, "\r\n"...)
	}
	version, hashes, _ := bytes.Cut(bytes.Trim(a.etag, `"`), []byte("-")) // of the content, and a keyed one
	if len(hashes) > contentHash {
		b = append(b, "X-Applied-Version: "...)
		b = append(b, version...)
		b = append(b, "\r\nX-Applied-Content: "...)
		b = append(b, hashes[:contentHash]...)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	a.scratch = b
	return b
}

// reportRequest writes the report that the current version was applied.
func (a *agent) reportRequest() []byte {
	body := append(make([]byte, 0, 128), `{"version":`...)
	body = strconv.AppendInt(body, a.applied.Load(), 10)
	body = append(body, `,"status":"APPLIED","etag":`...)
	body = strconv.AppendQuote(body, string(a.etag))
	body = append(body, '}')

	b := append(a.scratch[:0], "POST /api/v1/agents/"...)
	b = append(b, a.id...)
	b = append(b, "/status HTTP/1.1\r\n"...)
	b = a.appendHeaders(b)
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\nContent-Type: application/json\r\n\r\n"...)
	b = append(b, body...)
	a.scratch = b
	return b
}

func (a *agent) appendHeaders(b []byte) []byte {
	b = append(b, "Host: "...)
	b = append(b, a.swarm.options.Controller...)
	b = append(b, "\r\nUser-Agent: fleetconf-agent\r\nAccept: application/json, application/problem+json\r\n"...)
	b = append(b, "Accept-Encoding: identity\r\nX-Request-Id: simulated-000\r\nAuthorization: "...)
	b = append(b, a.auth...)
	return append(b, "\r\n"...)
}

// answer is a response, as far as an agent reads it.
type answer struct {
	status                   int
	etag                     []byte
	poll, resync, retryAfter time.Duration // from the headers; 0 if missing
	spread                   time.Duration // the delay of a report
	canWait                  bool          // the controller supports waits
	closes                   bool
	body                     []byte
}

func (a answer) asRefusal() error {
	return &refusal{status: a.status, retryAfter: min(a.retryAfter, maxRetryAfter), body: string(a.body)}
}

// maxBody is far above the size of a response to an agent.
const maxBody = 64 << 10

// readAnswer reads a response to GET or POST (RFC 9112) with a Content-Length, which a
// Go server sends with small bodies.
func readAnswer(r *bufio.Reader) (a answer, err error) {
	line, err := readLine(r)
	if err != nil {
		return a, err
	}
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return a, fmt.Errorf("not a status line of HTTP/1.1: %.100q", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, fmt.Errorf("no status: %.100q", line)
	}
	length := 0
	for {
		line, err := readLine(r)
		if err != nil {
			return a, noEOF(err)
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch string(name) { // as net/http writes them
		case "Content-Length":
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > maxBody {
				return a, fmt.Errorf("a response with an invalid length: %.100q", line)
			}
		case "Etag", "ETag":
			a.etag = bytes.Clone(value)
		case "X-Poll-Interval-Seconds":
			a.poll = seconds(value)
		case "X-Sweep-Interval-Seconds":
			a.resync = seconds(value)
		case "X-Spread-Milliseconds":
			a.spread = min(seconds(value)/1000, time.Second)
		case "X-Wait-Seconds":
			a.canWait = true
		case "Retry-After":
			a.retryAfter = seconds(value)
		case "Connection":
			a.closes = bytes.EqualFold(value, []byte("close"))
		case "Transfer-Encoding", "Content-Encoding":
			return a, fmt.Errorf("a response in an unsupported encoding: %.100q", line)
		}
	}
	if length > 0 && a.status != 204 && a.status != 304 {
		a.body = make([]byte, length)
		if _, err := io.ReadFull(r, a.body); err != nil {
			return a, noEOF(err)
		}
	}
	return a, nil
}

// noEOF returns the error of a response that ended too early.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readLine reads a line, without its end. The result is valid until the next read. Of a
// line longer than the buffer it returns the beginning.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
	}
	return bytes.TrimRight(line, "\r\n"), err
}

func seconds(value []byte) time.Duration {
	n, err := strconv.ParseUint(string(value), 10, 32)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// number returns a numeric member of a JSON object. The documents are the controller's:
// small, and without that name in nested objects or strings.
func number(document []byte, name string) (int64, bool) {
	_, rest, found := bytes.Cut(document, []byte(`"`+name+`":`))
	if !found {
		return 0, false
	}
	rest = bytes.TrimLeft(rest, " ")
	digits := 0
	for digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9' {
		digits++
	}
	n, err := strconv.ParseInt(string(rest[:digits]), 10, 64)
	return n, err == nil
}
