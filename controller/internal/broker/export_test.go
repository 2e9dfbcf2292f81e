package broker

import (
	"testing"
	"time"
)

// HandshakeTimeouts returns how many seconds agents and other brokers have to log in.
func HandshakeTimeouts(t *testing.T) (agents, brokers float64) {
	t.Helper()
	opts, err := Options{Listen: "127.0.0.1:0", ClusterListen: "127.0.0.1:0"}.server(nil)
	if err != nil {
		t.Fatal(err)
	}
	return opts.AuthTimeout, opts.Cluster.AuthTimeout
}

// ShortenHandshake makes brokers that start until the test ends wait less for a login.
func ShortenHandshake(t *testing.T) {
	whole := handshake
	handshake = 50 * time.Millisecond
	t.Cleanup(func() { handshake = whole })
}
