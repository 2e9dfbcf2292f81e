// Package notifytest has test helpers for announcements.
package notifytest

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/pkg/notify"
)

// timeout is the timeout of each wait.
const timeout = 90 * time.Second

// FreeAddress returns a free loopback address. Its port is below 32768, so Linux does not use it for
// outgoing connections, and a restarted broker finds it free.
func FreeAddress(t *testing.T) string {
	t.Helper()
	var err error
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+rand.IntN(22_768)))
		listener, listenErr := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
		if listenErr == nil {
			_ = listener.Close()
			return address
		}
		err = listenErr
	}
	t.Fatal(err)
	return ""
}

// Announce announces a message on notify.Subject, which must succeed.
func Announce(t *testing.T, a notify.Announcer, message string) {
	t.Helper()
	AnnounceOn(t, a, notify.Subject, message)
}

// AnnounceOn announces a message on a subject, which must succeed.
func AnnounceOn(t *testing.T, a notify.Announcer, subject, message string) {
	t.Helper()
	if err := a.Announce(t.Context(), subject, []byte(message)); err != nil {
		t.Fatalf("Announce: %v", err)
	}
}

// event is a call of a receiver.
type event struct {
	kind    string
	err     error
	message string
}

// Receiver records the calls of a subscriber, and checks their order.
type Receiver struct {
	events chan event

	mu         sync.Mutex
	subscribed bool
	lost       bool
}

// Listen runs a subscriber until the test ends.
func Listen(t *testing.T, s notify.Subscriber) *Receiver {
	t.Helper()
	return ListenOn(t, s, notify.Subject)
}

// ListenOn runs a subscriber to a subject until the test ends.
func ListenOn(t *testing.T, s notify.Subscriber, subject string) *Receiver {
	t.Helper()
	r := &Receiver{events: make(chan event, 1<<10)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, subject, observer{t, r}) }() // ends with cancel
	t.Cleanup(func() {
		cancel()
		if err := Wait(t, ended, "Run returns when its context ends"); err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
	return r
}

// Subscribed waits for Subscribed.
func (r *Receiver) Subscribed(t *testing.T) {
	t.Helper()
	r.next(t, "subscribed")
}

// Lost waits for Lost.
func (r *Receiver) Lost(t *testing.T) error {
	t.Helper()
	return r.next(t, "lost").err
}

// LostAtLast waits for Lost and ignores other events.
func (r *Receiver) LostAtLast(t *testing.T) error {
	t.Helper()
	for {
		if e := Wait(t, r.events, "lost"); e.kind == "lost" {
			return e.err
		}
	}
}

// Received waits for a message.
func (r *Receiver) Received(t *testing.T, message string) {
	t.Helper()
	if got := r.next(t, "heard"); got.message != message {
		t.Fatalf("heard %.100q (%d bytes), want %.100q (%d bytes)", got.message, len(got.message), message,
			len(message))
	}
}

// Eventually calls say until message is received, and ignores other events.
func (r *Receiver) Eventually(t *testing.T, message string, say func(message string)) {
	t.Helper()
	for end := time.Now().Add(timeout); time.Now().Before(end); {
		say(message)
		select {
		case e := <-r.events:
			if e.message == message {
				return
			}
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatalf("not within %s: %q is received", timeout, message)
}

func (r *Receiver) next(t *testing.T, kind string) event {
	t.Helper()
	got := Wait(t, r.events, kind)
	if got.kind != kind {
		t.Fatalf("got %s (%v, %.100q), want %s", got.kind, got.err, got.message, kind)
	}
	return got
}

// Wait receives from a channel.
func Wait[T any](t *testing.T, from <-chan T, what string) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(timeout):
		t.Fatalf("not within %s: %s", timeout, what)
	}
	return got
}

// observer is the notify.Receiver of a Receiver.
type observer struct {
	t *testing.T
	r *Receiver
}

func (w observer) record(e event, change func()) {
	if !w.r.mu.TryLock() {
		w.t.Errorf("%s: two calls at a time", e.kind)
		return
	}
	defer w.r.mu.Unlock()
	change()
	w.r.events <- e
}

func (w observer) Subscribed() {
	w.record(event{kind: "subscribed"}, func() {
		if w.r.subscribed {
			w.t.Error("Subscribed twice without Lost")
		}
		w.r.subscribed, w.r.lost = true, false
	})
}

func (w observer) Lost(err error) {
	w.record(event{kind: "lost", err: err}, func() {
		if w.r.lost || err == nil {
			w.t.Errorf("Lost twice without Subscribed, or without an error: %v", err)
		}
		w.r.subscribed, w.r.lost = false, true
	})
}

func (w observer) Received(message []byte) {
	w.record(event{kind: "heard", message: string(message)}, func() {
		if !w.r.subscribed {
			w.t.Error("Received before Subscribed")
		}
	})
}
