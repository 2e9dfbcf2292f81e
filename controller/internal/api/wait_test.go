package api_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// held polls with a wait of 60 s, and returns where the answer will be. It fails
// the test if there is one at once.
func (s *system) holdPoll(who account, tag string) <-chan *http.Response {
	s.t.Helper()
	answered := make(chan *http.Response, 1)
	go func() { answered <- s.call(who, "GET", "/api/v1/config?wait=60s", "", "If-None-Match", tag) }()
	synctest.Wait()
	if len(answered) > 0 {
		s.t.Fatalf("the poll was not held, but answered %d", (<-answered).StatusCode)
	}
	return answered
}

func TestConfig_Wait_HeldUntilNewVersion(t *testing.T) {
	for name, row := range map[string]struct {
		before    func(s *system, a1 account) (tag string) // of what the agent runs
		meanwhile func(s *system, a1 account)
		status    int
		most      time.Duration // fake: how long it is held
		version   string        // in the body
	}{
		"nothing happens": {nil, func(*system, account) {}, 304, 64 * time.Second, ""},
		"a publish":       {nil, func(s *system, _ account) { s.publish("http://b/") }, 200, 0, `"version":2`},
		"the same again is none": {
			nil, func(s *system, _ account) { s.publish("http://a/") }, 304, 64 * time.Second, "",
		},
		"the first publish": {
			func(*system, account) string { return `""` },
			func(s *system, _ account) { s.publish("http://a/") }, 200, 0, `"version":1`,
		},
		"never a publish": {
			func(*system, account) string { return `""` }, func(*system, account) {}, 404, 64 * time.Second, "",
		},
		"the controller stops": {nil, func(s *system, _ account) { s.drain() }, 304, 0, ""},
		"the agent is decommissioned": {
			nil, func(s *system, a1 account) { s.call(admin, "DELETE", "/api/v1/agents/"+a1[0], "") }, 401, 0, "",
		},
		"another agent is": {nil, func(s *system, _ account) {
			s.register("a2")
			s.call(admin, "DELETE", "/api/v1/agents/a2", "")
		}, 304, 64 * time.Second, ""},
		"a refused version is published again": {
			refuseVersionTwo, func(s *system, _ account) { s.publish("http://b/") }, 304, 64 * time.Second, "",
		},
		"a newer one than the refused": {
			refuseVersionTwo, func(s *system, _ account) { s.publish("http://c/") }, 200, 0, `"version":3`,
		},
		"a retry": {refuseVersionTwo, func(s *system, a1 account) {
			s.call(admin, "POST", "/api/v1/agents/"+a1[0]+"/retry", "")
		}, 200, 0, `"version":2`},
		"a resume after a restore": {func(s *system, _ account) string {
			s.publish("http://a/")
			return s.laterETag(7)
		}, func(s *system, _ account) { s.call(admin, "POST", "/api/v1/agents/resume", "") }, 200, 0, `"version":1`},
		"a resume after another store": {func(s *system, _ account) string {
			s.publish("http://a/")
			return `"7-abcdefghijklmnopqrstuv"`
		}, func(s *system, _ account) { s.call(admin, "POST", "/api/v1/agents/resume", "") }, 200, 0, `"version":1`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(t)
				a1 := s.register("a1")
				var tag string
				if row.before == nil {
					tag = s.publish("http://a/").Header.Get("ETag")
				} else {
					tag = row.before(s, a1)
				}
				began := time.Now()
				answer := s.holdPoll(a1, tag)
				time.Sleep(time.Second)
				row.meanwhile(s, a1)
				resp := <-answer
				took := time.Since(began) - time.Second
				if body := text(t, resp); resp.StatusCode != row.status || took > row.most ||
					!strings.Contains(body, row.version) {
					t.Errorf(
						"got %d %s after %s, want %d %s after %s at most", resp.StatusCode, body, took, row.status,
						row.version, row.most,
					)
				}
				if row.most > 0 && took < 59*time.Second {
					t.Errorf("it was held for %s, want the whole wait", took)
				}
				if got := resp.Header.Get(wire.HeaderWait); got != "60" {
					t.Errorf("the wait is said to be %q, want 60", got)
				}
				if challenge := resp.Header.Get("WWW-Authenticate"); (challenge != "") != (row.status == 401) {
					t.Errorf("%d with WWW-Authenticate %q", row.status, challenge)
				}
				if got := s.waiters.Waiting(); got != 0 {
					t.Errorf("%d wait, want none", got)
				}
			})
		})
	}
}

// refuseVersionTwo lets a1's worker run version 1 and refuse version 2.
func refuseVersionTwo(s *system, a1 account) string {
	tag := s.publish("http://a/").Header.Get("ETag")
	s.publish("http://b/")
	s.report(a1, 2, failed)
	return tag
}

func TestConfig_WaitWithOlderETag_AnsweredImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		a1 := s.register("a1")
		old := s.publish("http://a/").Header.Get("ETag")
		s.publish("http://b/")
		began := time.Now()
		for _, tag := range []string{"", `""`, old} {
			for _, who := range []account{a1, admin, enroller} {
				resp := s.call(who, "GET", "/api/v1/config?wait=300", "", "If-None-Match", tag)
				if resp.StatusCode != 200 || time.Since(began) != 0 {
					t.Errorf(
						"%s with %q: got %d after %s, want 200 at once", who[0], tag, resp.StatusCode,
						time.Since(began),
					)
				}
			}
		}
	})
}

func TestConfig_Wait_Bounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		tag := s.publish("http://a/").Header.Get("ETag")
		for wait, row := range map[string]struct {
			least      time.Duration
			headerText string
		}{
			"24h": {300 * time.Second, "300"}, "300": {300 * time.Second, "300"}, "90s": {90 * time.Second, "90"},
			"0": {0, "0"}, "0s": {0, "0"},
		} {
			began := time.Now()
			resp := s.call(admin, "GET", "/api/v1/config?wait="+wait, "", "If-None-Match", tag)
			if took := time.Since(began); resp.StatusCode != 304 || took < row.least || took > row.least*17/16 ||
				resp.Header.Get(wire.HeaderWait) != row.headerText {
				t.Errorf(
					"%s: got %d after %s, said to be %q, want 304 after %s or a sixteenth more", wait, resp.StatusCode,
					took, resp.Header.Get(wire.HeaderWait), row.least,
				)
			}
			if resp.Header.Get(wire.HeaderPollInterval) != "30" {
				t.Errorf("%s: got the headers %v, want the interval", wait, resp.Header)
			}
		}
		for _, wait := range []string{"", "x", "-1s", "-5", "1.5", "99999999999999999999", "%zz"} {
			resp := s.call(admin, "GET", "/api/v1/config?wait="+wait, "", "If-None-Match", tag)
			if wait != "%zz" { // no query at all: a poll tolerates it
				wantProblem(t, resp, 400, "wait")
			}
		}
	})
}

func TestAgents_Transport_Listed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		a1 := s.register("a1")
		tag := s.publish("http://a/").Header.Get("ETag")
		shows := func(want string) {
			t.Helper()
			if got := text(
				t, s.call(admin, "GET", "/api/v1/agents/a1", ""),
			); !strings.Contains(got, `"transport":`+want) {
				t.Errorf("got %s, want the transport %s", got, want)
			}
		}
		shows("null")
		for header, want := range map[string]string{
			"nats": `"nats"`, "redis": `"poll"`, "": `"poll"`, "longpoll": `"poll"`, "pigeon": `"poll"`,
		} {
			resp := s.call(a1, "GET", "/api/v1/config", "", "If-None-Match", tag, wire.HeaderTransport, header)
			shows(want)
			sweep := ""
			if header == "nats" {
				sweep = "300"
			}
			if got := resp.Header.Get(wire.HeaderSweepInterval); got != sweep {
				t.Errorf(
					"%q: told to sweep every %q seconds, want %q: the controller announces over NATS", header, got,
					sweep,
				)
			}
		}
		answer := s.holdPoll(a1, tag)
		shows(`"longpoll"`)
		<-answer
		shows(`"longpoll"`)

		// Who listens to a broker comes by seldom, and is not missed.
		s.call(a1, "GET", "/api/v1/config", "", "If-None-Match", tag, wire.HeaderTransport, "nats")
		time.Sleep(14 * time.Minute)
		if got := text(t, s.call(admin, "GET", "/api/v1/agents/a1", "")); !strings.Contains(got, `"status":"online"`) {
			t.Errorf("got %s, want it online while it sweeps every 5 minutes", got)
		}
	})
}

// A caller that leaves is seen to, and is not taken for one that will be back
// only when its wait is over.
func TestConfig_DisconnectWhileHeld_SeenImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		a1 := s.register("a1")
		tag := s.publish("http://a/").Header.Get("ETag")
		ctx, disconnect := context.WithCancel(t.Context())
		var polling sync.WaitGroup
		polling.Go(func() { s.callContext(ctx, a1, "GET", "/api/v1/config?wait=300s", "", "If-None-Match", tag) })
		synctest.Wait()
		if got := s.waiters.Waiting(); got != 1 {
			t.Fatalf("%d wait, want 1", got)
		}
		time.Sleep(200 * time.Second)
		disconnect()
		clientGone := time.Now()
		polling.Wait()
		if got := s.waiters.Waiting(); got != 0 {
			t.Errorf("%d wait after it left, want none", got)
		}
		for _, want := range []string{"online", "stale"} { // after 60 s, and after 120
			time.Sleep(time.Minute)
			if got := text(
				t, s.call(admin, "GET", "/api/v1/agents/a1", ""),
			); !strings.Contains(got, `"status":"`+want) {
				t.Errorf("%s after it was here: got %s, want %s", time.Since(clientGone), got, want)
			}
		}
	})
}

// Answers are held for longer than the server gives any other request, and no
// deadline of it ends them.
func TestConfig_WaitBeyondServerTimeouts_Answered(t *testing.T) {
	for _, row := range []struct {
		path, proto string
		want        int
	}{
		{"/api/v1/config?wait=300s", "HTTP/1.1", 304},
		{"/api/v1/config?wait=300s", "HTTP/2.0", 304},
		{"/api/v1/rollouts/1?wait=300s", "HTTP/1.1", 408},
		{"/api/v1/rollouts/1?wait=300s", "HTTP/2.0", 408},
	} {
		t.Run(row.proto+" "+row.path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(t)
				s.register("a1")
				tag := s.publish("http://a/").Header.Get("ETag")
				ln := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
				ctx, stop := context.WithCancel(t.Context())
				var serving sync.WaitGroup
				log, _ := logtest.NewNullLogger()
				dials := 0
				transport := &http.Transport{ForceAttemptHTTP2: true, DialContext: func(
					context.Context, string, string,
				) (net.Conn, error) {
					dials++
					client, served := net.Pipe()
					ln.conns <- served
					return client, nil
				}}
				scheme, listener := "http", net.Listener(ln)
				if row.proto == "HTTP/2.0" {
					scheme = "https"
					listener, transport.TLSClientConfig = newTLSListener(t, ln)
				}
				serving.Go(func() { _ = server.Serve(ctx, listener, s.handler, log) })
				client := &http.Client{Transport: transport}
				began := time.Now()
				for range 2 { // the second on the same connection
					r, err := http.NewRequestWithContext(
						t.Context(), "GET", scheme+"://controller"+row.path, http.NoBody,
					)
					if err != nil {
						t.Fatal(err)
					}
					r.SetBasicAuth(admin[0], admin[1])
					r.Header.Set("If-None-Match", tag)
					resp, err := client.Do(r)
					if err != nil {
						t.Fatalf("after %s: %v", time.Since(began), err)
					}
					if body := text(t, resp); resp.StatusCode != row.want || time.Since(began) < 300*time.Second ||
						resp.Proto != row.proto {
						t.Errorf(
							"got %d %s over %s after %s, want %d after 300 s", resp.StatusCode, body, resp.Proto,
							time.Since(began), row.want,
						)
					}
					began = time.Now()
				}
				if dials != 1 {
					t.Errorf("it took %d connections, want 1", dials)
				}
				transport.CloseIdleConnections()
				stop()
				serving.Wait()
			})
		})
	}
}

// pipeListener is a listener whose connections live in fake time.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipeListener) Close() error   { close(p.done); return nil }
func (p *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// While the whole fleet fetches, who has a newer version is told to leave the
// controller to those who do not have it yet.
func TestConfig_RolloutWindow_SpreadsReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		for i := range 20 { // a tenth of a second at 200 a second, and four times that until all have it
			s.register(fmt.Sprint("a", i))
		}
		tag := s.publish("http://a/").Header.Get("ETag")
		time.Sleep(time.Second)
		answer := s.holdPoll(enroller, tag)
		s.publish("http://b/")
		if got := (<-answer).Header.Get(wire.HeaderSpread); got != "400" {
			t.Errorf("who is let go is told %q ms, want 400", got)
		}
		time.Sleep(400 * time.Millisecond)
		if got := s.call(
			enroller, "GET", "/api/v1/config", "", "If-None-Match", tag,
		).Header.Get(wire.HeaderSpread); got != "" {
			t.Errorf("who fetches when that is over is told %q ms, want nothing", got)
		}
	})
}

// What wakes the waiters is no sign of life of theirs.
func TestConfig_Held_SeenAtPollAndAtResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		a1 := s.register("a1")
		s.register("a2")
		tag := s.publish("http://a/").Header.Get("ETag")
		seen := func() (at time.Time) {
			return *decode[wire.Agent](t, s.call(admin, "GET", "/api/v1/agents/a1", "")).LastPoll
		}
		began := time.Now()
		answer := s.holdPoll(a1, tag)
		time.Sleep(40 * time.Second)
		s.call(admin, "DELETE", "/api/v1/agents/a2", "")
		synctest.Wait()
		if got := seen(); !got.Equal(began) {
			t.Errorf("while it waits: seen %s after its poll, want when it polled", got.Sub(began))
		}
		<-answer
		if got := seen(); got.Before(began.Add(time.Minute)) {
			t.Errorf("after its wait: seen %s after its poll, want when it was answered", got.Sub(began))
		}
	})
}

// An agent whose connection broke and that is back already is not taken for one
// that left.
func TestConfig_ReconnectBeforeDisconnectDetected_Online(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		a1 := s.register("a1")
		tag := s.publish("http://a/").Header.Get("ETag")
		ctx, disconnect := context.WithCancel(t.Context())
		var polling sync.WaitGroup
		polling.Go(func() { s.callContext(ctx, a1, "GET", "/api/v1/config?wait=300s", "", "If-None-Match", tag) })
		time.Sleep(time.Second)
		answer := s.holdPoll(a1, tag)
		disconnect()
		polling.Wait()
		if got := text(
			t, s.call(admin, "GET", "/api/v1/agents/a1", ""),
		); !strings.Contains(got, `"transport":"longpoll"`) {
			t.Errorf("got %s, want it on long-poll", got)
		}
		<-answer
	})
}

func TestConfig_WaitersFull_NotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		tag := s.publish("http://a/").Header.Get("ETag")
		var polling sync.WaitGroup
		for range 2000 {
			polling.Go(func() { s.call(enroller, "GET", "/api/v1/config?wait=60s", "", "If-None-Match", tag) })
		}
		synctest.Wait()
		began := time.Now()
		resp := s.call(enroller, "GET", "/api/v1/config?wait=60s", "", "If-None-Match", tag)
		if resp.StatusCode != 304 || time.Since(began) != 0 || resp.Header.Get(wire.HeaderWait) != "" {
			t.Errorf(
				"got %d after %s, said to be held for %q, want 304 at once, and no word of it", resp.StatusCode,
				time.Since(began), resp.Header.Get(wire.HeaderWait),
			)
		}
		polling.Wait()
	})
}

func TestReady_BrokerLost_Degraded(t *testing.T) {
	s := newSystem(t)
	s.lost = errors.New("nothing listens there")
	resp := s.call(account{}, "GET", "/ready", "")
	if got := text(t, resp); resp.StatusCode != 200 || !strings.Contains(got, "push: ") ||
		!strings.Contains(got, "nothing listens there") {
		t.Errorf("got %d %s, want it ready, and told of", resp.StatusCode, got)
	}
}
