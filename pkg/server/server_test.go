package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
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
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipes is a listener whose connections live in memory, and so in the fake
// time of a synctest bubble.
type pipes struct {
	conns chan net.Conn
	close func()
	done  <-chan struct{}
}

func newPipes() *pipes {
	done := make(chan struct{})
	return &pipes{conns: make(chan net.Conn), done: done, close: sync.OnceFunc(func() { close(done) })}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

func (p *pipes) dial() net.Conn {
	client, served := net.Pipe()
	p.conns <- served
	return client
}

// start serves until the test ends and returns what ends it sooner: it gives
// the error of Serve.
func start(t *testing.T, ln net.Listener, handler http.Handler, log logrus.FieldLogger) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln, handler, log) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-served
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

func quiet() logrus.FieldLogger { log, _ := logtest.NewNullLogger(); return log }

func TestServe_HeadersNeverEnd_Disconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		start(t, ln, http.NotFoundHandler(), quiet())
		conn := ln.dial()
		begun := time.Now()
		var sender sync.WaitGroup
		defer sender.Wait()
		defer conn.Close()
		sender.Go(func() {
			// one more line, again and again
			for _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n"); err == nil; {
				time.Sleep(100 * time.Millisecond)
				_, err = io.WriteString(conn, "X-Slow: 1\r\n")
			}
		})
		_, _ = io.ReadAll(conn)
		if took := time.Since(begun); took != server.ReadHeaderTimeout {
			t.Errorf("the client was cut after %s, want %s", took, server.ReadHeaderTimeout)
		}
	})
}

func TestServe_BodyNeverEnds_Disconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		status := make(chan error, 1)
		start(t, ln, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := server.Decode[struct{}](r)
			status <- err
		}), quiet())
		conn := ln.dial()
		defer conn.Close()
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		begun := time.Now()
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: "+
			"9\r\n\r\n{")
		err := <-status
		if took := time.Since(begun); took != server.ReadTimeout || err == nil ||
			!strings.HasPrefix(err.Error(), "408 ") {
			t.Errorf("got %v after %s, want a 408 after %s", err, took, server.ReadTimeout)
		}
	})
}

func TestServe_ResponseNeverRead_Disconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		failed := make(chan error, 1)
		start(t, ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(make([]byte, 1<<20))
			failed <- err
		}), quiet())
		conn := ln.dial()
		defer conn.Close()
		begun := time.Now()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if err := <-failed; err == nil || time.Since(begun) != server.WriteTimeout {
			t.Errorf("writing gave %v after %s, want an error after %s", err, time.Since(begun), server.WriteTimeout)
		}
	})
}

func TestServe_IdleConnection_Disconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		start(t, ln, http.NotFoundHandler(), quiet())
		conn := ln.dial()
		defer conn.Close()
		begun := time.Now()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		_, _ = io.ReadAll(conn)
		if took := time.Since(begun); took != server.IdleTimeout {
			t.Errorf("the connection was closed after %s, want %s", took, server.IdleTimeout)
		}
	})
}

// slow answers "done", whole, after that long.
func slow(d time.Duration, began chan<- struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(began)
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "done")
	})
}

func TestServe_Shutdown_RequestInFlightCompletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, began := newPipes(), make(chan struct{})
		stop := start(t, ln, slow(server.DrainTimeout-time.Second, began), quiet())
		conn := ln.dial()
		defer conn.Close()
		answer := make(chan string, 1)
		go func() {
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				answer <- err.Error()
				return
			}
			body, err := io.ReadAll(resp.Body)
			answer <- fmt.Sprintf("%d %s %v", resp.StatusCode, body, err)
		}()
		<-began
		if err := stop(); err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
		if got := <-answer; got != "200 done <nil>" {
			t.Errorf("the request in flight got %q, want its answer whole", got)
		}
	})
}

func TestServe_DrainTimeout_ClosesOpenRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, lines := logtest.NewNullLogger()
		ln, began := newPipes(), make(chan struct{})
		stop := start(t, ln, slow(time.Hour, began), log)
		conn := ln.dial()
		defer conn.Close()
		go func() {
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn)
		}()
		<-began
		begun := time.Now()
		if err := stop(); err != nil || time.Since(begun) != server.DrainTimeout {
			t.Errorf("Serve = %v after %s, want nil after %s", err, time.Since(begun), server.DrainTimeout)
		}
		if last := lines.LastEntry(); last == nil || last.Level != logrus.WarnLevel {
			t.Errorf("the last line of the log is %v, want a warning", last)
		}
	})
}

func TestServe_ListenerError_NamesAddress(t *testing.T) {
	log, lines := logtest.NewNullLogger()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	err = server.Serve(t.Context(), ln, http.NotFoundHandler(), log)
	if err == nil || !strings.Contains(err.Error(), ln.Addr().String()) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed listener: got %v, want an error that names %s", err, ln.Addr())
	}
	if first := lines.AllEntries()[0]; first.Message != "Listening" || first.Data["addr"] != ln.Addr().String() {
		t.Errorf("the first line is %q %v, want Listening with the addr", first.Message, first.Data)
	}
}

func TestServe_BrokenClients_LoggedAtDebug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, lines := logtest.NewNullLogger()
		log.SetLevel(logrus.DebugLevel)
		ln := newPipes()
		// not wrapped
		stop := start(t, ln, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }), log)
		conn := ln.dial()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		_, _ = io.ReadAll(conn)
		_ = conn.Close()
		_ = stop()
		for _, line := range lines.AllEntries() {
			if strings.Contains(fmt.Sprint(line.Data["server"]), "boom") && line.Level == logrus.DebugLevel {
				return
			}
		}
		t.Error("what net/http said is not in the log at debug")
	})
}

func TestServe_ThousandConcurrentRequests(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	var all sync.WaitGroup // none is answered before all have come
	all.Add(n)
	stop := start(t, ln, server.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.Done()
		all.Wait()
		server.Health(w, r)
	}), quiet()), quiet())

	client := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	faults := make(chan error, n)
	for range n {
		go func() {
			resp, err := client.Get("http://" + ln.Addr().String() + "/health")
			if err == nil {
				defer resp.Body.Close()
				var status server.Status
				if err = json.NewDecoder(resp.Body).Decode(&status); err == nil && status.Status != "ok" {
					err = fmt.Errorf("status %q", status.Status)
				}
			}
			faults <- err
		}()
	}
	for range n {
		if err := <-faults; err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
}
