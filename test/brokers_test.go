package test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"github.com/fleetconf/fleetconf/test/internal/freeport"
)

// subject is the channel or subject of hints.
const (
	fleetID = "test"
	subject = "fleetconf.config." + fleetID
)

// broker is a real broker. It can be killed, and restarts at the same address.
type broker struct {
	transport string // as in PUSH
	addr      string
	password  string // "" for none
	launch    func() (kill func(), err error)
	kill      func()
}

// brokers are the external brokers that Fleetconf supports.
var brokers = map[string]func(t *testing.T, password string) *broker{"redis": newRedis, "nats": newNATS}

// withBrokers runs a test for each broker, in parallel.
func withBrokers(t *testing.T, password string, test func(t *testing.T, b *broker)) {
	t.Parallel()
	for name, make := range brokers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, make(t, password))
		})
	}
}

func (b *broker) start(t *testing.T) {
	t.Helper()
	kill, err := b.launch()
	must(t, err)
	b.kill = sync.OnceFunc(kill)
	t.Cleanup(b.kill)
}

// settings returns the settings of a process that reaches the broker at an address: its
// own, or a proxy's.
func (b *broker) settings(addr string) []string { return b.settingsWith(addr, b.password) }

func (b *broker) settingsWith(addr, password string) []string {
	if b.transport == "redis" {
		u := url.URL{Scheme: "redis", Host: addr}
		if password != "" {
			u.User = url.UserPassword("", password)
		}
		return []string{"FLEET_ID=" + fleetID, "PUSH=redis", "REDIS_URL=" + u.String()}
	}
	settings := []string{"FLEET_ID=" + fleetID, "PUSH=nats", "NATS_URL=nats://" + addr}
	if password != "" {
		settings = append(settings, "NATS_USERNAME=fleet", "NATS_PASSWORD="+password)
	}
	return settings
}

// publish publishes messages to the fleet, as any client of the broker could.
func (b *broker) publish(t *testing.T, messages ...string) {
	t.Helper()
	if b.transport == "redis" {
		c := redis.NewClient(&redis.Options{Addr: b.addr, Password: b.password})
		defer func() { _ = c.Close() }()
		for _, message := range messages {
			must(t, c.Publish(t.Context(), subject, message).Err())
		}
		return
	}
	c, err := nats.Connect("nats://"+b.addr, nats.UserInfo("fleet", b.password))
	must(t, err)
	defer c.Close()
	for _, message := range messages {
		must(t, c.Publish(subject, []byte(message)))
	}
	must(t, c.Flush())
}

func newRedis(t *testing.T, password string) *broker {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("redis-server is not installed; run scripts/install-deps.sh")
	}
	b := &broker{transport: "redis", addr: freeAddress(t), password: password}
	_, port, _ := net.SplitHostPort(b.addr)
	args := []string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir()}
	if password != "" {
		args = append(args, "--requirepass", password)
	}
	b.launch = func() (kill func(), err error) {
		return runUntilReady(program, "Ready to accept connections",
			args...)
	}
	b.start(t)
	return b
}

// runUntilReady starts a program and returns when its output contains ready.
func runUntilReady(program, ready string, args ...string) (kill func(), err error) {
	cmd := exec.Command(program, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	said, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with the program
		defer close(ended)
		lines := bufio.NewScanner(out)
		for once := sync.OnceFunc(func() { close(said) }); lines.Scan(); {
			if strings.Contains(lines.Text(), ready) {
				once()
			}
		}
	}()
	kill = func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	}
	select {
	case <-said:
		return kill, nil
	case <-ended:
		return nil, errors.Join(fmt.Errorf("%s ended while starting", program), cmd.Wait())
	case <-time.After(timeout):
		kill()
		return nil, fmt.Errorf("%s is not ready", program)
	}
}

func newNATS(t *testing.T, password string) *broker {
	t.Helper()
	b := &broker{transport: "nats", addr: freeAddress(t), password: password}
	b.launch = func() (kill func(), err error) {
		opts := &server.Options{NoSigs: true, NoLog: true}
		if password != "" {
			opts.Username, opts.Password = "fleet", password
		}
		var port string
		opts.Host, port, _ = net.SplitHostPort(b.addr)
		opts.Port, _ = strconv.Atoi(port)
		s, err := server.NewServer(opts)
		if err != nil {
			return nil, err
		}
		s.Start()
		if !s.ReadyForConnections(timeout) {
			return nil, errors.New("the NATS server is not ready")
		}
		return func() {
			s.Shutdown()
			s.WaitForShutdown()
		}, nil
	}
	b.start(t)
	return b
}

// freeAddress returns an address that no program listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := freeport.Address()
	must(t, err)
	return address
}

// --- network faults --------------------------------------------------------

// network is a proxy before an address, which can be made to fail.
type network struct{ *toxiproxy.Proxy }

func networkTo(t *testing.T, addr string) network {
	t.Helper()
	n := network{toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), t.Name(),
		freeAddress(t), addr)}
	must(t, n.Start())
	t.Cleanup(func() {
		n.Toxics.ResetToxics(context.Background())
		n.Stop()
	})
	return n
}

// blackhole makes the proxy accept data and forward nothing.
func (n network) blackhole(t *testing.T) {
	t.Helper()
	n.addToxics(t, "timeout", `{"timeout":0}`)
}

// addToxics adds a fault to both directions.
func (n network) addToxics(t *testing.T, toxic, attributes string) {
	t.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		_, err := n.Toxics.AddToxicJson(strings.NewReader(
			fmt.Sprintf(`{"name":%q,"type":%q,"stream":%q,"attributes":%s}`, stream, toxic, stream, attributes)))
		must(t, err)
	}
}

func (n network) removeToxics(t *testing.T) {
	t.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		must(t, n.Toxics.RemoveToxic(context.Background(), stream))
	}
}

// --- certificates ----------------------------------------------------------------

// certificates writes a certificate for 127.0.0.1, its key and its authority to files.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte, err error) string {
		must(t, err)
		file := filepath.Join(dir, name)
		must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return file
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "broker"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	ca = write("ca.pem", "CERTIFICATE", der, err)
	der, err = x509.CreateCertificate(rand.Reader, leaf, authority, leafKey.Public(), authorityKey)
	cert = write("cert.pem", "CERTIFICATE", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(leafKey)
	return ca, cert, write("key.pem", "PRIVATE KEY", der, err)
}
