package tlsfiles_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/certs"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const year = 365 * 24 * time.Hour

// folder is an authority, and a folder with its certificates.
type folder struct {
	t   *testing.T
	dir string
	*certs.Authority
}

func newFolder(t *testing.T) folder {
	t.Helper()
	f := folder{t, t.TempDir(), newAuthority(t, "authority")}
	f.check(f.Save(f.path("ca.pem"), f.path("ca-key.pem")))
	f.write(certs.Leaf{Name: "first"})
	return f
}

func newAuthority(t *testing.T, name string) *certs.Authority {
	t.Helper()
	a, err := certs.NewAuthority(name, 10*year)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

func (f folder) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// write replaces cert.pem and key.pem.
func (f folder) write(l certs.Leaf) {
	f.t.Helper()
	l.Hosts = []string{"127.0.0.1"}
	if l.NotAfter.IsZero() {
		l.NotAfter = time.Now().Add(year)
	}
	f.check(f.Write(l, f.path("cert.pem"), f.path("key.pem")))
}

func (f folder) paths() tlsfiles.Paths {
	return tlsfiles.Paths{
		Cert: tlsfiles.File{Setting: "TLS_CERT_FILE", Path: f.path("cert.pem")},
		Key:  tlsfiles.File{Setting: "TLS_KEY_FILE", Path: f.path("key.pem")},
		CA:   tlsfiles.File{Setting: "TLS_CLIENT_CA_FILE", Path: f.path("ca.pem")},
	}
}

// open opens the files and follows them until the test ends.
func (f folder) open(paths tlsfiles.Paths) (*tlsfiles.Files, *logtest.Hook) {
	f.t.Helper()
	log, lines := logtest.NewNullLogger()
	files, err := tlsfiles.Open(paths, log)
	f.check(err)
	ctx, stop := context.WithCancel(f.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := files.Run(ctx); err != nil {
			f.t.Errorf("Run = %v, want nil", err)
		}
	})
	f.t.Cleanup(func() { stop(); running.Wait() })
	return files, lines
}

// waitForReload waits until the files were looked at once more.
func waitForReload() {
	time.Sleep(tlsfiles.Interval)
	synctest.Wait()
}

// serves is the name of the certificate that a server shows.
func serves(t *testing.T, files *tlsfiles.Files) string {
	t.Helper()
	server, client, err := handshake(t, files.Server(), &tls.Config{InsecureSkipVerify: true})
	if err != nil || server == nil {
		t.Fatalf("handshake: %v", err)
	}
	return client.PeerCertificates[0].Subject.CommonName
}

// handshake shakes hands and exchanges a byte: with TLS 1.3 a client learns only
// then that it was refused.
func handshake(t *testing.T, server, client *tls.Config) (*tls.ConnectionState, *tls.ConnectionState, error) {
	t.Helper()
	a, b := connection(t)
	served, dialled := tls.Server(a, server), tls.Client(b, client)
	result := make(chan error, 1)
	go func() {
		err := served.Handshake()
		if err == nil {
			_, err = served.Write([]byte{1})
		}
		_ = a.Close()
		result <- err
	}()
	_, err := io.ReadFull(dialled, make([]byte, 1))
	_ = b.Close()
	serverErr := <-result
	x, y := served.ConnectionState(), dialled.ConnectionState()
	return &x, &y, errors.Join(err, serverErr)
}

// connection is both ends of one. It has buffers: two that refuse each other write
// at the same time.
func connection(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if b, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if a, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func messages(lines *logtest.Hook) (said []string) {
	for _, line := range lines.AllEntries() {
		said = append(said, line.Level.String()+" "+line.Message)
	}
	return said
}

func wantLog(t *testing.T, lines *logtest.Hook, want ...string) {
	t.Helper()
	if got := messages(lines); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("logged %q, want %q", got, want)
	}
	lines.Reset()
}

const (
	reloaded   = "info Certificate reloaded"
	unusable   = "warning Changed TLS files cannot be used; the last good ones stay in use"
	expired    = "warning Certificate expired; replace it"
	aboutToEnd = "warning Certificate about to expire; replace it"
)

func TestRun_HalfReplacedPair_WaitsForBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t)
		files, lines := f.open(f.paths())
		waitForReload()
		wantLog(t, lines)

		old, err := os.ReadFile(f.path("key.pem"))
		f.check(err)
		f.write(certs.Leaf{Name: "second"})
		whole, err := os.ReadFile(f.path("key.pem"))
		f.check(err)
		f.check(os.WriteFile(f.path("key.pem"), old, 0o600)) // the certificate came before its key
		for range 3 {
			waitForReload()
		}
		if got := serves(t, files); got != "first" {
			t.Errorf("with half a pair it serves %s, want the first", got)
		}
		if line := lines.LastEntry(); line == nil ||
			!strings.Contains(line.Data[logrus.ErrorKey].(error).Error(), "TLS_KEY_FILE names "+f.path("key.pem")) {
			t.Errorf("got the line %v, want TLS_KEY_FILE named", line)
		}
		wantLog(t, lines, unusable)

		f.check(os.WriteFile(f.path("key.pem"), whole, 0o600))
		waitForReload()
		if got := serves(t, files); got != "second" {
			t.Errorf("with the whole pair it serves %s, want the second", got)
		}
		line := lines.LastEntry()
		if end, _ := line.Data["not_after"].(time.Time); line.Data["subject"] != "CN=second" ||
			!end.Equal(files.NotAfter()) {
			t.Errorf("got the line %v, want what is served now", line.Data)
		}
		wantLog(t, lines, reloaded)
		waitForReload()
		wantLog(t, lines)
	})
}

func TestRun_SymbolicLinkSwapped_Reloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t)
		for _, version := range []string{"one", "two"} { // as Kubernetes mounts a secret
			f.write(certs.Leaf{Name: version})
			f.check(os.Mkdir(f.path(version), 0o700))
			for _, name := range []string{"cert.pem", "key.pem"} {
				f.check(os.Rename(f.path(name), filepath.Join(f.dir, version, name)))
			}
		}
		f.check(os.Symlink("one", f.path("..data")))
		for _, name := range []string{"cert.pem", "key.pem"} {
			f.check(os.Symlink(filepath.Join("..data", name), f.path(name)))
		}
		files, lines := f.open(f.paths())
		if got := serves(t, files); got != "one" {
			t.Errorf("it serves %s, want one", got)
		}
		f.check(os.Symlink("two", f.path("..next")))
		f.check(os.Rename(f.path("..next"), f.path("..data")))
		waitForReload()
		if got := serves(t, files); got != "two" {
			t.Errorf("after the swap it serves %s, want two", got)
		}
		wantLog(t, lines, reloaded)
	})
}

func TestRun_InvalidFiles_KeepsLastGood(t *testing.T) {
	for name, row := range map[string]struct {
		spoil   func(f folder)
		message string
	}{
		"the certificate is garbage": {func(f folder) {
			f.check(os.WriteFile(f.path("cert.pem"), []byte("garbage"),
				0o600))
		}, "TLS_CERT_FILE"},
		"the certificate is cut off": {func(f folder) { f.check(os.Truncate(f.path("cert.pem"), 300)) },
			"in the middle of a certificate"},
		"the certificate is gone": {func(f folder) { f.check(os.Remove(f.path("cert.pem"))) }, "no such file"},
		"the key is empty":        {func(f folder) { f.check(os.Truncate(f.path("key.pem"), 0)) }, "TLS_KEY_FILE"},
		"the new one has expired": {func(f folder) {
			f.write(certs.Leaf{Name: "late",
				NotAfter: time.Now().Add(-time.Second)})
		}, "is valid from"},
		"the new one is not valid yet": {func(f folder) {
			f.write(certs.Leaf{Name: "early",
				NotBefore: time.Now().Add(time.Hour)})
		}, "is valid from"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFolder(t)
				files, lines := f.open(f.paths())
				row.spoil(f)
				waitForReload()
				waitForReload()
				if got := serves(t, files); got != "first" {
					t.Errorf("it serves %s, want the first", got)
				}
				if line := lines.LastEntry(); line == nil ||
					!strings.Contains(line.Data[logrus.ErrorKey].(error).Error(), row.message) {
					t.Errorf("got the line %v, want %q", line, row.message)
				}
				wantLog(t, lines, unusable)
				f.write(certs.Leaf{Name: "healed"})
				waitForReload()
				if got := serves(t, files); got != "healed" {
					t.Errorf("after that it serves %s, want the healed one", got)
				}
			})
		})
	}
}

// A certificate from the near future is taken when its time has come, though its
// file stays as it is.
func TestRun_CertificateNotYetValid_LoadedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t)
		files, _ := f.open(f.paths())
		f.write(certs.Leaf{Name: "early", NotBefore: time.Now().Add(time.Minute)})
		time.Sleep(time.Minute)
		waitForReload()
		if got := serves(t, files); got != "early" {
			t.Errorf("it serves %s, want the one that has begun", got)
		}
	})
}

// What is the matter with one has nothing to do with the other.
func TestRun_ReloadsAuthoritiesAndPairSeparately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t)
		files, lines := f.open(f.paths())
		f.check(os.WriteFile(f.path("ca.pem"), []byte("garbage"), 0o600))
		f.write(certs.Leaf{Name: "second"})
		waitForReload()
		if got := serves(t, files); got != "second" {
			t.Errorf("it serves %s, want the second", got)
		}
		wantLog(t, lines, reloaded, unusable)

		other := newAuthority(t, "another")
		f.check(other.Save(f.path("ca.pem"), f.path("ca-key.pem")))
		waitForReload()
		wantLog(t, lines, "info Authorities reloaded")
		for by, want := range map[*certs.Authority]bool{f.Authority: false, other: true} {
			shown, err := by.Issue(certs.Leaf{Name: "agent", Client: true, NotAfter: time.Now().Add(year)})
			f.check(err)
			show := &tls.Config{InsecureSkipVerify: true,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return &shown,
						nil
				}}
			if _, _, err := handshake(t, files.Server(), show); (err == nil) != want {
				t.Errorf("a client of the new authority: %v: got %v", want, err)
			}
		}
	})
}

func TestRun_ExpiringCertificate_WarnsDaily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t)
		f.write(certs.Leaf{Name: "short", NotAfter: time.Now().Add(7*24*time.Hour + time.Minute)})
		paths := f.paths()
		paths.CA.Path = "" // a day is many looks
		_, lines := f.open(paths)
		time.Sleep(50 * time.Second)
		wantLog(t, lines)
		time.Sleep(time.Minute)
		wantLog(t, lines, aboutToEnd)
		time.Sleep(23 * time.Hour)
		wantLog(t, lines)
		time.Sleep(time.Hour)
		synctest.Wait()
		wantLog(t, lines, aboutToEnd)
		f.write(certs.Leaf{Name: "new"})
		waitForReload()
		wantLog(t, lines, reloaded)
	})
}

func TestOpen_ExpiredCertificate_AcceptedWithWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t)
		f.write(certs.Leaf{Name: "late", NotAfter: time.Now().Add(-time.Minute)})
		files, lines := f.open(f.paths())
		synctest.Wait()
		wantLog(t, lines, expired)
		if got := serves(t, files); got != "late" {
			t.Errorf("it serves %s, want what there is", got)
		}
	})
}

func TestOpen_Invalid_NamesSetting(t *testing.T) {
	for name, row := range map[string]struct {
		spoil   func(f folder)
		setting string
	}{
		"no certificate": {func(f folder) { f.check(os.Remove(f.path("cert.pem"))) }, "TLS_CERT_FILE"},
		"no key":         {func(f folder) { f.check(os.Remove(f.path("key.pem"))) }, "TLS_KEY_FILE"},
		"no CA":          {func(f folder) { f.check(os.Remove(f.path("ca.pem"))) }, "TLS_CLIENT_CA_FILE"},
		"a pipe": {func(f folder) {
			f.check(os.Remove(f.path("cert.pem")))
			f.check(syscall.Mkfifo(f.path("cert.pem"), 0o600))
		}, "TLS_CERT_FILE"},
		"another key": {func(f folder) {
			f.check(os.Rename(f.path("ca-key.pem"), f.path("key.pem")))
		}, "TLS_KEY_FILE"},
		"a key in the place of the certificate": {func(f folder) {
			f.check(os.Link(f.path("key.pem"), f.path("link")))
			f.check(os.Rename(f.path("link"), f.path("cert.pem")))
		}, "TLS_CERT_FILE"},
		"a CA in the middle": {func(f folder) {
			ca, err := os.ReadFile(f.path("ca.pem"))
			f.check(err)
			f.check(os.WriteFile(f.path("ca.pem"), append(ca, ca[:100]...), 0o600))
		}, "TLS_CLIENT_CA_FILE"},
		"a CA that is none": {func(f folder) {
			f.check(os.WriteFile(f.path("ca.pem"),
				[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600))
		}, "TLS_CLIENT_CA_FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			key, err := os.ReadFile(f.path("key.pem"))
			f.check(err)
			row.spoil(f)
			log, _ := logtest.NewNullLogger()
			_, err = tlsfiles.Open(f.paths(), log)
			var bad *tlsfiles.Error
			if !errors.As(err, &bad) || bad.Setting != row.setting {
				t.Errorf("got %v, want an error of %s", err, row.setting)
			}
			if secret := strings.Split(string(key), "\n")[1]; strings.Contains(err.Error(), secret) {
				t.Errorf("the key is in the error: %v", err)
			}
		})
	}
}

func TestServer_Protocols(t *testing.T) {
	f := newFolder(t)
	files, _ := f.open(f.paths())
	client := func(oldest, newest uint16) *tls.Config {
		return &tls.Config{RootCAs: f.Pool(), ServerName: "127.0.0.1", MinVersion: oldest, MaxVersion: newest,
			NextProtos: []string{"h2", "http/1.1"}}
	}
	for name, row := range map[string]struct {
		min, max, want uint16 // want 0: nothing
	}{
		"the newest there is": {tls.VersionTLS10, tls.VersionTLS13, tls.VersionTLS13},
		"1.2 with who has it": {tls.VersionTLS10, tls.VersionTLS12, tls.VersionTLS12},
		"nothing below":       {tls.VersionTLS10, tls.VersionTLS11, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, got, err := handshake(t, files.Server(), client(row.min, row.max))
			if row.want == 0 {
				if err == nil || !strings.Contains(err.Error(), "protocol version") {
					t.Errorf("got %v, want the version refused", err)
				}
				return
			}
			if err != nil || got.Version != row.want || got.NegotiatedProtocol != "h2" {
				t.Errorf("got %x, %q, %v, want %x and h2", got.Version, got.NegotiatedProtocol, err, row.want)
			}
		})
	}
}

// Who comes without a certificate is let in: which requests need one is not for
// TLS to say.
func TestServer_VerifiesClientCertificates(t *testing.T) {
	f := newFolder(t)
	files, _ := f.open(f.paths())
	for name, row := range map[string]struct {
		by   *certs.Authority
		leaf certs.Leaf
		ok   bool
	}{
		"nothing": {nil, certs.Leaf{}, true},
		"of the authority": {f.Authority,
			certs.Leaf{Name: "agent", Client: true, NotAfter: time.Now().Add(year)}, true},
		"of another": {newAuthority(t, "another"),
			certs.Leaf{Name: "agent", Client: true, NotAfter: time.Now().Add(year)}, false},
		"expired": {f.Authority,
			certs.Leaf{Name: "agent", Client: true, NotAfter: time.Now().Add(-time.Second)}, false},
		"of a server, not client": {f.Authority, certs.Leaf{Name: "agent", NotAfter: time.Now().Add(year)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			config := &tls.Config{RootCAs: f.Pool(), ServerName: "127.0.0.1"}
			if row.by != nil {
				shown, err := row.by.Issue(row.leaf)
				f.check(err)
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate,
					error) {
					return &shown, nil
				}
			}
			got, _, err := handshake(t, files.Server(), config)
			if (err == nil) != row.ok {
				t.Fatalf("got %v, want it let in: %v", err, row.ok)
			}
			if certified := len(got.VerifiedChains) > 0; row.ok && certified != (row.by != nil) {
				t.Errorf("verified: %v, want %v", certified, row.by != nil)
			}
		})
	}
}

// What was resumed would outlive a change of the files.
func TestServer_NoSessionResumption(t *testing.T) {
	f := newFolder(t)
	files, _ := f.open(f.paths())
	client := &tls.Config{RootCAs: f.Pool(), ServerName: "127.0.0.1",
		ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	server := files.Server()
	for range 2 {
		if _, got, err := handshake(t, server, client); err != nil || got.DidResume {
			t.Errorf("resumed: %v, %v, want a whole handshake", got.DidResume, err)
		}
	}
}

func TestClient_Certificate_SentIfAccepted(t *testing.T) {
	f := newFolder(t)
	f.write(certs.Leaf{Name: "agent", Client: true})
	server, err := f.Issue(certs.Leaf{Name: "server", Hosts: []string{"127.0.0.1"}, NotAfter: time.Now().Add(year)})
	f.check(err)
	files, _ := f.open(f.paths())
	client := files.Client()
	client.ServerName = "127.0.0.1"
	ask := func(pool *x509.CertPool) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.VerifyClientCertIfGiven,
			ClientCAs: pool}
	}
	if got, _, err := handshake(t, ask(f.Pool()), client); err != nil || len(got.VerifiedChains) == 0 {
		t.Errorf("a server of the same authority: got %v, want the certificate shown", err)
	}
	var bad *tlsfiles.Error
	if _, _, err := handshake(t, ask(newAuthority(t, "another").Pool()), client); !errors.As(err, &bad) ||
		!strings.Contains(bad.Error(), "not signed by an authority which the server takes") {
		t.Errorf("a server that takes others: got %v, want why", err)
	}
	other, err := newAuthority(t, "another").Issue(certs.Leaf{Name: "server", Hosts: []string{"127.0.0.1"},
		NotAfter: time.Now().Add(year)})
	f.check(err)
	var untrusted *tls.CertificateVerificationError
	if _, _, err := handshake(t, &tls.Config{Certificates: []tls.Certificate{other}}, client); !errors.As(err,
		&untrusted) {
		t.Errorf("a server of another authority: got %v, want it not trusted", err)
	}

	f.write(certs.Leaf{Name: "agent", Client: true, NotAfter: time.Now().Add(-time.Second)})
	late, _ := f.open(f.paths())
	client = late.Client()
	client.ServerName = "127.0.0.1"
	if _, _, err := handshake(t, ask(f.Pool()), client); !errors.As(err, &bad) ||
		!strings.Contains(bad.Error(), "is valid from") {
		t.Errorf("with a certificate that has expired: got %v, want why", err)
	}
}

func TestFiles_NoPaths(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	files, err := tlsfiles.Open(tlsfiles.Paths{}, log)
	if err != nil || !files.NotAfter().IsZero() {
		t.Fatalf("got %v, %v, want nothing", files, err)
	}
	if c := files.Client(); c.RootCAs != nil || c.GetClientCertificate != nil {
		t.Errorf("got %+v, want what the system trusts, and nothing to show", c)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := files.Run(ctx); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

// With TLS 1.2 no suite is taken, and none offered, that encrypts in CBC mode.
func TestFiles_TLS12_NoCBC(t *testing.T) {
	f := newFolder(t)
	files, _ := f.open(f.paths())
	old := func(c *tls.Config, suites ...uint16) *tls.Config {
		c = c.Clone()
		c.MaxVersion, c.CipherSuites, c.GetConfigForClient = tls.VersionTLS12, suites, nil
		c.RootCAs, c.ServerName = f.Pool(), "127.0.0.1"
		return c
	}
	taken := 0
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		aead := strings.Contains(suite.Name, "GCM") || strings.Contains(suite.Name, "CHACHA20")
		if _, got, err := handshake(t, files.Server(), old(&tls.Config{}, suite.ID)); err == nil &&
			got.Version == tls.VersionTLS12 {
			taken++
			if !aead {
				t.Errorf("the server takes %s", suite.Name)
			}
		}
		client := files.Client()
		client.MaxVersion, client.RootCAs, client.ServerName = tls.VersionTLS12, f.Pool(), "127.0.0.1"
		server := old(files.Server(), suite.ID)
		server.ClientAuth = tls.NoClientCert
		if _, got, err := handshake(t, server, client); err == nil && got.Version == tls.VersionTLS12 {
			taken++
			if !aead {
				t.Errorf("the client offers %s", suite.Name)
			}
		}
	}
	if taken == 0 {
		t.Error("no suite is taken at all")
	}
}

func TestOpen_ByteOrderMark_Skipped(t *testing.T) {
	f := newFolder(t)
	for _, name := range []string{"cert.pem", "key.pem", "ca.pem"} {
		text, err := os.ReadFile(f.path(name))
		f.check(err)
		f.check(os.WriteFile(f.path(name), append([]byte("\ufeff"), text...), 0o600))
	}
	log, _ := logtest.NewNullLogger()
	_, err := tlsfiles.Open(f.paths(), log)
	f.check(err)
}
