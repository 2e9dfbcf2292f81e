package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/pkg/cli"
)

// made is what is in the folder after a run.
type made struct {
	t   *testing.T
	dir string
}

func (m made) run(args ...string) (said string) {
	m.t.Helper()
	var out bytes.Buffer
	if err := run(append(args, m.dir), &out); err != nil {
		m.t.Fatal(err)
	}
	return out.String()
}

func (m made) leaf(name string) *x509.Certificate {
	m.t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(m.dir, name+".pem"), filepath.Join(m.dir, name+"-key.pem"))
	if err != nil {
		m.t.Fatal(err)
	}
	return pair.Leaf
}

// README runs eval over what it prints.
func TestRun_PathNeedsQuotes_Quoted(t *testing.T) {
	m := made{t, filepath.Join(t.TempDir(), `it's $HOME & "more"`)}
	shell := exec.Command("sh", "-ec", m.run()+`printf %s "$TLS_CERT_FILE"; test -s "$CONTROLLER_KEY_FILE"`)
	shell.Env = []string{"PATH=" + os.Getenv("PATH")}
	got, err := shell.Output()
	if want := filepath.Join(m.dir, "controller.pem"); err != nil || string(got) != want {
		t.Errorf("the shell reads %s (%v), want %s", got, err, want)
	}
}

func TestRun_MakesFilesForControllerAndAgent(t *testing.T) {
	m := made{t, filepath.Join(t.TempDir(), "a", "certs")}
	said := m.run("--host", "controller", "--host=10.1.2.3")
	for _, setting := range []string{"TLS_CERT_FILE=", "TLS_KEY_FILE=", "TLS_CLIENT_CA_FILE=", "CONTROLLER_CA_FILE=",
		"CONTROLLER_CERT_FILE=", "CONTROLLER_KEY_FILE="} {
		if !strings.Contains(said, "\n"+setting+m.dir) {
			t.Errorf("it says %s, want %s", said, setting)
		}
	}
	authority, controller, agent := m.leaf("ca"), m.leaf("controller"), m.leaf("agent")
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "controller", "10.1.2.3"} {
		if _, err := controller.Verify(x509.VerifyOptions{Roots: pool, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := agent.Verify(x509.VerifyOptions{Roots: pool,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the agent's: %v", err)
	}
	if _, err := agent.Verify(x509.VerifyOptions{Roots: pool}); err == nil {
		t.Error("the agent's certificate does for a server too")
	}
	if !authority.MaxPathLenZero || authority.KeyUsage != x509.KeyUsageCertSign {
		t.Errorf("the authority may do more than sign these: %v, %v", authority.MaxPathLen, authority.KeyUsage)
	}
	for _, leaf := range []*x509.Certificate{controller, agent} {
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 825*24*time.Hour {
			t.Errorf("%s lives for %s, want 825 days at most", leaf.Subject, life)
		}
	}
	for _, name := range []string{"ca-key.pem", "controller-key.pem", "agent-key.pem"} {
		info, err := os.Stat(filepath.Join(m.dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want 0600", name, info.Mode(), err)
		}
	}
}

func TestRun_ValidFiles_Kept(t *testing.T) {
	m := made{t, t.TempDir()}
	m.run()
	authority, controller, agent := m.leaf("ca"), m.leaf("controller"), m.leaf("agent")
	m.run("--host", "localhost")
	if !m.leaf("ca").Equal(authority) || !m.leaf("controller").Equal(controller) || !m.leaf("agent").Equal(agent) {
		t.Error("a second run replaced a certificate")
	}
	m.run("--host", "controller")
	named := m.leaf("controller")
	if named.Equal(controller) || !m.leaf("agent").Equal(agent) {
		t.Error("a host more: want a certificate of the controller that has it, and that of agents as it was")
	}
	m.run("--renew")
	if renewed := m.leaf("controller"); renewed.Equal(named) || renewed.VerifyHostname("controller") != nil ||
		m.leaf("agent").Equal(agent) || !m.leaf("ca").Equal(authority) {
		t.Error("--renew: want new certificates for the same hosts, of the same authority")
	}
	for _, name := range []string{"ca.pem", "ca-key.pem"} {
		if err := os.Remove(filepath.Join(m.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	m.run()
	if err := m.leaf("agent").CheckSignatureFrom(m.leaf("ca")); err != nil {
		t.Errorf("a new authority: got a certificate that it did not sign: %v", err)
	}
}

// Others may trust the authority that the key is of.
func TestRun_AuthorityCertificateMissing_KeepsKey(t *testing.T) {
	m := made{t, t.TempDir()}
	m.run()
	if err := os.Remove(filepath.Join(m.dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(m.dir, "ca-key.pem")
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := run([]string{m.dir}, io.Discard); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("got %v, want an error that names %s", err, key)
	}
	if after, err := os.ReadFile(key); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key was replaced, %v", err)
	}
}

func TestRun_UsageErrors(t *testing.T) {
	for name, args := range map[string][]string{
		"two folders":        {t.TempDir(), t.TempDir()},
		"a host with a port": {"--host", "controller:8080"},
		"another option":     {"--hots", "controller"},
	} {
		if err := run(args, &bytes.Buffer{}); !errors.Is(err, cli.ErrUsage) {
			t.Errorf("%s: got %v, want cli.ErrUsage", name, err)
		}
	}
	var help bytes.Buffer
	if err := run([]string{"--help"}, &help); !errors.Is(err, flag.ErrHelp) ||
		!strings.Contains(help.String(), "--renew") {
		t.Errorf("--help: got %v, %s", err, help.String())
	}
}

// An authority that is there is not written over, whatever it is.
func TestRun_UnusableAuthority_Kept(t *testing.T) {
	for name, spoil := range map[string]func(ca, key string) error{
		"it is broken":         func(ca, _ string) error { return os.WriteFile(ca, []byte("garbage"), 0o600) },
		"its key is elsewhere": func(_, key string) error { return os.Remove(key) },
	} {
		m := made{t, t.TempDir()}
		m.run()
		ca := filepath.Join(m.dir, "ca.pem")
		if err := spoil(ca, filepath.Join(m.dir, "ca-key.pem")); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(ca)
		if err := run([]string{m.dir}, &bytes.Buffer{}); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if after, _ := os.ReadFile(ca); !bytes.Equal(before, after) {
			t.Errorf("%s: it was written over", name)
		}
	}
}
