package swarm

import (
	"errors"
	"net"
	"slices"
	"sync"
)

// Traffic is the traffic of sockets in both directions, as the kernel counts it at this
// end, with keepalive probes, empty acknowledgements and retransmissions.
type Traffic struct {
	Sockets  int64 // that were opened
	Segments int64 // packets
	Payload  int64 // bytes
}

// Bytes of headers.
const (
	segmentBytes = 20 + 20 + 12 // IPv4, TCP, the timestamps option (RFC 7323)
	synBytes     = 8            // the additional length of SYN and SYN-ACK
	// closingSegments follow the last reading of a socket: FIN and ACK from both
	// sides.
	closingSegments = 4
)

// Bytes returns the traffic in bytes of IP packets.
func (t Traffic) Bytes() int64 {
	return t.Payload + t.Segments*segmentBytes + t.Sockets*2*synBytes
}

// Plus returns the sum.
func (t Traffic) Plus(u Traffic) Traffic {
	return Traffic{t.Sockets + u.Sockets, t.Segments + u.Segments, t.Payload + u.Payload}
}

// Minus returns the difference to an earlier u.
func (t Traffic) Minus(u Traffic) Traffic {
	return Traffic{t.Sockets - u.Sockets, t.Segments - u.Segments, t.Payload - u.Payload}
}

// meter measures the sockets of one agent, open and closed.
type meter struct {
	mu     sync.Mutex // guards what follows
	ended  bool
	open   []*net.TCPConn
	closed Traffic
	broken error // why it could not measure
}

func (m *meter) add(c *net.TCPConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open = append(m.open, c)
	if m.ended {
		_ = c.Close()
	}
}

// remove measures a socket a last time and closes it.
func (m *meter) remove(c *net.TCPConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.Index(m.open, c)
	if i < 0 {
		return
	}
	m.open = slices.Delete(m.open, i, i+1)
	if !m.ended {
		t, err := tcpInfo(c)
		t.Segments += closingSegments
		m.closed = m.closed.Plus(t)
		m.broken = errors.Join(m.broken, err)
	}
	_ = c.Close()
}

// end closes all sockets, also those that are added later.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	for _, c := range m.open {
		_ = c.Close()
	}
}

func (m *meter) read() (Traffic, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, broken := m.closed, m.broken
	for _, c := range m.open {
		now, err := tcpInfo(c)
		if err != nil {
			broken = errors.Join(broken, err)
		}
		t = t.Plus(now)
	}
	return t, broken
}
