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
	a, err := call(admin, "POST", s.controller.url()+"/api/v1/config", fmt.Sprintf(`{"url":%q,"poll_interval_seconds":%d}`, s.target.url()+page, seconds))
	must(t, err)
	if a.status != 200 {
		t.Fatalf("publish: got %v, want 200", a)
	}
}

// A broker that is not there, or swallows all that it is told, delays neither
// the start of anybody nor a publish; the fleet polls until it comes.
func TestBroker_DownAtStart_FleetPolls(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		for name, down := range map[string]struct{ begin, end func(t *testing.T, n network) }{
			"refuses":  {func(_ *testing.T, n network) { n.Stop() }, func(t *testing.T, n network) { must(t, n.Start()) }},
			"swallows": {func(t *testing.T, n network) { n.swallow(t) }, func(t *testing.T, n network) { n.heal(t) }},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				between := networkTo(t, b.addr)
				down.begin(t, between)
				settings := b.settings(between.Listen)
				s := newSite(t, settings, settings)
				s.publish(t, "/one")
				if name == "swallows" {
					must(t, s.announces(false)) // it was answered before anybody knew of the loss
				}
				s.runs(t, "/one")
				s.tells(t, true)
				s.hears(t, "poll")
				s.arrives(t, "/two")

				down.end(t, between)
				s.hears(t, b.transport)
				s.tells(t, false)
				s.publishEvery(t, "/three", 3600)
				s.runs(t, "/three")
				s.arrives(t, "/four")
				for words, p := range map[string]*process{"Announcements lost": s.controller, "Announcements back": s.controller, "Push lost": s.agent, "Push healthy": s.agent} {
					if n := strings.Count(p.log.String(), words); n != 1 {
						t.Errorf("%s logged %q %d times, want once", p.name, words, n)
					}
				}
			})
		}
	})
}

// A broker dies and comes back, again and again: each loss is told, each return
// too, and then push is as good as before.
func TestBroker_Restarts_PushResumes(t *testing.T) {
	withBrokers(t, "hunter2-0123456789", func(t *testing.T, b *broker) {
		s := newSite(t, append(b.settings(b.addr), hour), b.settings(b.addr))
		s.hears(t, b.transport)
		s.arrives(t, "/first")
		for i := range 2 {
			b.kill()
			s.hears(t, "poll")
			s.publish(t, fmt.Sprintf("/missed/%d", i))
			s.tells(t, true)
			b.start(t)
			s.hears(t, b.transport)
			s.tells(t, false)
			s.arrives(t, fmt.Sprintf("/heard/%d", i))
		}
	})
}

// The network flaps, and cuts and resets connections in the middle of things:
// nobody asks the controller more often for it, and all is well when it is.
func TestBroker_NetworkFails_PushResumes(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		between := networkTo(t, b.addr)
		settings := b.settings(between.Listen)
		s := newSite(t, append(settings, hour), []string{"PUSH=none"})
		through := countTo(t, s.controller)
		must(t, s.agent.crash())
		s.agent.env = append(s.agent.env, append(settings, "CONTROLLER_URL="+through.URL)...)
		must(t, s.agent.start())
		s.hears(t, b.transport)
		s.arrives(t, "/first")
		polls := through.polls.Load()

		for range 3 { // seen by nobody, or by all
			between.Stop()
			must(t, between.Start())
		}
		between.Stop()
		s.hears(t, "poll")
		s.publish(t, "/missed")
		must(t, between.Start())
		s.hears(t, b.transport)
		between.poison(t, "limit_data", `{"bytes":20}`)
		between.Stop()
		must(t, between.Start())
		s.hears(t, "poll")
		s.publish(t, "/missed/again")
		s.tells(t, true)
		between.heal(t)
		between.poison(t, "reset_peer", `{"timeout":1}`)
		s.publish(t, "/missed/once/more")
		s.tells(t, true)
		between.heal(t)

		s.hears(t, b.transport)
		s.tells(t, false)
		s.arrives(t, "/last")
		if n := through.polls.Load() - polls; n > 12 { // one for each of five publishes, and few besides
			t.Errorf("the agent polled %d times while the network failed", n)
		}
		if n := through.others.Load(); n > 1 { // none if it had registered before it crashed
			t.Errorf("the agent asked for something else %d times, want one registration at most", n)
		}
	})
}

// A broker hangs while all believe that it is well. Who publishes is answered,
// who listens sweeps; when it is back, it is heard again.
func TestBroker_Hangs_AgentsResync(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		before, behind := networkTo(t, b.addr), networkTo(t, b.addr)
		s := newSite(t, append(b.settings(before.Listen), "DEFAULT_POLL_INTERVAL=1", "SWEEP_INTERVAL=2s"), append(b.settings(behind.Listen), "LOG_LEVEL=debug"))
		s.hears(t, b.transport)
		s.arrives(t, "/first")

		behind.swallow(t)
		s.arrives(t, "/swept")
		must(t, hears(s.agent, b.transport)) // it does not know
		before.swallow(t)
		s.publish(t, "/swept/too")
		must(t, s.announces(false)) // answered before anybody knew
		s.runs(t, "/swept/too")
		s.tells(t, true)

		behind.heal(t) // which ends what hung
		s.agent.says(t, "Push healthy", 2)
		before.heal(t)
		s.tells(t, false)
		version := s.publish(t, "/heard")
		s.runs(t, "/heard")
		eventually(t, func() error {
			for line := range strings.Lines(s.agent.log.String()) {
				var event struct {
					Msg     string
					Version int64
				}
				if json.Unmarshal([]byte(line), &event) == nil && event.Msg == "Hint heard" && event.Version == version {
					return nil
				}
			}
			return fmt.Errorf("the agent did not hear of version %d", version)
		})
	})
}

// Whatever a broker says, the agent asks the controller, seldom, and its worker
// runs nothing that was not published.
func TestBroker_ForgedHints_FewPolls(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		settings := b.settings(b.addr)
		s := newSite(t, append(settings, hour), []string{"PUSH=none"})
		through := countTo(t, s.controller)
		must(t, s.agent.crash())
		s.agent.env = append(s.agent.env, append(settings, "CONTROLLER_URL="+through.URL)...)
		must(t, s.agent.start())
		s.hears(t, b.transport)
		s.arrives(t, "/one")
		s.arrives(t, "/two")

		hint := func(version any, etag string, spread any) string {
			return fmt.Sprintf(`{"version":%v,"etag":%q,"spread_ms":%v}`, version, etag, spread)
		}
		// What is no news, or no hint, is not worth a request.
		polls := through.polls.Load()
		for range 20 {
			b.say(t, hint(1, "old", 0), hint(0, "", 0), hint(-5, "", 0), hint("1e30", "", 0), hint(9223372036854775807, "x", `"soon"`), `{"version":`, `[]`, `null`, "",
				"\x00\xff\r\n+OK\r\nMSG fleetconf.config 1 99999999999\r\n$99999999999\r\n", strings.Repeat("x", 900<<10))
		}
		b.say(t, hint(3, "three", 300_000), hint(4, "four", int64(1)<<62)) // some day
		must(t, hears(s.agent, b.transport))
		if n := through.polls.Load() - polls; n != 0 {
			t.Errorf("the agent polled %d times for what is no news, want none", n)
		}
		// Nobody is to hold it back with a spread without end.
		s.arrives(t, "/three")

		// Forged news are worth one, and then fewer and fewer.
		polls = through.polls.Load()
		for i := range 400 {
			b.say(t, hint(999_999_999, "forged", 0), hint(1_000_000+i, fmt.Sprint("forged-", i), -1))
			time.Sleep(5 * time.Millisecond) // a pace, not a deadline
		}
		if n := through.polls.Load() - polls; n < 1 || n > 15 {
			t.Errorf("the agent polled %d times for 800 forged hints, want few", n)
		}
		must(t, hits(s.worker.url(), "target /three"))
		s.arrives(t, "/four")
		must(t, hears(s.agent, b.transport))

		// The truth, many times and in any order, is worth no more.
		s.arrives(t, "/five")
		polls = through.polls.Load()
		a, err := call(agents, "GET", s.controller.url()+"/api/v1/config", "")
		must(t, err)
		etag := a.header.Get("ETag")
		for i := range 300 {
			b.say(t, hint(5-i%5, etag, 0))
		}
		s.arrives(t, "/six")
		if n := through.polls.Load() - polls; n > 10 {
			t.Errorf("the agent polled %d times for hints that came doubled and out of order, want few", n)
		}
		if n := through.others.Load(); n > 1 { // none if it had registered before it crashed
			t.Errorf("the agent asked for something else %d times, want one registration at most", n)
		}
	})
}

// A password that is refused is told, and told to nobody: the fleet polls. With
// the right one push works.
func TestBroker_WrongPassword_ReportedAndPolled(t *testing.T) {
	const right, wrong = "hunter2-right-0123456789", "hunter2-wrong-0123456789"
	withBrokers(t, right, func(t *testing.T, b *broker) {
		bad := b.settingsWith(b.addr, wrong)
		s := newSite(t, append(bad, "LOG_LEVEL=debug"), append(bad, "LOG_LEVEL=debug"))
		s.arrives(t, "/one")
		s.hears(t, "poll")
		s.tells(t, true)
		for _, url := range []string{s.agent.url() + "/ready", s.agent.url() + "/status", s.controller.url() + "/ready"} {
			a, err := call("", "GET", url, "")
			must(t, err)
			if !strings.Contains(a.body, "the credentials are refused") || strings.Contains(a.body, "hunter2") {
				t.Errorf("%s: got %v, want words on the credentials, without them", url, a)
			}
		}
		s.arrives(t, "/two")
		for _, p := range []*process{s.agent, s.controller} {
			must(t, p.stop())
			p.env = append(p.env, b.settings(b.addr)...)
			must(t, p.start())
		}
		s.hears(t, b.transport)
		s.tells(t, false)
		s.publishEvery(t, "/three", 3600)
		s.runs(t, "/three")
		s.arrives(t, "/four")
		for _, p := range []*process{s.agent, s.controller} {
			if strings.Contains(p.log.String(), "hunter2") {
				t.Errorf("a password is in the log of %s", p.name)
			}
		}
	})
}

// What could not be announced is announced when the broker is back, though
// nothing else is published.
func TestBroker_DownWhilePublishing_AnnouncedLater(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		between := networkTo(t, b.addr)
		s := newSite(t, append(b.settings(between.Listen), hour), b.settings(b.addr))
		s.hears(t, b.transport)
		s.arrives(t, "/first")
		between.Stop()
		s.publish(t, "/superseded")
		s.publish(t, "/newest")
		s.tells(t, true)
		must(t, hits(s.worker.url(), "target /first"))
		must(t, between.Start())
		s.runs(t, "/newest")
		s.tells(t, false)

		// A controller that dies before it could say so says so when it is back.
		between.Stop()
		s.publish(t, "/before/the/crash")
		must(t, s.controller.crash())
		must(t, between.Start())
		must(t, s.controller.start())
		s.runs(t, "/before/the/crash")
	})
}

// A broker is away while something is published, for all. When it is back the
// fleet runs that, long before it would have polled.
func TestBroker_DownForAll_MissedVersionFetched(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		s := newSite(t, append(b.settings(b.addr), hour), b.settings(b.addr))
		s.hears(t, b.transport)
		s.arrives(t, "/first")
		b.kill()
		s.hears(t, "poll")
		s.publish(t, "/missed")
		s.tells(t, true)
		b.start(t)
		s.runs(t, "/missed")
	})
}
