package test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// hourly is a poll interval with which only push delivers a version before the timeout.
// The default resync interval is longer than the timeout, too.
const hourly = "DEFAULT_POLL_INTERVAL=3600"

// site is a controller and an agent with its worker.
type site struct {
	target, controller, worker, agent *process
}

// newSite starts a site, with additional settings.
func newSite(t *testing.T, controller, agent []string) *site {
	t.Helper()
	s := &site{target: run(t, "target"), worker: run(t, "worker")}
	s.controller = run(t, "controller", append(controllerIn(t.TempDir()), controller...)...)
	s.agent = run(t, "agent", append(agentIn(t.TempDir(), s.controller.url(), s.worker.url()), agent...)...)
	return s
}

// publish publishes a page of the target, and returns the version.
func (s *site) publish(t *testing.T, page string) int64 {
	t.Helper()
	version, err := publish(s.controller.url(), s.target.url()+page)
	must(t, err)
	return version
}

// waitForWorker waits until the worker runs a page.
func (s *site) waitForWorker(t *testing.T, page string) {
	t.Helper()
	eventually(t, func() error { return checkHit(s.worker.url(), "target "+page) })
}

// publishAndWait publishes a page and waits until the worker runs it.
func (s *site) publishAndWait(t *testing.T, page string) {
	t.Helper()
	s.publish(t, page)
	s.waitForWorker(t, page)
}

// waitForTransport waits until the agent uses a transport, by /status and /ready.
func (s *site) waitForTransport(t *testing.T, transport string) {
	t.Helper()
	eventually(t, func() error { return checkTransport(s.agent, transport) })
}

func checkTransport(agent *process, transport string) error {
	self, a, err := get[status]("", agent.url()+"/status")
	if err != nil {
		return err
	}
	if lost := transport == "poll"; self.Transport != transport || self.Push.Healthy == lost || lost &&
		self.Push.Error == "" {
		return fmt.Errorf("/status has %s, want transport %s", a.body, transport)
	}
	a, err = call("", "GET", agent.url()+"/ready", "")
	if err != nil {
		return err
	}
	if a.status != http.StatusOK || strings.Contains(a.body, `"field":"push"`) != (transport == "poll") {
		return fmt.Errorf("/ready has %v, want 200, with push mentioned only if it is lost; the transport is %s", a,
			transport)
	}
	return nil
}

// waitForPushLost waits until the controller's /ready reports its announcements as lost,
// or not. It is ready in both cases.
func (s *site) waitForPushLost(t *testing.T, lost bool) {
	t.Helper()
	eventually(t, func() error { return s.checkPushLost(lost) })
}

func (s *site) checkPushLost(lost bool) error {
	a, err := call("", "GET", s.controller.url()+"/ready", "")
	if err == nil && (a.status != http.StatusOK || strings.Contains(a.body, "push: ") != lost) {
		err = fmt.Errorf("the controller's /ready: got %v, want 200, and push mentioned: %v", a, lost)
	}
	return err
}

// waitForLog waits until a process has logged text n times, including before restarts.
func (p *process) waitForLog(t *testing.T, text string, n int) {
	t.Helper()
	eventually(t, func() error {
		if said := strings.Count(p.log.String(), text); said != n {
			return fmt.Errorf("%s logged %q %d times, want %d", p.name, text, said, n)
		}
		return nil
	})
}

// With every transport all agents apply a published version, although they poll only
// once an hour.
func TestPush_NoPolling_VersionArrives(t *testing.T) {
	t.Parallel()
	type sides struct{ controller, agent []string }
	for name, settings := range map[string]func(t *testing.T) sides{
		"longpoll": func(*testing.T) sides { return sides{} },
		"redis": func(t *testing.T) sides {
			b := newRedis(t, "")
			return sides{b.settings(b.addr), b.settings(b.addr)}
		},
		"nats": func(t *testing.T) sides {
			b := newNATS(t, "")
			return sides{b.settings(b.addr), b.settings(b.addr)}
		},
		"nats, embedded": func(t *testing.T) sides {
			addr := freeAddress(t)
			return sides{[]string{"PUSH=nats", "NATS_URL=embedded", "NATS_LISTEN=" + addr},
				[]string{"PUSH=nats", "NATS_URL=nats://" + addr}}
		},
		"longpoll at a controller with a broker": func(t *testing.T) sides {
			b := newRedis(t, "")
			return sides{controller: b.settings(b.addr)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transport, _, _ := strings.Cut(name, " ")
			transport = strings.TrimSuffix(transport, ",")
			settings := settings(t)
			s := newSite(t, append(settings.controller, hourly), settings.agent)
			other := *s
			other.worker = run(t, "worker")
			other.agent = run(t, "agent", append(agentIn(t.TempDir(), s.controller.url(), other.worker.url()),
				settings.agent...)...)
			s.waitForTransport(t, transport)
			other.waitForTransport(t, transport)
			for _, page := range []string{"/one", "/two", "/three"} {
				s.publishAndWait(t, page)
				other.waitForWorker(t, page)
			}
			eventually(t, func() error {
				list, a, err := get[[]struct{ Transport string }](admin, s.controller.url()+"/api/v1/agents")
				if err == nil && (len(list) != 2 || list[0].Transport != transport || list[1].Transport != transport) {
					err = fmt.Errorf("the agents: got %v, want two with transport %s", a, transport)
				}
				return err
			})
			sum, a, err := get[struct {
				ByTransport map[string]int `json:"by_transport"`
			}](admin, s.controller.url()+"/api/v1/agents/summary")
			must(t, err)
			if sum.ByTransport[transport] != 2 {
				t.Errorf("the summary: got %v, want two with transport %s", a, transport)
			}
			must(t, s.checkPushLost(false))
			for _, agent := range []*process{s.agent, other.agent} {
				if n := strings.Count(agent.log.String(), "Push healthy"); n != 1 {
					t.Errorf("the agent logged Push healthy %d times, want once", n)
				}
			}
		})
	}
}

// Agents of a controller with PUSH=none poll, and report the reason.
func TestPush_None_AgentsPoll(t *testing.T) {
	t.Parallel()
	s := newSite(t, []string{"PUSH=none"}, nil)
	s.waitForTransport(t, "poll")
	self, a, err := get[status]("", s.agent.url()+"/status")
	must(t, err)
	if !strings.Contains(self.Push.Error, "PUSH") {
		t.Errorf("/status: got %v, want the controller's PUSH mentioned", a)
	}
	s.publishAndWait(t, "/one")
	s.publishAndWait(t, "/two")
	if n := strings.Count(s.agent.log.String(), "Push lost"); n != 1 {
		t.Errorf("the agent logged Push lost %d times, want once", n)
	}

	// An agent with PUSH=none polls, without a warning.
	worker := run(t, "worker")
	agent := run(t, "agent", append(agentIn(t.TempDir(), s.controller.url(), worker.url()), "PUSH=none")...)
	eventually(t, func() error { return checkHit(worker.url(), "target /two") })
	a, err = call("", "GET", agent.url()+"/ready", "")
	must(t, err)
	if a.status != http.StatusOK || strings.Contains(a.body, "push") {
		t.Errorf("/ready of an agent with PUSH=none: got %v, want 200 without push", a)
	}
}
