package poll

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Ticket is a long poll without a response yet. Its methods must not be called
// concurrently, nor after Disconnect or a Resume that returned true.
type Ticket struct {
	offer offer
	wait  time.Duration

	waiter     waiter
	timer      *time.Timer // ends the wait
	over       atomic.Bool // the timer has fired
	stopOffers func()      // ends the agent's OnOffer; nil for a caller that is not an agent
}

// begin starts the wait. done means that there is a response already.
func (t *Ticket) begin(wake func()) (done bool) {
	t.waiter.wake = wake
	if self := t.offer.self; self != nil {
		t.stopOffers = self.OnOffer(wake)
	}
	// The random slack keeps polls that began together from ending together.
	t.timer = time.AfterFunc(t.wait+rand.N(wire.WaitSlack(t.wait)+1), func() { t.over.Store(true); wake() })
	return t.decide()
}

// Resume must be called after each wake-up. It returns the response and true, or false if
// the poll continues to wait.
func (t *Ticket) Resume() (response Response, done bool) {
	if !t.over.Load() && !t.decide() {
		return Response{}, false
	}
	response, _ = t.end()
	return response, true
}

// decide joins the waiters and decides again. done means that there is a response now.
func (t *Ticket) decide() (done bool) {
	o := &t.offer
	o.service.Waiters.leave(&t.waiter)
	joined := o.service.Waiters.join(&t.waiter) // before the plan is read, so that no change is missed
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
	o.seen.At = time.Now().UTC() // the agent was connected until now
	o.record(0)
	return o.response(t.wait), nil
}

// Disconnect ends the wait because the client disconnected.
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
