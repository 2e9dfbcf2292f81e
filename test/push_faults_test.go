package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// publishEvery publishes a page with a poll interval.
func (s *site) publishEvery(t *testing.T, page string, seconds int) {
	t.Helper()
	a, err := call(admin, "POST", s.controller.url()+"/api/v1/config",
		fmt.Sprintf(`{"url":%q,"poll_interval_seconds":%d}`, s.target.url()+page, seconds))
	must(t, err)
	if a.status != 200 {
		t.Fatalf("publish: got %v, want 200", a)
	}
}

// A broker that is down, or does not respond, delays neither a start nor a publish. The
// fleet polls until the broker works.
func TestBroker_DownAtStart_FleetPolls(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		for name, down := range map[string]struct{ begin, end func(t *testing.T, n network) }{
			"down": {func(_ *testing.T, n network) { n.Stop() },
				func(t *testing.T, n network) { must(t, n.Start()) }},
			"unresponsive": {func(t *testing.T, n network) { n.blackhole(t) },
				func(t *testing.T, n network) { n.removeToxics(t) }},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				between := networkTo(t, b.addr)
				down.begin(t, between)
				settings := b.settings(between.Listen)
				s := newSite(t, settings, settings)
				s.publish(t, "/one")
				if name == "unresponsive" {
					must(t, s.checkPushLost(false)) // the response came before the loss was detected
				}
				s.waitForWorker(t, "/one")
				s.waitForPushLost(t, true)
				s.waitForTransport(t, "poll")
				s.publishAndWait(t, "/two")

				down.end(t, between)
				s.waitForTransport(t, b.transport)
				s.waitForPushLost(t, false)
				s.publishEvery(t, "/three", 3600)
				s.waitForWorker(t, "/three")
				s.publishAndWait(t, "/four")
				for text, p := range map[string]*process{"Announcements lost": s.controller,
					"Announcements back": s.controller, "Push lost": s.agent, "Push healthy": s.agent} {
					if n := strings.Count(p.log.String(), text); n != 1 {
						t.Errorf("%s logged %q %d times, want once", p.name, text, n)
					}
				}
			})
		}
	})
}

// A broker is killed and restarted twice: each loss and each recovery is reported, and
// push works again.
func TestBroker_Restarts_PushResumes(t *testing.T) {
	withBrokers(t, "hunter2-0123456789", func(t *testing.T, b *broker) {
		s := newSite(t, append(b.settings(b.addr), hourly), b.settings(b.addr))
		s.waitForTransport(t, b.transport)
		s.publishAndWait(t, "/first")
		for i := range 2 {
			b.kill()
			s.waitForTransport(t, "poll")
			s.publish(t, fmt.Sprintf("/missed/%d", i))
			s.waitForPushLost(t, true)
			b.start(t)
			s.waitForTransport(t, b.transport)
			s.waitForPushLost(t, false)
			s.publishAndWait(t, fmt.Sprintf("/heard/%d", i))
		}
	})
}

// The network flaps, and cuts and resets connections. The agent does not poll more often,
// and push works again afterwards.
func TestBroker_NetworkFails_PushResumes(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		between := networkTo(t, b.addr)
		settings := b.settings(between.Listen)
		s := newSite(t, append(settings, hourly), []string{"PUSH=none"})
		through := newCounter(t, s.controller)
		must(t, s.agent.crash())
		s.agent.env = append(s.agent.env, append(settings, "CONTROLLER_URL="+through.URL)...)
		must(t, s.agent.start())
		s.waitForTransport(t, b.transport)
		s.publishAndWait(t, "/first")
		polls := through.polls.Load()

		for range 3 { // which may go unnoticed
			between.Stop()
			must(t, between.Start())
		}
		between.Stop()
		s.waitForTransport(t, "poll")
		s.publish(t, "/missed")
		must(t, between.Start())
		s.waitForTransport(t, b.transport)
		between.addToxics(t, "limit_data", `{"bytes":20}`)
		between.Stop()
		must(t, between.Start())
		s.waitForTransport(t, "poll")
		s.publish(t, "/missed/again")
		s.waitForPushLost(t, true)
		between.removeToxics(t)
		between.addToxics(t, "reset_peer", `{"timeout":1}`)
		s.publish(t, "/missed/once/more")
		s.waitForPushLost(t, true)
		between.removeToxics(t)

		s.waitForTransport(t, b.transport)
		s.waitForPushLost(t, false)
		s.publishAndWait(t, "/last")
		if n := through.polls.Load() - polls; n > 12 { // one for each of five publishes, and few more
			t.Errorf("the agent polled %d times while the network failed", n)
		}
		if n := through.others.Load(); n > 1 { // none if it had registered before it crashed
			t.Errorf("the agent sent %d other requests, want at most one registration", n)
		}
	})
}

// A broker hangs, and connections stay open. Publishes are acknowledged, and agents
// resync. Push works again afterwards.
func TestBroker_Hangs_AgentsResync(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		before, behind := networkTo(t, b.addr), networkTo(t, b.addr)
		s := newSite(t, append(b.settings(before.Listen), "DEFAULT_POLL_INTERVAL=1", "SWEEP_INTERVAL=2s"),
			append(b.settings(behind.Listen), "LOG_LEVEL=debug"))
		s.waitForTransport(t, b.transport)
		s.publishAndWait(t, "/first")

		behind.blackhole(t)
		s.publishAndWait(t, "/swept")
		must(t, checkTransport(s.agent, b.transport)) // the hang is not detected yet
		before.blackhole(t)
		s.publish(t, "/swept/too")
		must(t, s.checkPushLost(false)) // the hang is not detected yet
		s.waitForWorker(t, "/swept/too")
		s.waitForPushLost(t, true)

		behind.removeToxics(t) // which closes the connection
		s.agent.waitForLog(t, "Push healthy", 2)
		before.removeToxics(t)
		s.waitForPushLost(t, false)
		version := s.publish(t, "/heard")
		s.waitForWorker(t, "/heard")
		eventually(t, func() error {
			for line := range strings.Lines(s.agent.log.String()) {
				var event struct {
					Msg     string
					Version int64
				}
				if json.Unmarshal([]byte(line), &event) == nil && event.Msg == "Hint received" &&
					event.Version == version {
					return nil
				}
			}
			return fmt.Errorf("the agent received no hint of version %d", version)
		})
	})
}

// Forged hints make the agent poll rarely, and its worker runs published versions only.
func TestBroker_ForgedHints_FewPolls(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		settings := b.settings(b.addr)
		s := newSite(t, append(settings, hourly), []string{"PUSH=none"})
		through := newCounter(t, s.controller)
		must(t, s.agent.crash())
		s.agent.env = append(s.agent.env, append(settings, "CONTROLLER_URL="+through.URL)...)
		must(t, s.agent.start())
		s.waitForTransport(t, b.transport)
		s.publishAndWait(t, "/one")
		s.publishAndWait(t, "/two")

		hint := func(version any, etag string, spread any) string {
			return fmt.Sprintf(`{"version":%v,"etag":%q,"spread_ms":%v}`, version, etag, spread)
		}
		// Hints of known versions and invalid messages cause no poll.
		polls := through.polls.Load()
		for range 20 {
			b.publish(t, hint(1, "old", 0), hint(0, "", 0), hint(-5, "", 0), hint("1e30", "", 0),
				hint(9223372036854775807, "x", `"soon"`), `{"version":`, `[]`, `null`, "",
				"\x00\xff\r\n+OK\r\nMSG fleetconf.config 1 99999999999\r\n$99999999999\r\n",
				strings.Repeat("x", 900<<10))
		}
		b.publish(t, hint(3, "three", 300_000), hint(4, "four", int64(1)<<62)) // after a long spread
		must(t, checkTransport(s.agent, b.transport))
		if n := through.polls.Load() - polls; n != 0 {
			t.Errorf("the agent polled %d times without a hint of a newer version, want none", n)
		}
		// A hint with a long spread does not delay a later one.
		s.publishAndWait(t, "/three")

		// Forged hints of newer versions cause one poll, and then ever fewer.
		polls = through.polls.Load()
		began := time.Now() // for no longer than 2 s: else the agent ignores hints for minutes
		for i := 0; i < 400 && time.Since(began) < 2*time.Second; i++ {
			b.publish(t, hint(999_999_999, "forged", 0), hint(1_000_000+i, fmt.Sprint("forged-", i), -1))
			time.Sleep(5 * time.Millisecond) // the rate of the hints
		}
		if n := through.polls.Load() - polls; n < 1 || n > 15 {
			t.Errorf("the agent polled %d times for up to 800 forged hints, want few", n)
		}
		must(t, checkHit(s.worker.url(), "target /three"))
		s.publishAndWait(t, "/four")
		must(t, checkTransport(s.agent, b.transport))

		// Duplicate and reordered true hints cause no more polls.
		s.publishAndWait(t, "/five")
		polls = through.polls.Load()
		a, err := call(agents, "GET", s.controller.url()+"/api/v1/config", "")
		must(t, err)
		etag := a.header.Get("ETag")
		for i := range 300 {
			b.publish(t, hint(5-i%5, etag, 0))
		}
		s.publishAndWait(t, "/six")
		if n := through.polls.Load() - polls; n > 10 {
			t.Errorf("the agent polled %d times for duplicate and reordered hints, want few", n)
		}
		if n := through.others.Load(); n > 1 { // none if it had registered before it crashed
			t.Errorf("the agent sent %d other requests, want at most one registration", n)
		}
	})
}

// A refused password is reported, but not logged, and the fleet polls. With the right
// one push works.
func TestBroker_WrongPassword_ReportedAndPolled(t *testing.T) {
	const right, wrong = "hunter2-right-0123456789", "hunter2-wrong-0123456789"
	withBrokers(t, right, func(t *testing.T, b *broker) {
		bad := b.settingsWith(b.addr, wrong)
		s := newSite(t, append(bad, "LOG_LEVEL=debug"), append(bad, "LOG_LEVEL=debug"))
		s.publishAndWait(t, "/one")
		s.waitForTransport(t, "poll")
		s.waitForPushLost(t, true)
		for _, url := range []string{s.agent.url() + "/ready", s.agent.url() + "/status",
			s.controller.url() + "/ready"} {
			a, err := call("", "GET", url, "")
			must(t, err)
			if !strings.Contains(a.body, "the credentials are refused") || strings.Contains(a.body, "hunter2") {
				t.Errorf("%s: got %v, want a reason without the credentials", url, a)
			}
		}
		s.publishAndWait(t, "/two")
		for _, p := range []*process{s.agent, s.controller} {
			must(t, p.stop())
			p.env = append(p.env, b.settings(b.addr)...)
			must(t, p.start())
		}
		s.waitForTransport(t, b.transport)
		s.waitForPushLost(t, false)
		s.publishEvery(t, "/three", 3600)
		s.waitForWorker(t, "/three")
		s.publishAndWait(t, "/four")
		for _, p := range []*process{s.agent, s.controller} {
			if strings.Contains(p.log.String(), "hunter2") {
				t.Errorf("a password is in the log of %s", p.name)
			}
		}
	})
}

// A failed announcement is repeated when the broker is back, without another publish.
func TestBroker_DownWhilePublishing_AnnouncedLater(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		between := networkTo(t, b.addr)
		s := newSite(t, append(b.settings(between.Listen), hourly), b.settings(b.addr))
		s.waitForTransport(t, b.transport)
		s.publishAndWait(t, "/first")
		between.Stop()
		s.publish(t, "/superseded")
		s.publish(t, "/newest")
		s.waitForPushLost(t, true)
		must(t, checkHit(s.worker.url(), "target /first"))
		must(t, between.Start())
		s.waitForWorker(t, "/newest")
		s.waitForPushLost(t, false)

		// Also by a controller that was restarted meanwhile.
		between.Stop()
		s.publish(t, "/before/the/crash")
		must(t, s.controller.crash())
		must(t, between.Start())
		must(t, s.controller.start())
		s.waitForWorker(t, "/before/the/crash")
	})
}

// A broker is down during a publish. When it is back, agents fetch that version long
// before their next poll.
func TestBroker_DownForAll_MissedVersionFetched(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		s := newSite(t, append(b.settings(b.addr), hourly), b.settings(b.addr))
		s.waitForTransport(t, b.transport)
		s.publishAndWait(t, "/first")
		b.kill()
		s.waitForTransport(t, "poll")
		s.publish(t, "/missed")
		s.waitForPushLost(t, true)
		b.start(t)
		s.waitForWorker(t, "/missed")
	})
}
