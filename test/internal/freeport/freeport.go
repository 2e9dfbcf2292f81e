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
	"sync"
)

// lowest is above the ports that well-known services use.
const lowest = 10_000

// given are the addresses that this process has got. A test that restarts a program
// must find its port free, so no address is given twice.
var given sync.Map

// Address returns a free host:port on loopback, and never the same one twice. It fails if the kernel uses ports from
// 10,000 on for outgoing connections, or if 100 random ports are in use.
func Address() (string, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return "", fmt.Errorf("read the range of local ports: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\t")
	end, err := strconv.Atoi(first)
	if err != nil || end <= lowest {
		return "", fmt.Errorf(
			"ports from %s on are given to connections: raise net.ipv4.ip_local_port_range to begin at 32768", first)
	}
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.IntN(end-lowest)))
		if _, again := given.LoadOrStore(address, true); again {
			err = fmt.Errorf("%s was given before", address)
			continue
		}
		listener, listenErr := net.Listen("tcp", address)
		if listenErr == nil {
			return address, listener.Close()
		}
		err = listenErr
	}
	return "", fmt.Errorf("find a free port: %w", err)
}
