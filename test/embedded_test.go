package test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// embeddedSettings returns the settings of a controller with an embedded broker.
func embeddedSettings(addr string, more ...string) []string {
	return append([]string{"FLEET_ID=" + fleetID, "PUSH=nats", "NATS_URL=embedded", "NATS_LISTEN=" + addr}, more...)
}

// connectNATS connects to NATS. refused gets the errors of the connection.
func connectNATS(t *testing.T, url string, options ...nats.Option) (c *nats.Conn, refused chan error) {
	t.Helper()
	refused = make(chan error, 10)
	c, err := nats.Connect(url, append(options,
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))...)
	must(t, err)
	t.Cleanup(c.Close)
	return c, refused
}

// The embedded broker uses TLS and a password. Agents can subscribe, but not publish.
func TestEmbedded_AgentCredentials_SubscribeOnly(t *testing.T) {
	t.Parallel()
	ca, cert, key := certificates(t)
	addr := freeAddress(t)
	const password = "hunter2-0123456789"
	account := []string{"NATS_USERNAME=fleet", "NATS_PASSWORD=" + password}
	s := newSite(t, append(embeddedSettings(addr, "NATS_TLS_CERT_FILE="+cert, "NATS_TLS_KEY_FILE="+key, hourly),
		account...),
		append([]string{"PUSH=nats", "NATS_URL=tls://" + addr, "NATS_CA_FILE=" + ca}, account...))
	s.waitForTransport(t, "nats")
	s.publishAndWait(t, "/one")

	for name, row := range map[string]struct {
		settings []string
		want     string
	}{
		"wrong password": {[]string{"NATS_URL=tls://" + addr, "NATS_CA_FILE=" + ca, "NATS_USERNAME=fleet",
			"NATS_PASSWORD=hunter2-wrong"}, "credentials are refused"},
		"no password": {[]string{"NATS_URL=tls://" + addr, "NATS_CA_FILE=" + ca}, "credentials are refused"},
		"no authority to trust": {append([]string{"NATS_URL=tls://" + addr}, account...),
			"signed by an authority that is not known here"},
	} {
		t.Run(name, func(t *testing.T) {
			worker := run(t, "worker")
			agent := run(t, "agent", append(append(agentIn(t.TempDir(), s.controller.url(), worker.url()),
				"PUSH=nats"), row.settings...)...)
			eventually(t, func() error { return checkTransport(agent, "poll") })
			eventually(t, func() error { return checkHit(worker.url(), "target /one") })
			self, _, err := get[status]("", agent.url()+"/status")
			must(t, err)
			if !strings.Contains(self.Push.Error, row.want) {
				t.Errorf("/status: got %q, want %q in it", self.Push.Error, row.want)
			}
			if strings.Contains(agent.log.String(), "hunter2") {
				t.Error("a password is in the log")
			}
		})
	}

	trusted := x509.NewCertPool()
	pem, err := os.ReadFile(ca)
	must(t, err)
	trusted.AppendCertsFromPEM(pem)
	c, refused := connectNATS(t, "tls://"+addr, nats.UserInfo("fleet", password),
		nats.Secure(&tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}))
	must(t, c.Publish(subject, []byte(`{"version":999999999,"etag":"forged","spread_ms":0}`)))
	must(t, c.Flush())
	if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("an agent that publishes: got %v, want a permission violation", err)
	}
	_, err = c.SubscribeSync("other.subject")
	must(t, err)
	must(t, c.Flush())
	if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("an agent that subscribes to another subject: got %v, want a permission violation", err)
	}
	s.publishAndWait(t, "/two")
	must(t, s.controller.crash())
	s.waitForTransport(t, "poll")
	must(t, s.controller.start())
	s.waitForTransport(t, "nats")
	s.publishAndWait(t, "/three")
	if strings.Contains(s.controller.log.String()+s.agent.log.String(), "hunter2") {
		t.Error("a password is in a log")
	}
}

// Controllers in a cluster announce to the subscribers of all of them.
func TestEmbedded_Cluster_AnnouncesToAll(t *testing.T) {
	t.Parallel()
	var agentsAt, peersAt [2]string
	for i := range agentsAt {
		agentsAt[i], peersAt[i] = freeAddress(t), freeAddress(t)
	}
	var controllers [2]*process
	for i := range controllers {
		controllers[i] = run(t, "controller",
			append(controllerIn(t.TempDir()),
				embeddedSettings(agentsAt[i], "NATS_CLUSTER_LISTEN="+peersAt[i], "NATS_CLUSTER_ROUTES="+peersAt[1-i],
					"NATS_CLUSTER_USERNAME=peer", "NATS_CLUSTER_PASSWORD=hunter2-0123456789")...)...)
	}
	var subscriptions [2]*nats.Subscription
	for i := range subscriptions {
		c, _ := connectNATS(t, "nats://"+agentsAt[i])
		sub, err := c.SubscribeSync(subject)
		must(t, err)
		must(t, c.Flush())
		subscriptions[i] = sub
	}
	// Each announces to the other's subscribers. Retry until they are connected.
	for i, controller := range controllers {
		n := 0
		eventually(t, func() error {
			n++
			version, err := publish(controller.url(), fmt.Sprintf("http://example.com/%d/%d", i, n))
			must(t, err)
			message, err := subscriptions[1-i].NextMsg(checkEvery * 10)
			if err != nil {
				return fmt.Errorf("version %d of controller %d at the other: %w", version, i, err)
			}
			if want := fmt.Sprintf(`"version":%d,`, version); !strings.Contains(string(message.Data), want) {
				return fmt.Errorf("received %s, want %s", message.Data, want)
			}
			return nil
		})
	}
	for _, c := range controllers {
		if strings.Contains(c.log.String(), "hunter2") {
			t.Error("a password is in a log")
		}
		must(t, c.stop())
	}
}

// A fleet moves from the embedded broker to an external one with another URL, agents
// first or last, and back.
func TestEmbedded_MoveToExternalBroker_FleetFollows(t *testing.T) {
	t.Parallel()
	addr := freeAddress(t)
	elsewhere := newNATS(t, "")
	at := func(p *process, url string) {
		must(t, p.stop())
		p.env = append(p.env, "NATS_URL="+url)
		must(t, p.start())
	}
	s := newSite(t, embeddedSettings(addr, hourly), []string{"PUSH=nats", "NATS_URL=nats://" + addr})
	s.waitForTransport(t, "nats")
	s.publishAndWait(t, "/one")
	self, _, err := get[status]("", s.agent.url()+"/status")
	must(t, err)

	at(s.controller, "nats://"+elsewhere.addr)
	s.waitForTransport(t, "poll")
	at(s.agent, "nats://"+elsewhere.addr)
	s.waitForTransport(t, "nats")
	s.publishAndWait(t, "/two")
	at(s.agent, "nats://"+addr+",nats://"+elsewhere.addr) // whichever is available
	s.waitForTransport(t, "nats")
	s.publishAndWait(t, "/three")
	at(s.controller, "embedded")
	healthy := strings.Count(s.agent.log.String(), "Push healthy")
	elsewhere.kill()
	s.agent.waitForLog(t, "Push healthy", healthy+1)
	s.publishAndWait(t, "/four")
	after, _, err := get[status]("", s.agent.url()+"/status")
	must(t, err)
	if after.AgentID != self.AgentID {
		t.Errorf("the agent is now %s, want it to remain %s", after.AgentID, self.AgentID)
	}
	a, err := call(admin, "GET", s.controller.url()+"/api/v1/agents", "")
	must(t, err)
	if n := a.header.Get("X-Total-Count"); n != "1" {
		t.Errorf("there are %s agents, want one", n)
	}
}
