// Package freeport finds ports of this machine that no program listens on, and that the
// kernel gives to no connection either: a program that is started again, or a proxy that
// is closed for a while, finds its port as free as it left it.
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

// Address returns a free host:port on loopback. It fails where the kernel gives
// connections ports from 10,000 on, and where 100 random ports are taken.
func Address() (string, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return "", fmt.Errorf("learn which ports are free: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\t")
	given, err := strconv.Atoi(first)
	if err != nil || given <= lowest {
		return "", fmt.Errorf("ports from %s on are given to connections: raise net.ipv4.ip_local_port_range to begin at 32768", first)
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
