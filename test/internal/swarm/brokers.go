package swarm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// subject is where hints are broadcast.
const subject = "fleetconf.config"

// maxHint is far above the size of a hint.
const maxHint = 64 << 10

// redisConn speaks RESP2, as a client that subscribes.
type redisConn struct{ *connection }

func (r *redisConn) open() error {
	if _, err := r.Write([]byte("*2\r\n$9\r\nSUBSCRIBE\r\n$16\r\n" + subject + "\r\n")); err != nil {
		return err
	}
	kind, _, err := r.array()
	if err == nil && string(kind) != "subscribe" {
		err = fmt.Errorf("no subscription, but %q", kind)
	}
	return err
}

func (r *redisConn) next() ([]byte, error) {
	kind, last, err := r.array()
	if err != nil || string(kind) != "message" {
		return nil, err
	}
	return last, nil
}

func (r *redisConn) ping() error {
	_, err := r.Write([]byte("*1\r\n$4\r\nPING\r\n"))
	return err
}

// array reads an array, and returns its first and its last element.
func (r *redisConn) array() (first, last []byte, err error) {
	n, err := r.prefixed('*')
	if err != nil {
		return nil, nil, err
	}
	for i := range n {
		if last, err = r.element(); err != nil {
			return nil, nil, err
		}
		if i == 0 {
			first = last
		}
	}
	return first, last, nil
}

// element reads a bulk string, or passes over a number.
func (r *redisConn) element() ([]byte, error) {
	if b, err := r.in.Peek(1); err != nil || b[0] == ':' {
		_, err = readLine(r.in)
		return nil, err
	}
	n, err := r.prefixed('$')
	if err != nil {
		return nil, err
	}
	return readBlock(r.connection, n)
}

// prefixed reads a line that is a sign and a number.
func (r *redisConn) prefixed(sign byte) (int, error) {
	line, err := readLine(r.in)
	if err != nil {
		return 0, err
	}
	if len(line) == 0 || line[0] != sign {
		return 0, fmt.Errorf("redis: want %c, got %.100q", sign, line)
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n < 0 || n > maxHint {
		return 0, fmt.Errorf("redis: no length: %.100q", line)
	}
	return n, nil
}

// natsConn speaks the client protocol of NATS.
type natsConn struct{ *connection }

func (n *natsConn) open() error {
	line, err := readLine(n.in)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("INFO ")) {
		return fmt.Errorf("nats: want INFO, got %.100q", line)
	}
	_, err = n.Write([]byte(`CONNECT {"verbose":false,"pedantic":false,"tls_required":false,` +
		`"name":"fleetconf-agent","lang":"go","version":"1.0.0","protocol":1,"echo":true,"headers":true,` +
		`"no_responders":true}` + "\r\nSUB " + subject + " 1\r\nPING\r\n"))
	for err == nil { // skip what the server sends before its response
		if line, err = readLine(n.in); bytes.HasPrefix(line, []byte("PONG")) {
			return err
		}
		if bytes.HasPrefix(line, []byte("-ERR")) {
			return fmt.Errorf("nats: %.100q", line)
		}
	}
	return err
}

func (n *natsConn) next() ([]byte, error) {
	line, err := readLine(n.in)
	if err != nil {
		return nil, err
	}
	verb, rest, _ := bytes.Cut(line, []byte(" "))
	switch string(verb) {
	case "MSG": // subject sid [reply-to] length
		length, err := strconv.Atoi(string(rest[bytes.LastIndexByte(rest, ' ')+1:]))
		if err != nil || length < 0 || length > maxHint {
			return nil, fmt.Errorf("nats: no length: %.100q", line)
		}
		return readBlock(n.connection, length)
	case "PING":
		_, err := n.Write([]byte("PONG\r\n"))
		return nil, err
	case "PONG", "+OK", "INFO":
		return nil, nil
	}
	return nil, fmt.Errorf("nats: %.100q", line)
}

func (n *natsConn) ping() error {
	_, err := n.Write([]byte("PING\r\n"))
	return err
}

// readBlock reads so many bytes and the end of the line behind them.
func readBlock(c *connection, length int) ([]byte, error) {
	block := make([]byte, length+2)
	if _, err := io.ReadFull(c.in, block); err != nil {
		return nil, err
	}
	if string(block[length:]) != "\r\n" {
		return nil, errors.New("a block is not as long as it said")
	}
	return block[:length], nil
}
