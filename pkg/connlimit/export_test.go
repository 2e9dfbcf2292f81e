package connlimit

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"
)

// MaxOf is Max of a process that may open that many files.
var MaxOf = maxOf

// Requests returns a function that does what a server does for a request on an open
// connection.
func Requests(conn net.Conn, r *http.Request) func() {
	t := New(Options{Limit: 1, Authenticates: true, IdleTimeout: time.Minute}, logrus.New())
	r = r.WithContext(t.ConnContext(context.Background(), conn))
	return func() {
		t.ConnState(conn, http.StateActive)
		Authenticated(r)
		t.ConnState(conn, http.StateIdle)
	}
}
