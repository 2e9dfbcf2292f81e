package test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// devCerts is the directory of the files of scripts/dev-certs.sh.
type devCerts string

func newDevCerts(t *testing.T) devCerts {
	t.Helper()
	c := devCerts(filepath.Join(t.TempDir(), "certs"))
	c.make(t)
	return c
}

func (c devCerts) make(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("../scripts/dev-certs.sh", append(args, string(c))...).CombinedOutput()
	if err != nil {
		t.Fatalf("dev-certs.sh: %v\n%s", err, out)
	}
	for _, want := range []string{"TLS_CERT_FILE=" + c.file("controller.pem"),
		"CONTROLLER_CA_FILE=" + c.file("ca.pem")} {
		if !strings.Contains(string(out), want) {
			t.Errorf("dev-certs.sh prints %s, want %s", out, want)
		}
	}
}

func (c devCerts) file(name string) string { return filepath.Join(string(c), name) }

// controller and agent return the settings of each.
func (c devCerts) controller() []string {
	return []string{"TLS_CERT_FILE=" + c.file("controller.pem"), "TLS_KEY_FILE=" + c.file("controller-key.pem"),
		"TLS_CLIENT_CA_FILE=" + c.file("ca.pem")}
}

func (c devCerts) agent() []string {
	return []string{"CONTROLLER_CA_FILE=" + c.file("ca.pem"), "CONTROLLER_CERT_FILE=" + c.file("agent.pem"),
		"CONTROLLER_KEY_FILE=" + c.file("agent-key.pem")}
}

func (c devCerts) trusted(t *testing.T) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(c.file("ca.pem"))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: pool}
}

// shows returns the serial number of the certificate on a new connection.
func (c devCerts) shows(t *testing.T, addr string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, c.trusted(t))
	must(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// relay forwards and counts connections.
type relay struct {
	addr          string
	opened, ended atomic.Int64
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{addr: ln.Addr().String()}
	var passing sync.WaitGroup
	pass := func(a, b net.Conn) { // until either end closes
		defer a.Close()
		defer b.Close()
		_, _ = io.Copy(a, b)
	}
	passing.Go(func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			onward, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				continue
			}
			r.opened.Add(1)
			passing.Go(func() { pass(from, onward) })
			passing.Go(func() { pass(onward, from); r.ended.Add(1) })
			t.Cleanup(func() { _ = from.Close() })
		}
	})
	t.Cleanup(func() { _ = ln.Close() })
	return r
}

// The controller's certificate is renewed during a long poll: the connection stays, and
// new connections get the new certificate.
func TestTLS_CertificateRenewed_ConnectionsStay(t *testing.T) {
	t.Parallel()
	files := newDevCerts(t)
	target, worker := run(t, "target"), run(t, "worker")
	controller := run(t, "controller", append(controllerIn(t.TempDir()), append(files.controller(), hourly)...)...)
	between := newRelay(t, controller.addr)
	agent := run(t, "agent", append(agentIn(t.TempDir(), "https://"+between.addr, worker.url()), files.agent()...)...)

	admins := &http.Client{Transport: &http.Transport{TLSClientConfig: files.trusted(t), ForceAttemptHTTP2: true}}
	defer admins.CloseIdleConnections()
	publishAndWait := func(page string) {
		t.Helper()
		a, err := callBy(admins, admin, "POST", "https://"+controller.addr+"/api/v1/config",
			fmt.Sprintf(`{"url":%q}`, target.url()+page))
		must(t, err)
		if a.status != http.StatusOK || a.proto != "HTTP/2.0" {
			t.Fatalf("publish: got %v over %s, want 200 over HTTP/2.0", a, a.proto)
		}
		eventually(t, func() error { return checkHit(worker.url(), "target "+page) })
	}
	eventually(t, func() error { return checkTransport(agent, "longpoll") })
	publishAndWait("/first")
	eventually(t, func() error { return checkTransport(agent, "longpoll") })

	before, opened := files.shows(t, controller.addr), between.opened.Load()
	files.make(t, "--renew")
	eventually(t, func() error {
		if files.shows(t, controller.addr) == before {
			return fmt.Errorf("the controller uses the previous certificate")
		}
		return nil
	})
	publishAndWait("/second")
	if now, ended := between.opened.Load(), between.ended.Load(); now != opened || ended != 0 {
		t.Errorf("the agent has opened %d connections, %d of them since the renewal, and %d have ended; "+
			"want only the first one", now, now-opened, ended)
	}
	controller.waitForLog(t, "Certificate reloaded", 1)
	agent.waitForLog(t, "Push lost", 0)

	health := command(filepath.Join(binaries, "controller"), append(controller.env, "PORT="+controller.port), "health")
	if out, err := health.CombinedOutput(); err != nil {
		t.Errorf("controller health: %v\n%s", err, out)
	}
	must(t, agent.stop())
	must(t, controller.stop())
}

// An agent with a wrong certificate or authority reports the reason, and registers when
// that is corrected.
func TestTLS_UntrustedAgent_ReportsReason(t *testing.T) {
	t.Parallel()
	files, others := newDevCerts(t), newDevCerts(t)
	worker := run(t, "worker")
	controller := run(t, "controller", append(controllerIn(t.TempDir()), files.controller()...)...)
	const untrusted = "is not trusted: its certificate is signed by an authority that is not known here " +
		"(see CONTROLLER_CA_FILE)"
	for name, row := range map[string]struct {
		settings []string
		want     string
	}{
		"no certificate": {files.agent()[:1],
			"set CONTROLLER_CERT_FILE and CONTROLLER_KEY_FILE of the agent"},
		"certificate of another authority": {append(others.agent(), files.agent()[0]),
			"does not accept this client's certificate (see CONTROLLER_CERT_FILE)"},
		"trusts another authority": {append(files.agent(), others.agent()[0]), untrusted},
		"trusts the system only":   {files.agent()[1:], untrusted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent := run(t, "agent", append(agentIn(t.TempDir(), "https://"+controller.addr, worker.url()),
				row.settings...)...)
			eventually(t, func() error {
				self, a, err := get[status]("", agent.url()+"/status")
				if err == nil && !strings.Contains(self.LastError, row.want) {
					err = fmt.Errorf("/status has %s, want %q", a.body, row.want)
				}
				return err
			})
			must(t, agent.crash())
			agent.env = append(agent.env, files.agent()...)
			must(t, agent.start())
			eventually(t, func() error {
				self, a, err := get[status]("", agent.url()+"/status")
				if err == nil && !self.Registered {
					err = fmt.Errorf("/status has %s, want it registered", a.body)
				}
				return err
			})
		})
	}
}
