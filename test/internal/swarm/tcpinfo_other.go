//go:build !linux

package swarm

import (
	"errors"
	"net"
)

func tcpInfo(*net.TCPConn) (Traffic, error) {
	return Traffic{}, errors.New("counting the traffic of a socket requires Linux")
}
