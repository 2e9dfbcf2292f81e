package server_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/pkg/server"
)

func TestDebug_OtherHosts_Forbidden(t *testing.T) {
	for name, row := range map[string]struct {
		remote, host string
		want         int
	}{
		"from here":                  {"127.0.0.1:40000", "127.0.0.1:6060", 200},
		"by the name of this":        {"[::1]:40000", "localhost:6060", 200},
		"from elsewhere":             {"192.0.2.1:40000", "127.0.0.1:6060", 403},
		"by a name that was rebound": {"127.0.0.1:40000", "evil.example:6060", 403},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline",
				"/debug/pprof/symbol", "/debug/pprof/profile?seconds=1", "/debug/pprof/trace?seconds=0.01"} {
				r := httptest.NewRequest("GET", path, nil)
				r.RemoteAddr, r.Host = row.remote, row.host
				w := httptest.NewRecorder()
				server.Debug().ServeHTTP(w, r)
				if w.Code != row.want {
					t.Errorf("%s: got %d, want %d", path, w.Code, row.want)
				}
			}
		})
	}
}

func TestServeDebug_ListensOnLoopbackOnly(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log, listening := quiet(), make(chan string, 1)
	if err := server.ServeDebug(ctx, 0, log); err != nil {
		t.Errorf("for no port: %v", err)
	}
	port, ended := freePort(t), make(chan error, 1)
	go func() { ended <- server.ServeDebug(ctx, port, hooked(listening)) }() // ends with stop
	if addr := <-listening; addr != "127.0.0.1:"+strconv.Itoa(port) {
		t.Errorf("listens on %s", addr)
	}
	resp, err := http.Get("http://127.0.0.1:" + strconv.Itoa(port) + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "goroutine profile") {
		t.Errorf("got %s", body)
	}
	if err := server.ServeDebug(ctx, port, log); err == nil || !strings.Contains(err.Error(), "DEBUG_PORT") {
		t.Errorf("on a port that is taken: got %v, want an error that names DEBUG_PORT", err)
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestServeDebug_Shutdown_EndsProfiles(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	port, listening, ended := freePort(t), make(chan string, 1), make(chan error, 1)
	go func() { ended <- server.ServeDebug(ctx, port, hooked(listening)) }() // ends with stop
	url := "http://" + <-listening + "/debug/pprof/trace?seconds=20"
	resp, err := http.Get(url) // a trace begins to be sent while it is made
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	began := time.Now()
	stop()
	if err := <-ended; err != nil || time.Since(began) > server.DrainTimeout/2 {
		t.Errorf("ended after %s with %v, want at once", time.Since(began), err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("got %v, want what there is of the profile", err)
	}
}

func TestServeDebug_NinthConnection_ClosesTheOldest(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	port, listening, ended := freePort(t), make(chan string, 1), make(chan error, 1)
	go func() { ended <- server.ServeDebug(ctx, port, hooked(listening)) }() // ends with stop
	defer func() { stop(); <-ended }()
	address := <-listening
	var conns []net.Conn
	for range 9 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		conns = append(conns, conn)
	}
	if _, err := io.ReadAll(conns[0]); err != nil {
		t.Errorf("the oldest: got %v, want that it ended", err)
	}
	_, _ = io.WriteString(conns[1], "GET /debug/pprof/cmdline HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	if said, _ := io.ReadAll(conns[1]); !strings.HasPrefix(string(said), "HTTP/1.1 200") {
		t.Errorf("the next: got %q, want an answer", said)
	}
}

func TestCheckHealth(t *testing.T) {
	lives := httptest.NewServer(http.HandlerFunc(server.Health))
	defer lives.Close()
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	defer failing.Close()
	secret := httptest.NewTLSServer(http.HandlerFunc(server.Health)) // of an unknown authority
	defer secret.Close()
	for name, row := range map[string]struct {
		host   string
		port   int
		secure bool
		want   string
	}{
		"where it listens":       {"127.0.0.1", portOf(t, lives), false, ""},
		"on every interface":     {"0.0.0.0", portOf(t, lives), false, ""},
		"over TLS":               {"127.0.0.1", portOf(t, secret), true, ""},
		"one that speaks no TLS": {"127.0.0.1", portOf(t, lives), true, "HTTPS"},
		"failing":                {"localhost", portOf(t, failing), false, "500"},
		"no listener":            {"127.0.0.1", freePort(t), false, "refused"},
		"a random port":          {"127.0.0.1", 0, false, "set PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			err := server.CheckHealth(t.Context(), row.host, row.port, row.secure)
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want an error with %q", err, row.want)
			}
		})
	}
}

// Where IPv6 is switched off, or alone, one loopback address of a process that
// listens on every interface does not answer.
func TestAnswers_AllInterfaces_TriesBothLoopbackAddresses(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			ln, err := net.Listen("tcp", address)
			if err != nil {
				t.Skipf("no such address here: %v", err)
			}
			s := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(server.Health)}}
			s.Start()
			defer s.Close()
			if err := server.Answers(wildcard{ln}, false)(t.Context()); err != nil {
				t.Errorf("got %v, want that it lives", err)
			}
		})
	}
}

// wildcard is a listener that says it is on every interface, as [::] is.
type wildcard struct{ net.Listener }

func (w wildcard) Addr() net.Addr {
	return &net.TCPAddr{IP: net.IPv6unspecified, Port: w.Listener.Addr().(*net.TCPAddr).Port}
}

func portOf(t *testing.T, s *httptest.Server) int {
	t.Helper()
	return s.Listener.Addr().(*net.TCPAddr).Port
}

// freePort is a port of 127.0.0.1 without a listener. It is taken at
// 127.0.0.2 for as long as the test runs, so that no connection of another test
// goes out from it.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().(*net.TCPAddr).Port
}

// hooked is a log that sends the address of its first line.
func hooked(listening chan<- string) *logrus.Logger {
	log, _ := logtest.NewNullLogger()
	log.AddHook(firstAddr(listening))
	return log
}

type firstAddr chan<- string

func (firstAddr) Levels() []logrus.Level { return logrus.AllLevels }

func (f firstAddr) Fire(e *logrus.Entry) error {
	if addr, ok := e.Data["addr"].(string); ok {
		f <- addr
	}
	return nil
}
