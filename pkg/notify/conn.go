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
	// maxMessage is the longest message, or reply, that a broker may announce.
	maxMessage = 1 << 20
	// maxLine is the longest line of a broker's protocol: that in which a NATS
	// server lists its cluster.
	maxLine = 64 << 10
	// dialTimeout bounds one attempt to connect.
	dialTimeout = 5 * time.Second
)

// ErrTooLarge is the error of a broker that sends, or says that it will send,
// more than any hint is long.
var ErrTooLarge = errors.New("the broker sends too much")

// Conn is a connection to a broker that may lie. The clients of brokers
// allocate what a length or a line asks for, without a limit, so Conn checks both
// before a client reads them. It does not limit how much a broker sends in total:
// what a client has received and not yet processed is bounded by the driver.
type Conn struct {
	net.Conn

	// The rest belongs to the one goroutine that reads.
	length  Length
	line    []byte // that has not ended yet
	payload int64  // bytes to come that are no lines
	closing bool   // a payload is to end

	encrypted atomic.Bool // the client has begun TLS
}

// Length reads a line of a broker's protocol, without its end, and says whether
// bytes follow that are no lines, and how many; less than 0 for more than there
// should be. They end as a line does.
type Length func(line []byte) (n int64, follow bool)

// Guard wraps a connection.
func Guard(conn net.Conn, length Length) *Conn { return &Conn{Conn: conn, length: length} }

func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.encrypted.Load() && !c.validate(p[:n]) {
		return 0, ErrTooLarge
	}
	return n, err
}

// validate follows the lines of what was read. It is strict, so that a client
// cannot take for a line what was judged as something else.
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

// follow judges one line.
func (c *Conn) follow(line []byte) bool {
	if c.closing {
		c.closing = false
		return len(line) == 0
	}
	c.payload, c.closing = c.length(line)
	return c.payload >= 0 && c.payload <= maxMessage
}

// tlsHandshake is the type of the record with which a client begins TLS (RFC
// 8446 §5.1). No command of a broker's protocol begins with it.
const tlsHandshake = 0x16

// Write notes where a client begins TLS on a connection that it was given: what
// comes then is from a server whose certificate was verified, and unreadable here.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) > 0 && p[0] == tlsHandshake {
		c.encrypted.Store(true)
	}
	return c.Conn.Write(p)
}

// Dial connects to a broker. TCP sends nothing of its own while nothing is
// said: whoever listens pings seldom enough.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	return dialer.DialContext(ctx, network, address)
}

// Decimal reads a length. It is less than 0 for what is none, or too large.
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
