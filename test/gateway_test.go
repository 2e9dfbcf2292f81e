package test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dropETags starts a gateway that removes ETags from responses, as Envoy's compressor
// does by default, and If-None-Match from requests.
func dropETags(t *testing.T, controller string) (gateway string) {
	t.Helper()
	target, err := url.Parse(controller)
	must(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Del("If-None-Match")
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Del("ETag")
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0), // while the controller is down
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

// Behind such a gateway agents long-poll, no version is pushed twice, and a restored
// database does not downgrade agents.
func TestGateway_ETagsDropped_FleetFollows(t *testing.T) {
	t.Parallel()
	dir, cacheDir := t.TempDir(), t.TempDir()
	s := &site{target: run(t, "target"), worker: run(t, "worker"),
		controller: run(t, "controller", append(controllerIn(dir), hourly)...)}
	through := newCounter(t, s.controller)
	s.agent = run(t, "agent", agentIn(cacheDir, dropETags(t, through.URL), s.worker.url())...)
	s.waitForTransport(t, "longpoll")
	s.publishAndWait(t, "/old")
	must(t, backUp(dir, "old.db"))
	s.publishAndWait(t, "/newer")
	s.waitForTransport(t, "longpoll")
	if n := through.polls.Load(); n > 8 { // each version is fetched and reported once
		t.Errorf("the agent polled %d times for two versions", n)
	}

	must(t, s.controller.crash())
	restoreOld(t, dir)
	must(t, s.controller.start())
	listed := func(wanted ...string) {
		t.Helper()
		eventually(t, func() error {
			a, err := call(admin, "GET", s.controller.url()+"/api/v1/agents", "")
			for _, want := range wanted {
				if err == nil && !strings.Contains(a.body, want) {
					err = fmt.Errorf("the list: got %v, want %s", a, want)
				}
			}
			return err
		})
	}
	listed(`"status":"conflict","desired_version":1,`, `"applied_version":2,`)
	must(t, checkHit(s.worker.url(), "target /newer"))
	a, err := call(admin, "POST", s.controller.url()+"/api/v1/agents/resume", "")
	must(t, err)
	if a.status != http.StatusOK || !strings.Contains(a.body, `"changed":true`) {
		t.Errorf("resume: got %v", a)
	}
	s.waitForWorker(t, "/old")
	s.publishAndWait(t, "/last")

	// Edit the agent's cache, with its checksum.
	must(t, s.agent.stop())
	edit(t, filepath.Join(cacheDir, "agent_config.cache"), "/last", "/edited")
	must(t, s.agent.start())
	s.controller.waitForLog(t, "Agent content mismatch detected", 1)
	s.waitForWorker(t, "/last")
	listed(`"content_mismatch":false`)
}

// restoreOld puts a backup in the place of the database of a controller that is not
// running.
func restoreOld(t *testing.T, dir string) {
	t.Helper()
	for _, suffix := range []string{"-wal", "-shm"} {
		_ = os.Remove(filepath.Join(dir, "controller.db"+suffix))
	}
	old, err := os.ReadFile(filepath.Join(dir, "old.db"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "controller.db"), old, 0o600))
}

// edit replaces a text in an agent's cache, and its checksum.
func edit(t *testing.T, path, old, with string) {
	t.Helper()
	document, err := os.ReadFile(path)
	must(t, err)
	head, payload, _ := bytes.Cut(document, []byte("\n"))
	changed := bytes.ReplaceAll(payload, []byte(old), []byte(with))
	words := strings.Fields(string(head))
	if len(words) != 3 || bytes.Equal(changed, payload) {
		t.Fatalf("the cache is %.200q", document)
	}
	must(t, os.WriteFile(path, append(fmt.Appendf(nil, "%s %s %x\n", words[0], words[1], sha256.Sum256(changed)),
		changed...), 0o600))
}

// nginx weakens the ETags of what it compresses. Agents do not have it compress, and the
// controller recognizes a weak ETag that comes back.
func TestGateway_Compressing_FleetFollows(t *testing.T) {
	t.Parallel()
	s := newSite(t, []string{hourly}, []string{"PUSH=none"})
	through := newBalancer(t, "nginx",
		"gzip on; gzip_types application/json; gzip_proxied any; gzip_min_length 0; proxy_read_timeout 330s;",
		s.controller.url())
	must(t, s.agent.crash())
	s.agent.env = append(s.agent.env, "PUSH=longpoll", "CONTROLLER_URL="+through)
	must(t, s.agent.start())
	s.waitForTransport(t, "longpoll")
	s.publishAndWait(t, "/one")
	s.publishAndWait(t, "/two")
	poll := func(headers ...string) answer {
		a, err := call(agents, "GET", through+"/api/v1/config", "", headers...)
		must(t, err)
		return a
	}
	weak := poll("Accept-Encoding: gzip").header.Get("ETag")
	if !strings.HasPrefix(weak, `W/"`) {
		t.Fatalf("got the ETag %s, want one that nginx weakened", weak)
	}
	if strong := poll("Accept-Encoding: identity").header.Get("ETag"); "W/"+strong != weak {
		t.Errorf("without compression: got the ETag %s, want %s as the controller sent it", strong, weak)
	}
	if a := poll("If-None-Match: "+weak, "Accept-Encoding: gzip"); a.status != http.StatusNotModified {
		t.Errorf("with what nginx made of the ETag: got %v, want 304", a)
	}
}

// Two fleets share a broker: a publish of one wakes no agent of the other.
func TestBroker_TwoFleets_IgnoreEachOther(t *testing.T) {
	withBrokers(t, "", func(t *testing.T, b *broker) {
		settings := append(b.settings(b.addr), "FLEET_ID=")
		sites := make([]*site, 2)
		counters := make([]*counter, 2)
		for i := range sites {
			sites[i] = newSite(t, append(settings, hourly), []string{"PUSH=none"})
			counters[i] = newCounter(t, sites[i].controller)
			must(t, sites[i].agent.crash())
			sites[i].agent.env = append(sites[i].agent.env, append(settings, "CONTROLLER_URL="+counters[i].URL)...)
			must(t, sites[i].agent.start())
			sites[i].waitForTransport(t, b.transport)
			sites[i].publishAndWait(t, "/first")
			sites[i].publishAndWait(t, "/second") // by a hint of its own fleet
		}
		before := counters[0].polls.Load()
		for i := range 5 {
			sites[1].publishAndWait(t, fmt.Sprint("/", i))
		}
		if n := counters[0].polls.Load() - before; n > 0 {
			t.Errorf("the agent of one fleet polled %d times for publishes of the other", n)
		}
		sites[0].publishAndWait(t, "/last")
	})
}
