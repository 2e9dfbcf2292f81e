// Package freeport finds ports that no program listens on, and that the kernel does not
// use for outgoing connections. So a restarted program or proxy finds its port free.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
)

// lowest is above the ports that well-known services use.
const lowest = 10_000

// Address returns a free host:port on loopback. It fails if the kernel uses ports from
// 10,000 on for outgoing connections, or if 100 random ports are in use.
func Address() (string, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return "", fmt.Errorf("read the range of local ports: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\t")
	given, err := strconv.Atoi(first)
	if err != nil || given <= lowest {
		return "", fmt.Errorf(
			"ports from %s on are given to connections: raise net.ipv4.ip_local_port_range to begin at 32768", first)
	}
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.IntN(given-lowest)))
		listener, listenErr := net.Listen("tcp", address)
		if listenErr == nil {
			return address, listener.Close()
		}
		err = listenErr
	}
	return "", fmt.Errorf("find a free port: %w", err)
}
