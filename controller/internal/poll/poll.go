// Package poll responds to the polls of agents, immediately or as soon as the offer
// changes (long polling). It knows of HTTP only header values and status codes. The owner
// of the connection calls Begin, and Ticket.Resume after each wake-up. So a waiting
// connection needs no goroutine.
package poll

import (
	"strconv"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Publisher has the current plan.
type Publisher interface {
	// Plan returns the current plan.
	Plan() *models.Plan
	// ObserveTag takes the ETag of the version that an agent runs into account, as
	// publish.Publisher does.
	ObserveTag(plan *models.Plan, tag string) (after *models.Plan, ahead int64, foreign bool)
}

// Options are the parts and settings of a Service.
type Options struct {
	Publisher Publisher
	Agents    *registry.Registry
	Waiters   *Waiters

	Fleet         string         // the id of the fleet
	Broker        wire.Transport // the broker that versions are announced over; empty for none
	SweepInterval time.Duration  // the resync interval of agents that are subscribed to Broker
}

// Service responds to polls. Begin may be called concurrently.
type Service struct {
	Options
	sweep []string // SweepInterval as a header value
	fleet []string // Fleet as a header value
}

// New returns a Service with those options.
func New(o Options) *Service {
	return &Service{
		Options: o, sweep: []string{strconv.Itoa(int(o.SweepInterval / time.Second))}, fleet: []string{o.Fleet},
	}
}

// Request is a poll.
type Request struct {
	Self      *registry.Agent // the agent that polls; nil if the caller is not an agent
	Header    map[string][]string
	Wait      time.Duration // the longest delay of the response; below 0 if none was requested
	OnWake    func()        // called when the Ticket is to be resumed; must not block; required if Wait > 0
	StartedAt time.Time
}

// The status codes of a Response (RFC 9110 §15).
const (
	StatusOK           = 200
	StatusNotModified  = 304
	StatusUnauthorized = 401 // the agent was removed during its long poll
	StatusNotFound     = 404
)

// Response is the response to a poll.
type Response struct {
	Status int
	Body   []byte // of a 200
	Detail string // of a 404: the reason

	service   *Service
	plan      *models.Plan
	transport wire.Transport
	tag       []string
	older     []string // value of X-Older-Because; nil for none
	wait      []string // value of X-Wait-Seconds; nil for none
}

var (
	jsonType = []string{"application/json"}
	noCache  = []string{"private, no-cache"} // may be stored, but must be revalidated (RFC 9111 §5.2.2)
)

// SetHeader adds the headers of the response to h.
func (r *Response) SetHeader(h map[string][]string) {
	if r.wait != nil {
		h[wire.HeaderWait] = r.wait
	}
	if r.Status == StatusUnauthorized {
		return
	}
	h[wire.HeaderFleet] = r.service.fleet
	if r.transport == r.service.Broker {
		h[wire.HeaderSweepInterval] = r.service.sweep
	}
	current := r.plan.Newest
	if current == nil {
		h[wire.HeaderPollInterval] = []string{strconv.Itoa(int(r.plan.PollInterval() / time.Second))}
		return
	}
	h[wire.HeaderPollInterval] = current.Interval
	h["Cache-Control"] = noCache
	if r.tag != nil {
		h["Etag"] = r.tag
	}
	if r.Status != StatusOK {
		return
	}
	h["Content-Type"], h["Content-Length"] = jsonType, current.Length
	if spread := r.plan.SpreadAt(time.Now()); spread > 0 {
		h[wire.HeaderSpread] = []string{strconv.FormatInt(spread.Milliseconds(), 10)}
	}
	if r.older != nil {
		h[wire.HeaderOlderBecause] = r.older
	}
}

// Begin responds to a poll. If ticket is not nil, there is no response yet: the caller
// waits for OnWake and calls Resume, or calls Disconnect.
func (s *Service) Begin(r Request) (response Response, ticket *Ticket) {
	wait := r.Wait
	if wait >= 0 && s.Waiters.Full() {
		wait = -1
	}
	o := s.offer(&r, wait)
	o.decide(s.Publisher.Plan())
	o.record(max(wait, 0))
	if wait <= 0 || o.due() {
		return o.response(wait), nil
	}
	t := &Ticket{offer: o, wait: wait}
	if done := t.begin(r.OnWake); done {
		return t.end()
	}
	return Response{}, t
}
