package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/pkg/connlimit"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// within serves until the test ends, as start does.
func within(t *testing.T, ln net.Listener, handler http.Handler, limits server.Limits, log logrus.FieldLogger) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeWithin(ctx, ln, handler, limits, log) })
	t.Cleanup(func() { cancel(); serving.Wait() })
}

// callers knows those who name themselves, and holds the requests to /hold until
// their callers disconnect.
var callers = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		connlimit.Authenticated(r)
	}
	if r.URL.Path == "/hold" {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		<-r.Context().Done()
	}
	_, _ = io.WriteString(w, "ok")
})

const (
	anonymous = "Host: a\r\n\r\n"
	asAgent   = "Host: a\r\nAuthorization: Basic x\r\n\r\n"
)

// peer is a client with one connection.
type peer struct {
	net.Conn
	answers *bufio.Reader
}

func (p *pipes) peer() *peer {
	conn := p.dial()
	return &peer{conn, bufio.NewReader(conn)}
}

// ask sends a request and returns the status of its answer, or what went wrong.
func (p *peer) ask(path, header string) string {
	if _, err := io.WriteString(p, "GET "+path+" HTTP/1.1\r\n"+header); err != nil {
		return err.Error()
	}
	resp, err := http.ReadResponse(p.answers, nil)
	if err != nil {
		return err.Error()
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return fmt.Sprint(resp.StatusCode, err)
}

// hold sends a request that is not answered.
func (p *peer) hold(header string) {
	_, _ = io.WriteString(p, "GET /hold HTTP/1.1\r\n"+header)
	synctest.Wait()
}

// closed reports whether the server closed the connection.
func (p *peer) closed() bool {
	_ = p.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := p.answers.Peek(1)
	_ = p.SetReadDeadline(time.Time{})
	return err != nil && !strings.Contains(err.Error(), "timeout")
}

const answered = "200 <nil>"

func TestServeWithin_IdleConnection_EndsSoonerIfNeverAuthenticated(t *testing.T) {
	limits := server.Limits{Connections: 10, Keep: 8 * time.Minute}
	for name, row := range map[string]struct {
		header string
		want   time.Duration
	}{
		"never authenticated": {anonymous, time.Minute},
		"authenticated":       {asAgent, 8 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipes()
				within(t, ln, callers, limits, quiet())
				time.Sleep(17 * time.Second)
				conn := ln.peer()
				defer conn.Close()
				if got := conn.ask("/", row.header); got != answered {
					t.Fatalf("got %s", got)
				}
				time.Sleep(row.want / 2)
				if got := conn.ask("/", anonymous); got != answered {
					t.Fatalf("the second request: got %s", got)
				}
				began := time.Now()
				_, _ = conn.answers.Peek(1)
				if took := time.Since(began); took != row.want {
					t.Errorf("closed after %s, want %s", took, row.want)
				}
			})
		})
	}
}

func TestServeWithin_LongPoll_OutlivesIdleTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		within(t, ln, callers, server.Limits{Connections: 10, Keep: 8 * time.Minute}, quiet())
		conn := ln.peer()
		defer conn.Close()
		conn.hold(asAgent)
		time.Sleep(time.Hour)
		if conn.closed() {
			t.Error("the connection was closed, want it kept while its request is answered")
		}
	})
}

func TestServeWithin_Full_ClosesTheOldestIdleFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, lines := logtest.NewNullLogger()
		ln := newPipes()
		within(t, ln, callers, server.Limits{Connections: 4, Keep: 8 * time.Minute}, log)
		held, known, first, silent := ln.peer(), ln.peer(), ln.peer(), ln.peer()
		held.hold(asAgent)
		for _, c := range []struct {
			*peer
			header string
		}{{known, asAgent}, {first, anonymous}} {
			if got := c.ask("/", c.header); got != answered {
				t.Fatalf("got %s", got)
			}
			time.Sleep(time.Millisecond)
		}
		// silent sent nothing since before first was answered, and known is an agent's.
		for i, want := range []*peer{silent, first} {
			next := ln.peer()
			defer next.Close()
			if got := next.ask("/", asAgent); got != answered {
				t.Errorf("new connection %d: got %s", i, got)
			}
			if !want.closed() {
				t.Errorf("new connection %d took the place of another than the oldest", i)
			}
		}
		next := ln.peer()
		defer next.Close()
		if got := next.ask("/", anonymous); got != answered || !known.closed() || held.closed() {
			t.Errorf("among agents only: got %s; closed the idle one: %v, the held one: %v", got, known.closed(),
				held.closed())
		}
		if got := len(lines.AllEntries()); got != 2 || lines.LastEntry().Message != "Connection limit reached" {
			t.Errorf("got %d lines, the last %v, want one warning of the limit", got, lines.LastEntry())
		}
		held.Close()
	})
}

// local makes the connections of a listener come from this machine.
type local struct {
	*pipes
	is bool
}

type localConn struct{ net.Conn }

func (localConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (l *local) Accept() (net.Conn, error) {
	conn, err := l.pipes.Accept()
	if err == nil && l.is {
		conn = localConn{conn}
	}
	return conn, err
}

func TestServeWithin_FullOfLongPolls_AnswersLocalhost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &local{pipes: newPipes()}
		within(t, ln, callers, server.Limits{Connections: 3, Keep: 8 * time.Minute}, quiet())
		for range 3 {
			held := ln.peer()
			defer held.Close()
			held.hold(asAgent)
		}
		stranger := ln.peer()
		defer stranger.Close()
		if got := stranger.ask("/", asAgent); got == answered {
			t.Error("a connection from elsewhere was answered beyond the limit")
		}
		ln.is = true
		var kept []*peer
		for range 20 { // also where others from this machine keep theirs
			time.Sleep(time.Second / 8) // of 8 slots
			probe := ln.peer()
			defer probe.Close()
			if got := probe.ask("/", anonymous); got != answered {
				t.Errorf("a probe from this machine: got %s", got)
			}
			kept = append(kept, probe)
		}
		open := 0
		for _, probe := range kept {
			if !probe.closed() {
				open++
			}
		}
		if open != 8 {
			t.Errorf("%d connections are open beyond the limit, want 8", open)
		}
		time.Sleep(6 * time.Second)
		for i, probe := range kept {
			if !probe.closed() {
				t.Errorf("the connection of probe %d, beyond the limit, is open after 6 s", i)
			}
		}
	})
}

// A proxy on this machine opens many connections: none of them closes one that has had
// no time for an answer.
func TestServeWithin_FullLocalSlots_KeepsNewConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &local{pipes: newPipes(), is: true}
		within(t, ln, callers, server.Limits{Connections: 1, Keep: 8 * time.Minute}, quiet())
		held := ln.peer()
		defer held.Close()
		held.hold(asAgent)
		probe := ln.peer()
		defer probe.Close()
		synctest.Wait()
		for range 20 {
			defer ln.peer().Close()
			synctest.Wait()
		}
		if got := probe.ask("/", anonymous); got != answered {
			t.Errorf("a probe that came before 20 others: got %s", got)
		}
		time.Sleep(time.Second)
		next := ln.peer()
		defer next.Close()
		if got := next.ask("/", anonymous); got != answered {
			t.Errorf("a second later: got %s", got)
		}
	})
}

func TestServeWithin_ClosedConnections_FreeSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		within(t, ln, callers, server.Limits{Connections: 2, Keep: 8 * time.Minute}, quiet())
		for i := range 5 {
			held := ln.peer()
			held.hold(asAgent)
			if held.closed() {
				t.Errorf("connection %d has no room, though those before it are closed", i)
			}
			held.Close()
			synctest.Wait()
		}
	})
}

func TestServeWithin_FullOfUnauthenticatedRequests(t *testing.T) {
	for name, row := range map[string]struct {
		keep time.Duration
		want string
	}{
		"where callers are known, the oldest is closed": {8 * time.Minute, answered},
		"elsewhere the new one is":                      {0, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipes()
				within(t, ln, callers, server.Limits{Connections: 2, Keep: row.keep}, quiet())
				for range 2 {
					held := ln.peer()
					defer held.Close()
					held.hold(anonymous)
				}
				agent := ln.peer()
				defer agent.Close()
				if got := agent.ask("/", asAgent); (got == answered) != (row.want == answered) {
					t.Errorf("got %s, want %s", got, row.want)
				}
			})
		})
	}
}
