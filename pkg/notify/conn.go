package notify

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

const (
	// maxMessage is the longest message or reply of a broker.
	maxMessage = 1 << 20
	// maxLine is the longest line of a broker's protocol. NATS servers list their cluster in
	// one.
	maxLine = 64 << 10
	// dialTimeout bounds one attempt to connect.
	dialTimeout = 5 * time.Second
)

// ErrTooLarge is the error of a broker that sends or announces more than maxMessage.
var ErrTooLarge = errors.New("the broker sends too much")

// Conn is a connection to an untrusted broker. The clients of brokers (go-redis 9.23, nats.go
// 1.55) allocate what a length or a line asks for, without a limit, so Conn checks both before
// a client reads them. The violations in the drivers' tests show it. Conn does not limit the
// total that a broker sends: the driver limits what is received and not yet processed.
type Conn struct {
	net.Conn

	// Owned by the goroutine that reads.
	length  Length
	line    []byte // the incomplete line
	payload int64  // remaining bytes of a payload
	closing bool   // the end of a payload is expected

	encrypted atomic.Bool // the client has begun TLS
}

// Length parses a line of a broker's protocol, without its end. follow reports whether a
// payload follows, and n is its length, less than 0 if it is not acceptable. A payload ends as
// a line does.
type Length func(line []byte) (n int64, follow bool)

// Guard returns a Conn over conn.
func Guard(conn net.Conn, length Length) *Conn { return &Conn{Conn: conn, length: length} }

func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.encrypted.Load() && !c.validate(p[:n]) {
		return 0, ErrTooLarge
	}
	return n, err
}

// validate parses what was read into lines and payloads. It is strict, so that the client
// cannot parse them differently.
func (c *Conn) validate(read []byte) bool {
	for len(read) > 0 {
		if skip := min(c.payload, int64(len(read))); skip > 0 {
			c.payload, read = c.payload-skip, read[skip:]
			continue
		}
		end := bytes.IndexByte(read, '\n')
		if end < 0 {
			c.line = append(c.line, read...)
			return len(c.line) <= maxLine
		}
		c.line = append(c.line, read[:end]...)
		line, ended := bytes.CutSuffix(c.line, []byte("\r"))
		if !ended || bytes.IndexByte(line, '\r') >= 0 || !c.follow(line) {
			return false
		}
		c.line, read = c.line[:0], read[end+1:]
	}
	return true
}

// follow validates one line.
func (c *Conn) follow(line []byte) bool {
	if c.closing {
		c.closing = false
		return len(line) == 0
	}
	c.payload, c.closing = c.length(line)
	return c.payload >= 0 && c.payload <= maxMessage
}

// tlsHandshake is the type of the first record of TLS (RFC 8446 §5.1). No command of a broker's
// protocol begins with it.
const tlsHandshake = 0x16

// Write detects a client that starts TLS on this connection. What follows is encrypted, and
// from a server whose certificate the client verifies.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) > 0 && p[0] == tlsHandshake {
		c.encrypted.Store(true)
	}
	return c.Conn.Write(p)
}

// Dial connects to a broker, without TCP keep-alive probes: subscriptions have their own pings.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	return dialer.DialContext(ctx, network, address)
}

// Decimal parses a length. It returns less than 0 for an invalid or too large one.
func Decimal(digits []byte) int64 {
	if len(digits) == 0 || len(digits) > 9 {
		return -1
	}
	var n int64
	for _, d := range digits {
		if d < '0' || d > '9' {
			return -1
		}
		n = n*10 + int64(d-'0')
	}
	return n
}
