//go:build !linux

package swarm

import (
	"errors"
	"net"
)

func tcpInfo(*net.TCPConn) (Traffic, error) {
	return Traffic{}, errors.New("what goes over a socket is counted on Linux only")
}
