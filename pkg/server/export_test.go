package server

import (
	"context"
	"net"
	"net/http"

	"github.com/sirupsen/logrus"
)

// MaxConnectionsOf is MaxConnections of a process that may open that many files.
var MaxConnectionsOf = maxConnections

// Requests returns a function that does what a server does for a request on a
// connection that is open.
func Requests(conn net.Conn, r *http.Request) func() {
	t := newTable(1, true, logrus.New())
	r = r.WithContext(t.admit(context.Background(), conn))
	return func() {
		t.changed(conn, http.StateActive)
		Authenticated(r)
		t.changed(conn, http.StateIdle)
	}
}
