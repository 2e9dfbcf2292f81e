package poll_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/poll"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// polls is a poll.Service with a fleet.
type polls struct {
	*fleettest.Fleet
	*poll.Service
	waiters *poll.Waiters
	etag    string // of the newest version
}

// testPolls calls test in fake time, with one registered agent and a published version.
// stop stops the controller.
func testPolls(t *testing.T, limit int, test func(t *testing.T, p *polls, live *registry.Agent, stop func())) {
	t.Helper()
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		p := &polls{Fleet: fleettest.New(t, db, db)}
		p.waiters = poll.NewWaiters(p.Publisher.Changed, 1000, limit)
		p.Service = poll.New(poll.Options{
			Publisher: p.Publisher, Agents: p.Agents, Waiters: p.waiters, Fleet: "fleet-1",
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = p.waiters.Run(ctx) }()
		p.etag = fleettest.Publish(t, p.Publisher, fleettest.Draft("http://a/")).ETag
		test(t, p, p.Join(t, 1)[0], stop)
		stop()
		<-ended
	})
}

// request returns a poll of an agent that runs the version of etag.
func (p *polls) request(live *registry.Agent, etag string, wait time.Duration, onWake func()) poll.Request {
	h := map[string][]string{}
	if etag != "" {
		h["If-None-Match"] = []string{etag}
	}
	return poll.Request{Self: live, Header: h, Wait: wait, OnWake: onWake, StartedAt: time.Now().UTC()}
}

func TestBegin_NoWaitNeeded_RespondsImmediately(t *testing.T) {
	testPolls(t, 10, func(t *testing.T, p *polls, live *registry.Agent, _ func()) {
		for name, row := range map[string]struct {
			etag    string
			wait    time.Duration
			status  int
			granted string // X-Wait-Seconds
		}{
			"unchanged, without a wait": {p.etag, -1, poll.StatusNotModified, ""},
			"unchanged, a wait of 0":    {p.etag, 0, poll.StatusNotModified, "0"},
			"runs nothing":              {"", -1, poll.StatusOK, ""},
			"runs nothing, with a wait": {"", time.Minute, poll.StatusOK, "60"},
		} {
			got, ticket := p.Begin(p.request(live, row.etag, row.wait, func() {}))
			h := map[string][]string{}
			if got.Status == 0 {
				t.Fatalf("%s: got no response", name)
			}
			got.SetHeader(h)
			granted := ""
			if v := h[wire.HeaderWait]; v != nil {
				granted = v[0]
			}
			if ticket != nil || got.Status != row.status || granted != row.granted ||
				h[wire.HeaderFleet][0] != "fleet-1" || h["Etag"][0] != p.etag {
				t.Errorf("%s: got %d, ticket %v, headers %v, want %d, granted %q",
					name, got.Status, ticket != nil, h, row.status, row.granted)
			}
			if hasBody := len(got.Body) > 0; hasBody != (row.status == poll.StatusOK) {
				t.Errorf("%s: got the body %q", name, got.Body)
			}
		}
	})
}

// The response follows from the plan and from what the agent says that it runs.
func TestBegin_EachReason_Response(t *testing.T) {
	const otherContent = "AAAAAAAAAAAAAAAAAAAAAA"
	const foreignTag = `"9-AAAAAAAAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAAAAAAAA"`
	for name, row := range map[string]struct {
		before           func(t *testing.T, p *polls, live *registry.Agent)
		version, content string // X-Applied-Version and X-Applied-Content
		etag             func(p *polls) string
		status           int
		detail           string
		older            string // X-Older-Because
	}{
		"refused": {
			before: func(t *testing.T, p *polls, live *registry.Agent) {
				fleettest.Report(t, p.Agents, live, wire.Attempt{Version: 1, Status: wire.Failed, At: time.Now()})
			},
			status: poll.StatusNotFound,
			detail: "this agent's worker refused version 1, and nothing newer was published",
		},
		"another content of the newest version": {version: "1", content: otherContent, status: poll.StatusOK},
		"applied headers of another form":       {version: "-1", content: otherContent, status: poll.StatusOK},
		"foreign, with its ETag": {
			etag: func(*polls) string { return foreignTag }, status: poll.StatusNotModified,
		},
		"foreign, without its ETag": {
			version: "9", content: otherContent, status: poll.StatusNotFound,
			detail: "the store's newest version is 1, and agents run later ones, " +
				"which they keep until an admin decides",
		},
		"above the store": {
			etag: func(p *polls) string { return p.Later(9) }, status: poll.StatusNotModified,
		},
		"above the store, after a resume": {
			before: func(t *testing.T, p *polls, _ *registry.Agent) {
				p.Publisher.ObserveTag(p.Publisher.Plan(), p.Later(9))
				allow := func(string) bool { return true }
				if _, err := p.Publisher.Resume(t.Context(), fleettest.ByAdmin, allow); err != nil {
					t.Fatal(err)
				}
			},
			version: "9", content: otherContent, etag: func(p *polls) string { return p.Later(9) },
			status: poll.StatusOK, older: wire.OlderResume,
		},
		"the newest ETag with a later version": {
			version: "9", content: otherContent, etag: func(p *polls) string { return p.etag },
			status: poll.StatusOK, older: wire.OlderPublish,
		},
	} {
		t.Run(name, func(t *testing.T) {
			testPolls(t, 10, func(t *testing.T, p *polls, live *registry.Agent, _ func()) {
				if row.before != nil {
					row.before(t, p, live)
				}
				etag := ""
				if row.etag != nil {
					etag = row.etag(p)
				}
				r := p.request(live, etag, -1, nil)
				if row.version != "" {
					r.Header[wire.HeaderAppliedVersion] = []string{row.version}
					r.Header[wire.HeaderAppliedContent] = []string{row.content}
				}
				got, _ := p.Begin(r)
				h := map[string][]string{wire.HeaderOlderBecause: {""}}
				got.SetHeader(h)
				if got.Status != row.status || got.Detail != row.detail || h[wire.HeaderOlderBecause][0] != row.older {
					t.Errorf("got %d, %q, older because %q, want %d, %q, %q", got.Status, got.Detail,
						h[wire.HeaderOlderBecause][0], row.status, row.detail, row.older)
				}
				if row.status == poll.StatusNotModified && h["Etag"][0] != etag {
					t.Errorf("got the ETag %s, want that of the version that the agent keeps, %s", h["Etag"][0], etag)
				}
			})
		})
	}
}

func TestBegin_SubscribedToBroker_ResyncInterval(t *testing.T) {
	testPolls(t, 10, func(t *testing.T, p *polls, live *registry.Agent, _ func()) {
		service := poll.New(poll.Options{
			Publisher: p.Publisher, Agents: p.Agents, Waiters: p.waiters, Broker: wire.NATS, SweepInterval: time.Hour,
		})
		for transport, want := range map[wire.Transport]struct {
			recorded wire.Transport
			interval time.Duration
			sweep    string // X-Sweep-Interval-Seconds
		}{
			wire.NATS:  {wire.NATS, time.Hour, "3600"},
			wire.Redis: {wire.Polling, fleettest.DefaultInterval, ""}, // not announced over by this controller
		} {
			r := p.request(live, p.etag, -1, nil)
			r.Header[wire.HeaderTransport] = []string{string(transport)}
			got, _ := service.Begin(r)
			h := map[string][]string{wire.HeaderSweepInterval: {""}}
			got.SetHeader(h)
			a, _ := p.Agents.Agent("a0")
			sweep := h[wire.HeaderSweepInterval][0]
			if a.Transport != want.recorded || a.PollInterval != want.interval || sweep != want.sweep {
				t.Errorf("%s: got %s every %s, header %v, want %+v", transport, a.Transport, a.PollInterval, h, want)
			}
		}
	})
}

func TestTicket_Woken_Resumes(t *testing.T) {
	for name, row := range map[string]struct {
		during func(t *testing.T, p *polls, stop func())
		status int
		after  time.Duration
	}{
		"a version is published": {func(t *testing.T, p *polls, _ func()) {
			fleettest.Publish(t, p.Publisher, fleettest.Draft("http://b/"))
		}, poll.StatusOK, time.Second},
		"the wait ends": {func(*testing.T, *polls, func()) {}, poll.StatusNotModified, time.Minute},
		"the agent is removed": {func(t *testing.T, p *polls, _ func()) {
			if err := p.Agents.Decommission(t.Context(), "a0", fleettest.ByAdmin); err != nil {
				t.Error(err)
			}
		}, poll.StatusUnauthorized, time.Second},
		"the controller stops": {
			func(_ *testing.T, _ *polls, stop func()) { stop() }, poll.StatusNotModified, time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			testPolls(t, 10, func(t *testing.T, p *polls, live *registry.Agent, stop func()) {
				woken := make(chan struct{}, 100)
				began := time.Now()
				_, ticket := p.Begin(p.request(live, p.etag, time.Minute, func() { woken <- struct{}{} }))
				if ticket == nil || p.waiters.Waiting() != 1 {
					t.Fatalf("got %d waiters, want one", p.waiters.Waiting())
				}
				time.Sleep(time.Second)
				row.during(t, p, stop)
				for range woken {
					got, done := ticket.Resume()
					if !done {
						continue
					}
					if got.Status != row.status {
						t.Errorf("got %d, want %d", got.Status, row.status)
					}
					break
				}
				if took := time.Since(began); took < row.after ||
					took > row.after+wire.WaitSlack(row.after)+time.Second/10 {
					t.Errorf("got the response after %s, want %s", took, row.after)
				}
				if n := p.waiters.Waiting(); n != 0 {
					t.Errorf("got %d waiters after the response, want none", n)
				}
			})
		})
	}
}

// The retry of a refused version wakes the agent's own poll.
func TestTicket_Retry_OffersTheRefusedVersion(t *testing.T) {
	testPolls(t, 10, func(t *testing.T, p *polls, live *registry.Agent, _ func()) {
		fleettest.Report(t, p.Agents, live, wire.Attempt{Version: 1, Status: wire.Failed, Error: "no", At: time.Now()})
		woken := make(chan struct{}, 100)
		_, ticket := p.Begin(p.request(live, "", time.Minute, func() { woken <- struct{}{} }))
		if ticket == nil {
			t.Fatal("got a response, want a ticket")
		}
		if err := p.Agents.Retry(t.Context(), "a0", fleettest.ByAdmin); err != nil {
			t.Fatal(err)
		}
		<-woken
		if got, done := ticket.Resume(); !done || got.Status != poll.StatusOK {
			t.Errorf("got %d, done %v, want the version", got.Status, done)
		}
	})
}

func TestTicket_Disconnect_RecordedAsPolling(t *testing.T) {
	testPolls(t, 10, func(t *testing.T, p *polls, live *registry.Agent, _ func()) {
		_, ticket := p.Begin(p.request(live, p.etag, time.Hour, func() {}))
		if a, _ := p.Agents.Agent("a0"); a.Transport != wire.LongPoll || a.PollInterval != time.Hour {
			t.Errorf("while it waits: got %s every %s, want longpoll every hour", a.Transport, a.PollInterval)
		}
		ticket.Disconnect()
		if a, _ := p.Agents.Agent("a0"); a.Transport != wire.Polling || a.PollInterval != fleettest.DefaultInterval {
			t.Errorf("after it: got %s every %s, want poll in the default interval", a.Transport, a.PollInterval)
		}
		if n := p.waiters.Waiting(); n != 0 {
			t.Errorf("got %d waiters, want none", n)
		}
	})
}

func TestTicket_Waiting_NeedsNoGoroutine(t *testing.T) {
	testPolls(t, 1000, func(t *testing.T, p *polls, _ *registry.Agent, _ func()) {
		lives := p.Join(t, 100)
		before := runtime.NumGoroutine()
		var woken atomic.Int64
		tickets := make([]*poll.Ticket, len(lives))
		for i, live := range lives {
			_, tickets[i] = p.Begin(p.request(live, p.etag, time.Hour, func() { woken.Add(1) }))
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("got %d goroutines with 100 tickets, and %d before", after, before)
		}
		fleettest.Publish(t, p.Publisher, fleettest.Draft("http://b/"))
		time.Sleep(time.Second)
		if n := woken.Load(); n != 100 {
			t.Errorf("%d of 100 were woken", n)
		}
		for _, ticket := range tickets {
			if got, done := ticket.Resume(); !done || got.Status != poll.StatusOK {
				t.Fatalf("got %d, done %v, want the new version", got.Status, done)
			}
		}
	})
}
