package poll

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Ticket is a poll whose response is held. Its methods are called one at a time.
type Ticket struct {
	offer offer
	wait  time.Duration

	waiter     waiter
	timer      *time.Timer // ends the wait
	over       atomic.Bool // it did
	stopOffers func()
}

// begin has the ticket wait. It reports whether there is a response already.
func (t *Ticket) begin(wake func()) (done bool) {
	t.waiter.wake = wake
	if self := t.offer.self; self != nil {
		t.stopOffers = self.OnOffer(wake)
	}
	// Polls that began together do not end together.
	t.timer = time.AfterFunc(t.wait+rand.N(wire.WaitSlack(t.wait)+1), func() { t.over.Store(true); wake() })
	return t.look()
}

// Resume is called after each wake-up. It returns the response, or false if the response
// is still held.
func (t *Ticket) Resume() (response Response, done bool) {
	if !t.over.Load() && !t.look() {
		return Response{}, false
	}
	response, _ = t.end()
	return response, true
}

// look joins the waiters, and reports whether there is a response now.
func (t *Ticket) look() (done bool) {
	o := &t.offer
	o.service.Waiters.leave(&t.waiter)
	joined := o.service.Waiters.join(&t.waiter) // before the look: what changes after it wakes
	o.decide(o.service.Publisher.Plan())
	return !joined || o.due() || t.deregistered()
}

func (t *Ticket) deregistered() bool { return t.offer.self != nil && t.offer.self.Deregistered() }

// end ends the wait, and returns the response.
func (t *Ticket) end() (Response, *Ticket) {
	t.stop()
	o := &t.offer
	if t.deregistered() {
		return Response{Status: StatusUnauthorized, wait: waitValue(t.wait)}, nil
	}
	o.seen.At = time.Now().UTC() // it was here until now
	o.record(0)
	return o.response(t.wait), nil
}

// Disconnect ends the wait of a client that has disconnected.
func (t *Ticket) Disconnect() {
	t.stop()
	if o := &t.offer; o.self != nil {
		o.service.Agents.Disconnected(o.self, o.seen, o.plan.PollInterval())
	}
}

func (t *Ticket) stop() {
	t.timer.Stop()
	if t.stopOffers != nil {
		t.stopOffers()
	}
	t.offer.service.Waiters.leave(&t.waiter)
}
