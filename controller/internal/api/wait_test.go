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

// holdPoll starts a long poll of 60 s and returns the channel of its response. It fails the test
// if the poll is answered immediately.
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
		before    func(s *system, a1 account) (tag string) // ETag of the agent's version
		meanwhile func(s *system, a1 account)
		status    int
		most      time.Duration // of fake time, until the response
		version   string        // in the body
	}{
		"nothing happens": {nil, func(*system, account) {}, 304, 64 * time.Second, ""},
		"a publish":       {nil, func(s *system, _ account) { s.publish("http://b/") }, 200, 0, `"version":2`},
		"the same content again": {
			nil, func(s *system, _ account) { s.publish("http://a/") }, 304, 64 * time.Second, "",
		},
		"the first publish": {
			func(*system, account) string { return `""` },
			func(s *system, _ account) { s.publish("http://a/") }, 200, 0, `"version":1`,
		},
		"nothing published": {
			func(*system, account) string { return `""` }, func(*system, account) {}, 404, 64 * time.Second, "",
		},
		"the controller stops": {nil, func(s *system, _ account) { s.drain() }, 304, 0, ""},
		"the agent is decommissioned": {
			nil, func(s *system, a1 account) { s.call(admin, "DELETE", "/api/v1/agents/"+a1[0], "") }, 401, 0, "",
		},
		"another agent is removed": {nil, func(s *system, _ account) {
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
					t.Errorf("got X-Wait-Seconds %q, want 60", got)
				}
				if challenge := resp.Header.Get("WWW-Authenticate"); (challenge != "") != (row.status == 401) {
					t.Errorf("%d with WWW-Authenticate %q", row.status, challenge)
				}
				if got := s.waiters.Waiting(); got != 0 {
					t.Errorf("%d polls wait, want none", got)
				}
			})
		})
	}
}

// refuseVersionTwo publishes two versions and lets a1's worker refuse the second. It returns the
// ETag of the first.
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
						"%s with %q: got %d after %s, want 200 immediately", who[0], tag, resp.StatusCode,
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
					"%s: got %d after %s, X-Wait-Seconds %q, want 304 after %s or a sixteenth more", wait,
					resp.StatusCode,
					took, resp.Header.Get(wire.HeaderWait), row.least,
				)
			}
			if resp.Header.Get(wire.HeaderPollInterval) != "30" {
				t.Errorf("%s: got the headers %v, want the interval", wait, resp.Header)
			}
		}
		for _, wait := range []string{"", "x", "-1s", "-5", "1.5", "99999999999999999999", "%zz"} {
			resp := s.call(admin, "GET", "/api/v1/config?wait="+wait, "", "If-None-Match", tag)
			if wait != "%zz" { // an unparsable query: a poll ignores it
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
			interval := ""
			if header == "nats" {
				interval = "300"
			}
			if got := resp.Header.Get(wire.HeaderSweepInterval); got != interval {
				t.Errorf(
					"%q: got X-Sweep-Interval-Seconds %q, want %q: the controller announces over NATS", header, got,
					interval,
				)
			}
		}
		answer := s.holdPoll(a1, tag)
		shows(`"longpoll"`)
		<-answer
		shows(`"longpoll"`)

		// An agent that receives hints over a broker polls seldom, and is still online.
		s.call(a1, "GET", "/api/v1/config", "", "If-None-Match", tag, wire.HeaderTransport, "nats")
		time.Sleep(14 * time.Minute)
		if got := text(t, s.call(admin, "GET", "/api/v1/agents/a1", "")); !strings.Contains(got, `"status":"online"`) {
			t.Errorf("got %s, want it online, with a resync every 5 minutes", got)
		}
	})
}

// A disconnect ends a long poll immediately. The agent is due at its poll interval, not when the
// wait would have expired.
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
			t.Fatalf("%d polls wait, want 1", got)
		}
		time.Sleep(200 * time.Second)
		disconnect()
		disconnected := time.Now()
		polling.Wait()
		if got := s.waiters.Waiting(); got != 0 {
			t.Errorf("%d polls wait after the disconnect, want none", got)
		}
		for _, want := range []string{"online", "stale"} { // after 60 s, and after 120
			time.Sleep(time.Minute)
			if got := text(
				t, s.call(admin, "GET", "/api/v1/agents/a1", ""),
			); !strings.Contains(got, `"status":"`+want) {
				t.Errorf("%s after the disconnect: got %s, want %s", time.Since(disconnected), got, want)
			}
		}
	})
}

// A wait may exceed the server's timeouts, which do not end it.
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

// pipeListener is a listener of in-memory connections, which work in fake time.
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

// During a rollout window responses with the new version tell agents to delay their reports.
func TestConfig_RolloutWindow_SpreadsReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		for i := range 20 { // 0.1 s at 200 a second; the window is four times as long
			s.register(fmt.Sprint("a", i))
		}
		tag := s.publish("http://a/").Header.Get("ETag")
		time.Sleep(time.Second)
		answer := s.holdPoll(enroller, tag)
		s.publish("http://b/")
		if got := (<-answer).Header.Get(wire.HeaderSpread); got != "400" {
			t.Errorf("in the window: got X-Spread-Milliseconds %q, want 400", got)
		}
		time.Sleep(400 * time.Millisecond)
		if got := s.call(
			enroller, "GET", "/api/v1/config", "", "If-None-Match", tag,
		).Header.Get(wire.HeaderSpread); got != "" {
			t.Errorf("after the window: got X-Spread-Milliseconds %q, want none", got)
		}
	})
}

// A wake-up of the waiters does not count as contact with their agents.
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

// An agent that reconnects before its old connection is closed stays connected.
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
				"got %d after %s, X-Wait-Seconds %q, want 304 immediately, without X-Wait-Seconds", resp.StatusCode,
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
		t.Errorf("got %d %s, want it ready, with the error", resp.StatusCode, got)
	}
}
