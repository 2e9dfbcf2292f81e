package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// published is what a publisher sent, and what was acknowledged.
type published struct {
	mu           sync.Mutex
	sent         map[string]bool  // URLs
	acknowledged map[int64]string // URLs by version
	last         int64
}

// publishLoop publishes one URL after the other until stopPublishing is called, and
// retries while the controller is down.
func publishLoop(t *testing.T, controller *process, target string) (p *published, stopPublishing func()) {
	p = &published{sent: map[string]bool{}, acknowledged: map[int64]string{}}
	done, ended := make(chan struct{}), make(chan struct{})
	address := controller.url() // the same after a restart
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			target := fmt.Sprintf("%s/publish/%06d", target, i)
			p.mu.Lock()
			p.sent[target] = true
			p.mu.Unlock()
			version, err := publish(address, target)
			if err != nil {
				time.Sleep(checkEvery)
				continue
			}
			p.mu.Lock()
			if other := p.acknowledged[version]; other != "" {
				t.Errorf("version %d was acknowledged for %s and for %s", version, other, target)
			}
			if version <= p.last {
				t.Errorf("version %d was acknowledged after version %d", version, p.last)
			}
			p.acknowledged[version], p.last = target, version
			p.mu.Unlock()
		}
	}()
	stopPublishing = sync.OnceFunc(func() { close(done); <-ended })
	t.Cleanup(stopPublishing)
	return p, stopPublishing
}

func (p *published) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acknowledged)
}

// waitForMore waits until n more versions are acknowledged, and then for a random part
// of the next publish.
func (p *published) waitForMore(t *testing.T, n int) {
	t.Helper()
	want := p.count() + n
	eventually(t, func() error {
		if got := p.count(); got < want {
			return fmt.Errorf("%d versions were acknowledged, want %d", got, want)
		}
		return nil
	})
	time.Sleep(rand.N(10 * time.Millisecond)) //nolint:forbidigo // the crash happens at a random time
}

// Law 1: an acknowledged version exists after any crash, with its content.
func TestPublish_ControllerKilled_AcknowledgedVersionsKept(t *testing.T) {
	t.Parallel()
	controller := run(t, "controller", controllerIn(t.TempDir())...)
	p, stopPublishing := publishLoop(t, controller, "http://target.example")
	for range 6 {
		p.waitForMore(t, 1+rand.IntN(20))
		must(t, controller.crash())
		must(t, controller.start())
	}
	p.waitForMore(t, 1)
	stopPublishing()
	must(t, controller.crash())
	must(t, controller.start())

	history := map[int64]string{}
	var newest int64
	for before := int64(1 << 40); before > 1; {
		page, _, err := get[[]config](admin, fmt.Sprintf("%s/api/v1/configs?limit=100&before=%d", controller.url(),
			before))
		must(t, err)
		if len(page) == 0 {
			t.Fatalf("the history ends at version %d, want it to begin with 1", before)
		}
		for _, c := range page {
			if newest == 0 {
				newest = c.Version
			} else if c.Version != before-1 {
				t.Fatalf("version %d follows version %d: want no gap", c.Version, before)
			}
			history[c.Version], before = c.Data["url"], c.Version
		}
	}
	for version, want := range p.acknowledged {
		if got := history[version]; got != want {
			t.Errorf("version %d was acknowledged as %s, and is %q", version, want, got)
		}
	}
	for version, url := range history {
		if !p.sent[url] {
			t.Errorf("version %d is %s, which was not published", version, url)
		}
	}
	current, _, err := get[config](agents, controller.url()+"/api/v1/config")
	must(t, err)
	if current.Version != newest || current.Data["url"] != history[newest] {
		t.Errorf("after the restart version %d %v is served, want %d %s", current.Version, current.Data, newest,
			history[newest])
	}
	t.Logf("%d versions were acknowledged, %d are in the history", len(p.acknowledged), len(history))
}

// Laws 2 and 5: whichever process is killed, hits use published versions only, and in
// the end the newest.
func TestHit_AnyProcessKilled_ServesPublishedVersions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := run(t, "target")
	controller := run(t, "controller", controllerIn(dir)...)
	worker := run(t, "worker")
	agent := run(t, "agent", agentIn(dir, controller.url(), worker.url())...)
	p, stopPublishing := publishLoop(t, controller, target.url())

	// A client sends hits continuously.
	served := map[string]bool{}
	done, ended := make(chan struct{}), make(chan struct{})
	hit := worker.url() + "/hit"
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			a, err := call("", "GET", hit, "")
			switch {
			case err != nil: // the worker is down
				time.Sleep(checkEvery)
			case a.status == 200:
				path, _ := strings.CutPrefix(strings.TrimSpace(a.body), "target ")
				served[target.url()+path] = true
			case a.status != 503:
				t.Errorf("a hit got %v, want 200, or 503 before the first push", a)
			}
		}
	}()

	p.waitForMore(t, 1)
	eventually(t, func() error { return checkHit(worker.url(), "target /publish/") })
	for _, victim := range []*process{worker, agent, worker, controller, agent, worker} {
		p.waitForMore(t, 1+rand.IntN(5))
		must(t, victim.crash())
		must(t, victim.start())
	}
	p.waitForMore(t, 1)
	stopPublishing()
	last := p.acknowledged[p.last]
	eventually(t, func() error { return checkHit(worker.url(), strings.TrimPrefix(last, target.url())+"\n") })
	close(done)
	<-ended
	for url := range served {
		if !p.sent[url] {
			t.Errorf("a hit used %s, which was not published", url)
		}
	}
	if len(served) < 3 {
		t.Errorf("hits used %d configurations, want at least 3", len(served))
	}
}

// fleet returns agents that share one worker, each with its own cache.
func fleet(t *testing.T, n int, controller, worker string) []*process {
	t.Helper()
	fleet := make([]*process, n)
	for i := range fleet {
		dir := filepath.Join(t.TempDir(), "agent")
		must(t, os.Mkdir(dir, 0o700))
		fleet[i] = newProcess("agent", agentIn(dir, controller, worker)...)
		cleanUp(t, fleet[i])
	}
	return fleet
}

func all(fleet []*process, do func(*process) error) error {
	errs := make([]error, len(fleet))
	var wg sync.WaitGroup
	for i, p := range fleet {
		wg.Go(func() { errs[i] = do(p) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func TestRegister_TwentyAgentsRestarted_StayTwenty(t *testing.T) {
	t.Parallel()
	controller := run(t, "controller", controllerIn(t.TempDir())...)
	worker := run(t, "worker")
	agents := fleet(t, 20, controller.url(), worker.url())
	registered := func() {
		eventually(t, func() error {
			return all(agents, func(agent *process) error {
				s, _, err := get[status]("", agent.url()+"/status")
				if err == nil && !s.Registered {
					err = fmt.Errorf("agent %s is not registered: %s", s.AgentID, s.LastError)
				}
				return err
			})
		})
	}
	must(t, all(agents, (*process).start))
	registered()
	ids := func() (ids []string) {
		eventually(t, func() error {
			ids = nil
			list, a, err := get[[]struct{ ID, Status string }](admin, controller.url()+"/api/v1/agents?status=online")
			if err != nil {
				return err
			}
			if len(list) != len(agents) || a.header.Get("X-Total-Count") != "20" {
				return fmt.Errorf("%d agents are online, want %d", len(list), len(agents))
			}
			for _, agent := range list {
				ids = append(ids, agent.ID)
			}
			return nil
		})
		return ids
	}
	before := ids()
	must(t, all(agents, (*process).crash))
	must(t, controller.crash())
	must(t, controller.start())
	must(t, all(agents, (*process).start))
	registered()
	after := ids()
	_, a, err := get[[]struct{}](admin, controller.url()+"/api/v1/agents?limit=1000")
	must(t, err)
	if got := a.header.Get("X-Total-Count"); got != "20" || strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("after the restart there are %s agents, %s, want the same 20: %s", got, after, before)
	}
}

// A lost response to a registration, or an agent that is killed before it can save the
// response, makes no second agent.
func TestRegister_LostResponse_MakesNoDuplicate(t *testing.T) {
	t.Parallel()
	controller := run(t, "controller", controllerIn(t.TempDir())...)
	base, err := url.Parse(controller.url())
	must(t, err)
	var lost atomic.Int64
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(base) },
		ModifyResponse: func(r *http.Response) error {
			if strings.HasSuffix(r.Request.URL.Path, "/register") && lost.Add(1) <= 2 {
				panic(http.ErrAbortHandler)
			}
			return nil
		},
	}
	between := httptest.NewServer(proxy)
	t.Cleanup(between.Close)
	dir := t.TempDir()
	agent := run(t, "agent", agentIn(dir, between.URL, "http://127.0.0.1:1")...)
	eventually(t, func() error {
		if got := lost.Load(); got < 1 {
			return fmt.Errorf("the agent registered %d times, want 1", got)
		}
		return nil
	})
	must(t, agent.crash())
	must(t, agent.start())
	eventually(t, func() error {
		s, _, err := get[status]("", agent.url()+"/status")
		if err == nil && !s.Registered {
			err = fmt.Errorf("the agent is not registered: %s", s.LastError)
		}
		return err
	})
	_, a, err := get[[]struct{}](admin, controller.url()+"/api/v1/agents")
	must(t, err)
	if got := a.header.Get("X-Total-Count"); got != "1" {
		t.Errorf("after %d answers were lost there are %s agents, want 1", lost.Load()-1, got)
	}
}

func TestRegister_TwoAgentsWithOneID_NoRequestStorm(t *testing.T) {
	t.Parallel()
	controller := run(t, "controller", controllerIn(t.TempDir())...)
	worker := run(t, "worker")
	var requests atomic.Int64
	base, err := url.Parse(controller.url())
	must(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { requests.Add(1); r.SetURL(base) }}
	between := httptest.NewServer(proxy)
	t.Cleanup(between.Close)

	first := t.TempDir()
	one := run(t, "agent", agentIn(first, between.URL, worker.url())...)
	eventually(t, func() error {
		s, _, err := get[status]("", one.url()+"/status")
		if err == nil && !s.Registered {
			err = errors.New("the first agent is not registered")
		}
		return err
	})
	second := t.TempDir() // a copy, as on a cloned machine
	cache, err := os.ReadFile(filepath.Join(first, "agent_config.cache"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(second, "agent_config.cache"), cache, 0o600))
	two := run(t, "agent", agentIn(second, between.URL, worker.url())...)

	begun, before := time.Now(), requests.Load()
	const window = 5 * time.Second
	time.Sleep(window) // to observe that nothing happens
	if got := requests.Load() - before; got > 40 {
		t.Errorf("two agents with one id sent %d requests in %s at an interval of 1 s, want few more than 10", got,
			time.Since(begun))
	} else {
		t.Logf("two agents with one id sent %d requests in %s", got, window)
	}
	_, a, err := get[[]struct{}](admin, controller.url()+"/api/v1/agents")
	must(t, err)
	if got := a.header.Get("X-Total-Count"); got != "1" {
		t.Errorf("two agents with one id are %s agents, want 1", got)
	}
	// Both apply a published version.
	if _, err := publish(controller.url(), "http://target.example/both"); err != nil {
		t.Fatal(err)
	}
	for _, agent := range []*process{one, two} {
		eventually(t, func() error {
			s, _, err := get[status]("", agent.url()+"/status")
			if err == nil && (s.AppliedVersion == nil || *s.AppliedVersion != 1) {
				err = fmt.Errorf("%s runs %v, want version 1; %s", s.AgentID, s.AppliedVersion, s.LastError)
			}
			return err
		})
	}
}
