package controller

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/certs"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

const day = 24 * time.Hour

func authority(t *testing.T, name string) *certs.Authority {
	t.Helper()
	a, err := certs.NewAuthority(name, day)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// secure serves over TLS, with a certificate signed by by.
func secure(
	t *testing.T, by *certs.Authority, leaf certs.Leaf, config *tls.Config, state ...func(net.Conn, http.ConnState),
) (url string) {
	t.Helper()
	leaf.Name = "controller"
	cert, err := by.Issue(leaf)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{cert}
	s := httptest.NewUnstartedServer(answer(200, document, "ETag", `"e8"`))
	s.TLS = config
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if len(state) > 0 {
		s.Config.ConnState = state[0]
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// files returns the TLS configuration of an agent: which authority it trusts, and which has
// signed its certificate.
func files(t *testing.T, trusts, by *certs.Authority, leaf certs.Leaf) func() *tls.Config {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	paths := tlsfiles.Paths{CA: tlsfiles.File{Setting: "CONTROLLER_CA_FILE", Path: path("ca.pem")}}
	if err := trusts.Save(path("ca.pem"), path("ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	if by != nil {
		leaf.Name = "agent"
		if err := by.Write(leaf, path("cert.pem"), path("key.pem")); err != nil {
			t.Fatal(err)
		}
		paths.Cert = tlsfiles.File{Setting: "CONTROLLER_CERT_FILE", Path: path("cert.pem")}
		paths.Key = tlsfiles.File{Setting: "CONTROLLER_KEY_FILE", Path: path("key.pem")}
	}
	log, _ := logtest.NewNullLogger()
	f, err := tlsfiles.Open(paths, log)
	if err != nil {
		t.Fatal(err)
	}
	return f.Client
}

func TestFetch_TLS_VerifiesAndAuthenticates(t *testing.T) {
	ours, others, namesake := authority(t, "ours"), authority(t, "others"), authority(t, "ours")
	here := certs.Leaf{Hosts: []string{"127.0.0.1"}, NotAfter: time.Now().Add(day)}
	agent := certs.Leaf{Client: true, NotAfter: time.Now().Add(day)}
	for name, row := range map[string]struct {
		server *certs.Authority
		leaf   certs.Leaf
		config *tls.Config      // nil: it asks for nothing
		trusts *certs.Authority // by the agent
		by     *certs.Authority // signed the agent's certificate; nil: it has none
		own    certs.Leaf
		words  string
	}{
		"all is well": {server: ours, leaf: here, trusts: ours},
		"all is well, both ways": {
			server: ours, leaf: here,
			config: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.Pool()}, trusts: ours,
			by: ours, own: agent,
		},
		"signed by others": {
			server: others, leaf: here, trusts: ours,
			words: "is not trusted: its certificate is signed by an authority " +
				"that is not known here (see CONTROLLER_CA_FILE)",
		},
		"signed by a namesake": {
			server: namesake, leaf: here, trusts: ours,
			words: "is not trusted: its certificate is signed by an authority " +
				"that is not known here (see CONTROLLER_CA_FILE)",
		},
		"expired": {
			server: ours, leaf: certs.Leaf{Hosts: here.Hosts, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)},
			trusts: ours,
			words:  "is not trusted: its certificate is valid from 1970-01-01T00:00:00Z to 1970-01-01T00:00:01Z only",
		},
		"of another name": {
			server: ours, leaf: certs.Leaf{Hosts: []string{"elsewhere"}, NotAfter: here.NotAfter}, trusts: ours,
			words: "is not trusted: its certificate is for another name",
		},
		"of no name but a common one": {
			server: ours, leaf: certs.Leaf{Name: "127.0.0.1", NotAfter: here.NotAfter}, trusts: ours,
			words: "is not trusted: its certificate has no subject alternative name (SAN)",
		},
		"of old versions alone": {
			server: ours, leaf: here, config: &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
			trusts: ours, words: "rejects TLS with this client: protocol version not supported",
		},
		"that wants a certificate": {
			server: ours, leaf: here,
			config: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.Pool()}, trusts: ours,
			words: "does not accept this client's certificate (see CONTROLLER_CERT_FILE): certificate required",
		},
		"that wants others'": {
			server: ours, leaf: here,
			config: &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: others.Pool()}, trusts: ours,
			by: ours, own: agent, words: "not signed by an authority which the server takes",
		},
		"that wants ours in time": {
			server: ours, leaf: here,
			config: &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ours.Pool()}, trusts: ours,
			by: ours, own: certs.Leaf{Client: true, NotAfter: time.Now().Add(-time.Second)}, words: "is valid from",
		},
		"that wants a namesake's": {
			server: ours, leaf: here,
			config: &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: namesake.Pool()}, trusts: ours,
			by: ours, own: agent, words: "does not accept this client's certificate (see CONTROLLER_CERT_FILE): ",
		},
		"that asks, and may not have": {
			server: ours, leaf: here,
			config: &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: others.Pool()}, trusts: ours,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if row.config == nil {
				row.config = &tls.Config{}
			}
			url := secure(t, row.server, row.leaf, row.config)
			c := New(Options{URL: url, TLS: files(t, row.trusts, row.by, row.own)})
			var said string
			for range 5 {
				got, err := c.Fetch(t.Context(), self, protocol.Query{})
				if row.words == "" {
					if err != nil || got.Release == nil {
						t.Fatalf("got %v, want the document", err)
					}
					continue
				}
				if err == nil || !strings.Contains(err.Error(), row.words) ||
					!strings.Contains(err.Error(), "the controller at "+url) {
					t.Fatalf("got %v, want %q", err, row.words)
				}
				if said != "" && err.Error() != said {
					t.Errorf("got %q, and before %q", err, said)
				}
				said = err.Error()
			}
		})
	}
}

// A replaced authority is used from the next connection on, and the earlier connection is
// closed.
func TestFetch_CAReplaced_UsedByNextConnection(t *testing.T) {
	ours := authority(t, "ours")
	var served atomic.Pointer[net.Conn]
	closed := make(chan struct{})
	state := func(c net.Conn, s http.ConnState) {
		if s == http.StateActive && served.CompareAndSwap(nil, &c) {
			return
		}
		if first := served.Load(); s == http.StateClosed && first != nil && *first == c {
			close(closed)
		}
	}
	url := secure(
		t, ours, certs.Leaf{Hosts: []string{"127.0.0.1"}, NotAfter: time.Now().Add(day)}, &tls.Config{}, state,
	)
	trusted := x509.NewCertPool()
	c := New(Options{URL: url, TLS: func() *tls.Config { return &tls.Config{RootCAs: trusted} }})
	if _, err := c.Fetch(t.Context(), self, protocol.Query{}); err == nil {
		t.Fatal("got no error for an authority that is not trusted")
	}
	trusted = ours.Pool()
	if _, err := c.Fetch(t.Context(), self, protocol.Query{}); err != nil {
		t.Errorf("got %v, want it trusted now", err)
	}
	trusted = ours.Pool()
	if _, err := c.Fetch(t.Context(), self, protocol.Query{}); err != nil {
		t.Errorf("got %v, want it still trusted", err)
	}
	select {
	case <-closed:
	case <-time.After(30 * time.Second): // its idle timeout is 90 s
		t.Error("the connection under the earlier authority is still open")
	}
}

// The error says that the controller serves plain HTTP.
func TestFetch_TLSToPlainServer_SaysSo(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	c := New(Options{
		URL: strings.Replace(s.URL, "http:", "https:", 1), TLS: files(t, authority(t, "ours"), nil, certs.Leaf{}),
	})
	if _, err := c.Fetch(t.Context(), self, protocol.Query{}); err == nil ||
		!strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("got %v", err)
	}
}
