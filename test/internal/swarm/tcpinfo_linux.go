package swarm

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// tcpInfo returns the kernel's counters of an open socket, from its SYN on.
func tcpInfo(c *net.TCPConn) (Traffic, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Traffic{}, err
	}
	var (
		info *unix.TCPInfo
		bad  error
	)
	if err := raw.Control(func(fd uintptr) {
		info,
			bad = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil {
		return Traffic{}, err
	}
	switch {
	case bad != nil:
		return Traffic{}, fmt.Errorf("read TCP_INFO: %w", bad)
	case info.Segs_out == 0 || info.Bytes_sent == 0 && info.Bytes_acked > 1:
		return Traffic{},
			fmt.Errorf("counting the traffic of a socket requires Linux 4.19 or newer")
	}
	return Traffic{Sockets: 1, Segments: int64(info.Segs_in) + int64(info.Segs_out),
		Payload: int64(info.Bytes_sent) + int64(info.Bytes_received)}, nil
}
