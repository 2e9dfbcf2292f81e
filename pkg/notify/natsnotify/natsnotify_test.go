package natsnotify_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/drivertest"
	"github.com/fleetconf/fleetconf/pkg/notify/natsnotify"
	"github.com/fleetconf/fleetconf/pkg/notify/notifytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a NATS server.
func start(t *testing.T, address string, opts server.Options) (stop func()) {
	t.Helper()
	host, port, _ := net.SplitHostPort(address)
	opts.Host = host
	opts.Port, _ = strconv.Atoi(port)
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
	}
	t.Cleanup(stop)
	return stop
}

func open(t *testing.T, o natsnotify.Options) *natsnotify.Driver {
	t.Helper()
	driver, err := natsnotify.New(o)
	if err != nil {
		t.Fatal(err)
	}
	driver.SetTimeouts(300*time.Millisecond, 3*time.Second)
	return driver
}

var broker = drivertest.Broker{
	Start: func(t *testing.T, address, password string) func() {
		return start(t, address, server.Options{Username: "fleet", Password: password})
	},
	New: func(t *testing.T, address, password string) drivertest.Driver {
		o := natsnotify.Options{URL: "nats://" + address}
		if password != "" {
			o.Username, o.Password = "fleet", password
		}
		return open(t, o)
	},
	Confirms: []string{`INFO {"server_id":"x","max_payload":1048576}` + "\r\n", "PONG\r\n", "PONG\r\n"},
	Violations: map[string]drivertest.Violation{
		"a message of many gigabytes": {Sends: "MSG fleetconf.config 1 99999999999\r\n", Repeats: "x",
			Error: "sends too much"},
		"a message of a gigabyte":  {Sends: "MSG fleetconf.config 1 999999999\r\n", Error: "sends too much"},
		"a message without an end": {Sends: "MSG fleetconf.config 1 1\r\n", Repeats: "x", Error: "sends too much"},
		"a carriage return too many": {Sends: "MSG fleetconf.config 1 5\r12\nx\r\nMSG fleetconf.config 1 " +
			"99999999999999999\r\n", Repeats: "x", Error: "sends too much"},
		"a hidden length": {Sends: "MSG fleetconf.config 1 1\r\nx\r\rhmsg fleetconf.config 1 0 1\r\nMSG " +
			"fleetconf.config 1 99999999999999999\r\n", Repeats: "x", Error: "sends too much"},
		"a line without an end":  {Sends: "INFO {", Repeats: "x", Error: "sends too much"},
		"a message of no length": {Sends: "MSG fleetconf.config 1 -5\r\n", Error: "sends too much"},
		"noise":                  {Sends: "HTTP/1.1 200 OK\r\n\r\n", Error: "nats:"},
		"a refusal with a secret": {Sends: "-ERR 'wrong password hunter2'\r\n",
			Error: "nats: the connection failed"},
	},
}

func TestDriver(t *testing.T) { broker.Run(t) }

// hears announces and hears one message.
func hears(t *testing.T, driver *natsnotify.Driver) {
	t.Helper()
	r := notifytest.Listen(t, driver)
	r.Subscribed(t)
	notifytest.Announce(t, driver, "v8")
	r.Received(t, "v8")
}

// refused checks that an announcement fails with errorText in the error.
func refused(t *testing.T, driver *natsnotify.Driver, errorText string) {
	t.Helper()
	if err := driver.Announce(t.Context(), notify.Subject, []byte("lost")); err == nil ||
		!strings.Contains(err.Error(), errorText) {
		t.Errorf("got %v, want an error like %q", err, errorText)
	}
}

func TestDriver_TLS(t *testing.T) {
	certs := notifytest.Certificates(t)
	config, err := server.GenTLSConfig(&server.TLSConfigOpts{CertFile: certs.Cert, KeyFile: certs.Key, CaFile: certs.CA,
		Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	address := notifytest.FreeAddress(t)
	start(t, address, server.Options{TLSConfig: config, TLSVerify: true, TLSTimeout: 30, AuthTimeout: 30})
	trusting := natsnotify.Options{URL: "nats://" + address, CAFile: certs.CA}
	known := trusting
	known.CertFile, known.KeyFile = certs.Cert, certs.Key
	notifytest.AddByteOrderMark(t, certs.CA, certs.Cert, certs.Key)
	hears(t, open(t, known))
	refused(t, open(t, natsnotify.Options{URL: "tls://" + address}), "authority that is not known")
	refused(t, open(t, trusting), "nats:") // no certificate of its own
	plain := notifytest.FreeAddress(t)
	start(t, plain, server.Options{})
	trusting.URL = "nats://" + plain
	refused(t, open(t, trusting), "TLS")
}

func TestDriver_Credentials(t *testing.T) {
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	address := notifytest.FreeAddress(t)
	start(t, address, server.Options{Nkeys: []*server.NkeyUser{{Nkey: public}}})
	hears(t, open(t, natsnotify.Options{URL: "nats://" + address, NKeyFile: file}))
	notifytest.AddByteOrderMark(t, file)
	hears(t, open(t, natsnotify.Options{URL: "nats://" + address, NKeyFile: file}))
	refused(t, open(t, natsnotify.Options{URL: "nats://" + address}), "credentials are refused")

	withToken := notifytest.FreeAddress(t)
	start(t, withToken, server.Options{Authorization: "hunter2"})
	hears(t, open(t, natsnotify.Options{URL: "nats://" + withToken, Token: "hunter2"}))
	hears(t, open(t, natsnotify.Options{URL: "nats://" + notifytest.FreeAddress(t) + ", nats://hunter2@" + withToken}))
	refused(t, open(t, natsnotify.Options{URL: "nats://" + withToken, Token: "other"}), "credentials are refused")
}

func TestDriver_CredentialsFile(t *testing.T) {
	operator, account, user := pair(t, nkeys.CreateOperator), pair(t, nkeys.CreateAccount), pair(t, nkeys.CreateUser)
	operatorClaims := jwt.NewOperatorClaims(operator.public)
	accountClaims, userClaims := jwt.NewAccountClaims(account.public), jwt.NewUserClaims(user.public)
	userClaims.IssuerAccount = account.public
	resolver := &server.MemAccResolver{}
	if err := resolver.Store(account.public, encoded(t, accountClaims, operator)); err != nil {
		t.Fatal(err)
	}
	trusted, err := jwt.DecodeOperatorClaims(encoded(t, operatorClaims, operator))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(encoded(t, userClaims, account), seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "creds")
	if err := os.WriteFile(file, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	address := notifytest.FreeAddress(t)
	start(t, address, server.Options{TrustedOperators: []*jwt.OperatorClaims{trusted}, AccountResolver: resolver})
	notifytest.AddByteOrderMark(t, file)
	hears(t, open(t, natsnotify.Options{URL: "nats://" + address, CredsFile: file}))
	refused(t, open(t, natsnotify.Options{URL: "nats://" + address}), "credentials are refused")
}

type keyPair struct {
	nkeys.KeyPair
	public string
}

func pair(t *testing.T, create func() (nkeys.KeyPair, error)) keyPair {
	t.Helper()
	key, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{key, public}
}

func encoded(t *testing.T, claims jwt.Claims, by keyPair) string {
	t.Helper()
	text, err := claims.Encode(by)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestDriver_DeniedSubscription(t *testing.T) {
	address := notifytest.FreeAddress(t)
	user := &server.User{Username: "fleet", Password: "p",
		Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{">"}}}}
	stop := start(t, address, server.Options{Users: []*server.User{user}})
	driver := open(t, natsnotify.Options{URL: "nats://" + address, Username: "fleet", Password: "p"})
	r := notifytest.Listen(t, driver)
	if err := r.Lost(t); !strings.Contains(err.Error(), "may not use subject fleetconf.config") {
		t.Errorf("got %v, want an error about the permission", err)
	}
	stop()
	start(t, address, server.Options{Username: "fleet", Password: "p"})
	r.Subscribed(t)
	notifytest.Announce(t, driver, "allowed")
	r.Received(t, "allowed")
}

func TestNew_Unusable(t *testing.T) {
	missing, pipe := filepath.Join(t.TempDir(), "missing"), filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]natsnotify.Options{
		"no URL":              {},
		"no scheme":           {URL: "localhost:4222"},
		"another scheme":      {URL: "http://u:hunter2@localhost"},
		"one of two":          {URL: "nats://localhost,nats://u:hunter2@["},
		"a missing seed":      {URL: "nats://localhost", NKeyFile: missing},
		"a missing authority": {URL: "nats://localhost", CAFile: missing},
		"a missing pair":      {URL: "nats://localhost", CertFile: missing, KeyFile: missing},
		"missing credentials": {URL: "nats://localhost", CredsFile: missing},
		"a pipe as seed":      {URL: "nats://localhost", NKeyFile: pipe},
		"a pipe as authority": {URL: "nats://localhost", CAFile: pipe},
		"a pipe as pair":      {URL: "nats://localhost", CertFile: pipe, KeyFile: pipe},
		"pipe of credentials": {URL: "nats://localhost", CredsFile: pipe},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := natsnotify.New(o); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want an error without the password", err)
			}
		})
	}
}
