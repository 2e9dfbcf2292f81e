package broker

import (
	"testing"
	"time"
)

// HandshakeTimeouts returns the seconds within which agents and brokers must authenticate.
func HandshakeTimeouts(t *testing.T) (agents, brokers float64) {
	t.Helper()
	opts, err := Options{Listen: "127.0.0.1:0", ClusterListen: "127.0.0.1:0"}.server(nil)
	if err != nil {
		t.Fatal(err)
	}
	return opts.AuthTimeout, opts.Cluster.AuthTimeout
}

// ShortenHandshake shortens the handshake timeout of brokers that start during the test.
func ShortenHandshake(t *testing.T) {
	whole := handshake
	handshake = 50 * time.Millisecond
	t.Cleanup(func() { handshake = whole })
}
