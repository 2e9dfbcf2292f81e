// Package drivertest is the test suite of drivers of package notify: real brokers, faults of the network, and
// brokers that violate the protocol.
package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/notifytest"
)

// Password is the broker's. No error may contain it.
const Password = "hunter2-0123456789"

// Driver is a driver under test.
type Driver interface {
	notify.Announcer
	notify.Subscriber
}

// Broker is a real broker and its driver.
type Broker struct {
	// Start runs a broker that requires password, until stop, which kills it, or the end of the test.
	Start func(t *testing.T, address, password string) (stop func())
	// New returns a driver with short timeouts.
	New func(t *testing.T, address, password string) Driver
	// Confirms are the messages of a broker up to the confirmation of a subscription, each sent after
	// the client has sent something.
	Confirms []string
	// Violations are sent after Confirms, by the name of the violation.
	Violations map[string]Violation
}

// Violation sends Sends once and then Repeats; the driver must report Error.
type Violation struct{ Sends, Repeats, Error string }

// Run tests the driver.
func (b Broker) Run(t *testing.T) {
	t.Run("every subscriber receives each message unchanged", b.everyReceiver)
	t.Run("two fleets share a broker", b.fleets)
	t.Run("a slow receiver gets a burst", b.burst)
	t.Run("the broker starts late", b.brokerStartsLate)
	t.Run("the broker is killed and restarts", b.brokerRestarts)
	t.Run("the network flaps", b.flaps)
	t.Run("the network hangs", b.hangs)
	t.Run("the network is slow and in pieces", b.slow)
	t.Run("the network cuts messages", b.cut)
	t.Run("the password is wrong", b.wrongPassword)
	t.Run("the broker does not answer", b.brokerSilent)
	for name, violation := range b.Violations {
		t.Run("the broker violates the protocol: "+name, func(t *testing.T) { b.violates(t, violation) })
	}
}

func (b Broker) everyReceiver(t *testing.T) {
	address := notifytest.FreeAddress(t)
	b.Start(t, address, Password)
	var all []*notifytest.Receiver
	for range 3 {
		all = append(all, notifytest.Listen(t, b.New(t, address, Password)))
	}
	for _, r := range all {
		r.Subscribed(t)
	}
	announcer := b.New(t, address, Password)
	messages := []string{
		`{"version":2,"etag":"2-a","spread_ms":0}`, `{"version":2,"etag":"2-a","spread_ms":0}`, `{"version":1}`,
		`{"version":`, "\x00\xff\r\n+OK\r\nMSG fleetconf.config 1 99999999999\r\n$99999999999\r\n",
		strings.Repeat("x", 512<<10), " ",
	}
	for _, message := range messages {
		notifytest.Announce(t, announcer, message)
	}
	for _, r := range all {
		for _, message := range messages {
			r.Received(t, message)
		}
	}
}

// fleets checks that fleets on one broker do not receive each other's messages.
func (b Broker) fleets(t *testing.T) {
	address := notifytest.FreeAddress(t)
	b.Start(t, address, Password)
	receivers := map[string]*notifytest.Receiver{}
	for _, fleet := range []string{"a", "b", ""} {
		receivers[fleet] = notifytest.ListenOn(t, b.New(t, address, Password), notify.SubjectOf(fleet))
		receivers[fleet].Subscribed(t)
	}
	announcer := b.New(t, address, Password)
	for _, fleet := range []string{"a", "b", "", "a", "b", ""} {
		notifytest.AnnounceOn(t, announcer, notify.SubjectOf(fleet), "of "+fleet)
	}
	for fleet, r := range receivers {
		for range 2 {
			r.Received(t, "of "+fleet)
		}
	}
}

// burst checks a receiver that begins to read after 20 MiB of messages.
func (b Broker) burst(t *testing.T) {
	address := notifytest.FreeAddress(t)
	b.Start(t, address, Password)
	driver := b.New(t, address, Password)
	slow := &slowReceiver{
		subscribed: make(chan struct{}, 9), proceed: make(chan struct{}),
		received: make(chan string, 99), lost: make(chan error, 9),
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- driver.Run(ctx, notify.Subject, slow) }() // ends with cancel
	notifytest.Wait(t, slow.subscribed, "subscribed")
	const rounds, long = 23, 900 << 10
	for i := range rounds {
		notifytest.Announce(t, driver, strings.Repeat("x", long))
		notifytest.Announce(t, driver, fmt.Sprint(i))
	}
	close(slow.proceed)
	for i := range rounds {
		if got := notifytest.Wait(t, slow.received, "heard"); len(got) != long {
			t.Fatalf("heard %.100q, want %d bytes", got, long)
		}
		if got := notifytest.Wait(t, slow.received, "heard"); got != fmt.Sprint(i) {
			t.Fatalf("heard %.100q, want %d", got, i)
		}
	}
	select {
	case err := <-slow.lost:
		t.Errorf("the connection was lost: %v", err)
	default:
	}
	cancel()
	_ = notifytest.Wait(t, ended, "Run returns when its context ends")
}

// slowReceiver reads its first message when proceed is closed.
type slowReceiver struct {
	subscribed, proceed chan struct{}
	received            chan string
	lost                chan error
}

func (r *slowReceiver) Subscribed()    { r.subscribed <- struct{}{} }
func (r *slowReceiver) Lost(err error) { r.lost <- err }

func (r *slowReceiver) Received(message []byte) {
	<-r.proceed
	r.received <- string(message)
}

func (b Broker) brokerStartsLate(t *testing.T) {
	address := notifytest.FreeAddress(t)
	driver := b.New(t, address, Password)
	r := notifytest.Listen(t, driver)
	first := r.Lost(t)
	other := notifytest.Listen(t, b.New(t, address, Password))
	if again := other.Lost(t); first.Error() != again.Error() {
		t.Errorf("the same failure has two texts:\n%v\n%v", first, again)
	}
	if err := driver.Announce(t.Context(), notify.Subject, []byte("lost")); err == nil {
		t.Error("an announcement without a broker succeeded")
	}
	b.Start(t, address, Password)
	r.Subscribed(t)
	other.Subscribed(t)
	notifytest.Announce(t, driver, "late")
	r.Received(t, "late")
	other.Received(t, "late")
}

func (b Broker) brokerRestarts(t *testing.T) {
	address := notifytest.FreeAddress(t)
	stop := b.Start(t, address, Password)
	driver := b.New(t, address, Password)
	r := notifytest.Listen(t, driver)
	r.Subscribed(t)
	notifytest.Announce(t, driver, "before")
	r.Received(t, "before")
	for _, message := range []string{"one", "two"} {
		stop()
		_ = r.Lost(t)
		stop = b.Start(t, address, Password)
		r.Subscribed(t)
		notifytest.Announce(t, driver, message)
		r.Received(t, message)
	}
}

func (b Broker) flaps(t *testing.T) {
	proxy := b.proxied(t)
	driver := b.New(t, proxy.Listen, Password)
	r := notifytest.Listen(t, driver)
	r.Subscribed(t)
	for i := range 3 {
		proxy.Stop()
		_ = r.Lost(t)
		if err := proxy.Start(); err != nil {
			t.Fatal(err)
		}
		r.Subscribed(t)
		notifytest.Announce(t, driver, fmt.Sprint(i))
		r.Received(t, fmt.Sprint(i))
	}
}

func (b Broker) hangs(t *testing.T) {
	proxy := b.proxied(t)
	driver := b.New(t, proxy.Listen, Password)
	r := notifytest.Listen(t, driver)
	r.Subscribed(t)
	addToxic(t, proxy, `{"name":"up","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`)
	addToxic(t, proxy, `{"name":"down","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := driver.Announce(ctx, notify.Subject, []byte("lost")); err == nil ||
		!strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("Announce: got %v, want the end of its context", err)
	}
	_ = r.Lost(t) // a ping was not answered
	removeToxic(t, proxy, "up")
	removeToxic(t, proxy, "down")
	r.Subscribed(t)
	notifytest.Announce(t, driver, "healed")
	r.Received(t, "healed")
}

func (b Broker) slow(t *testing.T) {
	proxy := b.proxied(t)
	addToxic(t, proxy, `{"name":"pieces","type":"slicer","stream":"downstream",
		"attributes":{"average_size":2,"size_variation":1,"delay":10}}`)
	addToxic(t, proxy, `{"name":"late","type":"latency","stream":"upstream","attributes":{"latency":20,"jitter":10}}`)
	driver := b.New(t, proxy.Listen, Password)
	r := notifytest.Listen(t, driver)
	r.Subscribed(t)
	for _, message := range []string{"in pieces", strings.Repeat("y", 500), ""} {
		notifytest.Announce(t, driver, message)
		r.Received(t, message)
	}
}

func (b Broker) cut(t *testing.T) {
	proxy := b.proxied(t)
	driver := b.New(t, proxy.Listen, Password)
	addToxic(t, proxy, `{"name":"cut","type":"limit_data","stream":"downstream","attributes":{"bytes":3}}`)
	r := notifytest.Listen(t, driver)
	_ = r.Lost(t)
	if err := driver.Announce(t.Context(), notify.Subject, []byte("cut")); err == nil {
		t.Error("an announcement without acknowledgement succeeded")
	}
	removeToxic(t, proxy, "cut")
	r.Subscribed(t)
	notifytest.Announce(t, driver, "whole")
	r.Received(t, "whole")
}

func (b Broker) wrongPassword(t *testing.T) {
	const other = "another-password-0123456789"
	address := notifytest.FreeAddress(t)
	stop := b.Start(t, address, other)
	driver := b.New(t, address, Password)
	r := notifytest.Listen(t, driver)
	for _, err := range []error{r.Lost(t), driver.Announce(t.Context(), notify.Subject, []byte("lost"))} {
		if err == nil || strings.Contains(err.Error(), Password) ||
			!strings.Contains(err.Error(), "credentials are refused") {
			t.Errorf("got %v, want an error about the credentials, without the password", err)
		}
	}
	stop()
	b.Start(t, address, Password)
	r.Subscribed(t)
	notifytest.Announce(t, driver, "right")
	r.Received(t, "right")
}

func (b Broker) brokerSilent(t *testing.T) {
	address := b.rogueBroker(t, nil, Violation{})
	driver := b.New(t, address, Password)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- driver.Announce(ctx, notify.Subject, []byte("lost")) }()
	r := notifytest.Listen(t, driver)
	cancel()
	if err := notifytest.Wait(t, ended, "Announce returns when its context ends"); err == nil {
		t.Error("Announce succeeded without an answer")
	}
	if err := r.Lost(t); strings.Contains(err.Error(), Password) {
		t.Errorf("the password is in %v", err)
	}
}

func (b Broker) violates(t *testing.T, violation Violation) {
	r := notifytest.Listen(t, b.New(t, b.rogueBroker(t, b.Confirms, violation), ""))
	for range 2 {
		if err := r.LostAtLast(t); !strings.Contains(err.Error(), violation.Error) {
			t.Errorf("got %v, want %q in it", err, violation.Error)
		}
	}
}

// rogueBroker returns the address of a broker that sends confirms and then violates the protocol.
func (b Broker) rogueBroker(t *testing.T, confirms []string, violation Violation) (address string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() { // until the listener is closed
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer func() { _ = conn.Close() }()
				stop := context.AfterFunc(t.Context(), func() { _ = conn.Close() })
				defer stop()
				converse(conn, confirms, violation)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		conns.Wait()
	})
	return listener.Addr().String()
}

func converse(conn net.Conn, confirms []string, violation Violation) {
	var read [4096]byte
	for _, step := range confirms {
		if step != "" {
			_, _ = conn.Write([]byte(step))
		}
		if _, err := conn.Read(read[:]); err != nil {
			return
		}
	}
	_, err := conn.Write([]byte(violation.Sends))
	for rest := bytes.Repeat([]byte(violation.Repeats), 1<<10); err == nil && len(rest) > 0; {
		_, err = conn.Write(rest)
	}
	for err == nil { // silent until the client disconnects
		_, err = conn.Read(read[:])
	}
}

// proxied starts a broker behind a proxy.
func (b Broker) proxied(t *testing.T) *toxiproxy.Proxy {
	t.Helper()
	address := notifytest.FreeAddress(t)
	b.Start(t, address, Password)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, "broker", notifytest.FreeAddress(t), address)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		proxy.Toxics.ResetToxics(context.Background())
		proxy.Stop()
	})
	return proxy
}

func addToxic(t *testing.T, proxy *toxiproxy.Proxy, toxic string) {
	t.Helper()
	if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		t.Fatal(err)
	}
}

func removeToxic(t *testing.T, proxy *toxiproxy.Proxy, toxic string) {
	t.Helper()
	if err := proxy.Toxics.RemoveToxic(t.Context(), toxic); err != nil {
		t.Fatal(err)
	}
}
