package test

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// No secret appears in logs at the debug level, in responses or in a file that other
// users can read, whatever fails.
func TestSystem_DebugLevel_ShowsNoSecret(t *testing.T) {
	const (
		adminPassword = "canary-of-the-admin-8831"
		fleetPassword = "canary-of-the-fleet-5127"
		workerToken   = "canary-of-the-worker-token-90"
		proxyPassword = "canary-of-the-proxy-6604"
		urlKey        = "canary-in-the-url-3317"
		wrongPassword = "canary-of-a-wrong-password-71"
		ownSecret     = "canary-of-an-agent-secret-1982"
	)
	withBrokers(t, "canary-of-the-broker-4409", func(t *testing.T, b *broker) {
		secrets := map[string]string{
			"ADMIN_PASSWORD": adminPassword, "AGENT_PASSWORD": fleetPassword, "WORKER_TOKEN": workerToken,
			"the broker's password": b.password,
			"the proxy's password":  proxyPassword, "the key in the URL": urlKey, "a wrong password": wrongPassword,
			"a chosen agent_secret": ownSecret,
		}
		outputs := map[string]string{}
		dir, target := t.TempDir(), run(t, "target")
		const debug = "LOG_LEVEL=debug"
		proxy := []string{"HTTP_PROXY=http://user:" + proxyPassword + "@127.0.0.1:1",
			"HTTPS_PROXY=http://user:" + proxyPassword + "@127.0.0.1:1"}
		controller := run(t, "controller", append(append(controllerIn(dir), b.settings(b.addr)...), debug,
			"ADMIN_PASSWORD="+adminPassword, "AGENT_PASSWORD="+fleetPassword)...)
		worker := run(t, "worker", append(proxy, debug, "WORKER_TOKEN="+workerToken, "HIT_TIMEOUT=1s")...)
		proxied := run(t, "worker", append(proxy, debug, "WORKER_TOKEN="+workerToken, "HIT_PROXY=true")...)
		settings := append(append(agentIn(dir, controller.url(), worker.url()), b.settings(b.addr)...), proxy...)
		agent := run(t, "agent", append(settings, debug, "CONTROLLER_PASSWORD="+fleetPassword,
			"WORKER_TOKEN="+workerToken)...)
		all := []*process{controller, worker, proxied, agent}

		ask := func(who, method, url, body string, header ...string) answer {
			t.Helper()
			a, err := call(who, method, url, body, header...)
			must(t, err)
			outputs[fmt.Sprintf("%s %s (%d)", method, url, len(outputs))] = fmt.Sprint(a.header, a.body)
			return a
		}
		owner := "admin:" + adminPassword
		publish := func(path string, probe bool) {
			t.Helper()
			url := target.url() + path + "&key=" + urlKey
			if strings.HasPrefix(path, "http") {
				url = path + "?key=" + urlKey
			}
			if a := ask(owner, "POST", controller.url()+"/api/v1/config",
				fmt.Sprintf(`{"url":%q,"probe":%t}`, url, probe)); a.status != 200 {
				t.Fatalf("publish: got %v", a)
			}
		}
		listed := func(want string) {
			t.Helper()
			eventually(t, func() error {
				a, err := call(owner, "GET", controller.url()+"/api/v1/agents", "")
				if err == nil && !strings.Contains(a.body, want) {
					err = fmt.Errorf("the list has %v, want %s", a, want)
				}
				return err
			})
		}

		publish("/hello?a=b", false)
		eventually(t, func() error { return checkHit(worker.url(), "target /hello") })
		publish("/status/500?a=b", true) // which the worker refuses
		listed(`"status":"failed"`)
		for _, path := range []string{"http://127.0.0.1:1/", "/slow?for=1m",
			"/redirect?to=http://127.0.0.1:1/?key=" + urlKey} {
			publish(path, false)
			eventually(t, func() error {
				a, err := call("", "GET", worker.url()+"/hit", "")
				if err == nil && a.status < 500 {
					err = fmt.Errorf("the hit: got %v, want a failure", a)
				}
				outputs["the last hit of "+path] = fmt.Sprint(a.header, a.body)
				return err
			})
		}
		ask("", "POST", proxied.url()+"/config", `{"url":"http://target.example/?key=`+urlKey+`"}`,
			"Authorization: Bearer "+workerToken)
		ask("", "GET", proxied.url()+"/hit", "")

		// Secrets in wrong places, and wrong secrets.
		ask(adminPassword+":admin", "GET", controller.url()+"/api/v1/agents", "")
		ask("admin:"+wrongPassword, "GET", controller.url()+"/api/v1/agents", "")
		ask("agent:"+fleetPassword, "GET", controller.url()+"/api/v1/agents", "")
		ask("agent:"+fleetPassword, "POST", controller.url()+"/api/v1/register",
			`{"hostname":"h","agent_secret":"`+ownSecret+`","unknown":1}`)
		ask("agent:"+fleetPassword, "POST", controller.url()+"/api/v1/register",
			`{"hostname":"h","agent_secret":["`+ownSecret+`"]}`)
		ask("", "POST", worker.url()+"/config", `{"url":"http://u:`+urlKey+`@target.example/"}`,
			"Authorization: Bearer "+workerToken)
		ask("", "POST", worker.url()+"/config", `{"url":"http://target.example/"}`,
			"Authorization: Bearer "+wrongPassword)
		ask(owner, "POST", controller.url()+"/api/v1/config", `{"url":"http://target.example:port/?key=`+urlKey+`"}`)

		// Everything fails and restarts.
		b.kill()
		eventually(t, func() error { return checkTransport(agent, "poll") })
		b.start(t)
		eventually(t, func() error { return checkTransport(agent, b.transport) })
		must(t, worker.crash())
		must(t, worker.start())
		must(t, controller.crash())
		publishedAgain := func() error { _, err := call(owner, "GET", controller.url()+"/ready", ""); return err }
		must(t, controller.start())
		eventually(t, publishedAgain)
		publish("/hello?again=1", false)
		eventually(t, func() error { return checkHit(worker.url(), "target /hello") })

		cache := contents(filepath.Join(dir, "agent_config.cache"))
		for _, field := range []string{"agent_token", "agent_secret"} {
			value := regexp.MustCompile(`"` + field + `":\s*"([^"]+)"`).FindStringSubmatch(cache)
			if value == nil {
				t.Fatalf("the agent's cache has no %s: this test cannot check it", field)
			}
			secrets["the agent's "+field] = value[1]
		}

		for _, path := range []string{"/", "/ready", "/metrics", "/version"} {
			for _, p := range all {
				ask("", "GET", p.url()+path, "")
			}
		}
		for _, path := range []string{"agents", "agents/summary", "audit", "freeze", "rollouts/1", "rollouts/2"} {
			ask(owner, "GET", controller.url()+"/api/v1/"+path, "")
		}
		ask("", "GET", agent.url()+"/status", "")
		if a := ask("", "GET", worker.url()+"/config", ""); a.status != http.StatusUnauthorized {
			t.Errorf("GET /config without the token: got %v, want 401", a)
		}
		for _, p := range all {
			must(t, p.stop())
			outputs["the log of "+p.name+" on "+p.port] = p.log.String()
			for _, args := range [][]string{{"--print", "settings"}, {"--help"}, {"version"}} {
				out, err := command(filepath.Join(binaries, p.name), append(p.env, "PORT=0"), args...).CombinedOutput()
				if err != nil {
					t.Errorf("%s %v: %v\n%s", p.name, args, err, out)
				}
				outputs[p.name+" "+strings.Join(args, " ")] = string(out)
			}
		}
		must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o044 != 0 {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				outputs["the file "+filepath.Base(path)+", which others can read"] = string(text)
			}
			return err
		}))

		for name, secret := range secrets {
			for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte("admin:" + secret)),
				base64.StdEncoding.EncodeToString([]byte("agent:" + secret))} {
				for place, text := range outputs {
					if at := strings.Index(text, form); at >= 0 {
						t.Errorf("%s is in %s: …%s…", name, place,
							text[max(0, at-150):min(len(text), at+len(form)+50)])
					}
				}
			}
		}
		if len(outputs["the log of agent on "+agent.port]) == 0 ||
			!strings.Contains(outputs["the log of worker on "+worker.port], `"level":"debug"`) {
			t.Error("the logs are empty or not at the debug level: this test cannot check them")
		}
	})
}
