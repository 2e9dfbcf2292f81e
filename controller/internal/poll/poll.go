// Package poll answers the polls of agents, immediately or once there is something
// newer. It knows no HTTP beyond header values: the holder of the connection calls Begin,
// and Ticket.Resume whenever the poll is woken. So a connection that waits needs no
// goroutine.
package poll

import (
	"strconv"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Publisher has the plan.
type Publisher interface {
	Plan() *models.Plan
	// ObserveTag notes the ETag of what an agent runs; see publish.Publisher.
	ObserveTag(plan *models.Plan, tag string) (after *models.Plan, ahead int64, foreign bool)
}

// Options are what a Service is made of.
type Options struct {
	Publisher Publisher
	Agents    *registry.Registry
	Waiters   *Waiters

	Fleet         string         // the id of the fleet
	Broker        wire.Transport // the broker that versions are announced over; empty for none
	SweepInterval time.Duration  // how often agents poll while that broker tells them of newer versions
}

// Service answers polls.
type Service struct {
	Options
	sweep []string // SweepInterval as a header value
	fleet []string // Fleet as one
}

// New returns a Service.
func New(o Options) *Service {
	return &Service{Options: o, sweep: []string{strconv.Itoa(int(o.SweepInterval / time.Second))}, fleet: []string{o.Fleet}}
}

// Request is a poll.
type Request struct {
	Self      *registry.Agent // the agent that polls, nil if the caller is none
	Header    map[string][]string
	Wait      time.Duration // how long the response may be held, at most; below 0 if the caller did not ask
	OnWake    func()        // is called, and must not block, when the Ticket is to be resumed; nil if Wait is 0 or less
	StartedAt time.Time
}

// The status codes of a Response (RFC 9110 §15).
const (
	StatusOK           = 200
	StatusNotModified  = 304
	StatusUnauthorized = 401 // the agent was removed while it waited
	StatusNotFound     = 404
)

// Response is the response to a poll.
type Response struct {
	Status int
	Body   []byte // of a 200
	Detail string // why, of a 404

	service   *Service
	plan      *models.Plan
	transport wire.Transport
	tag       []string
	older     []string // value of X-Older-Because; nil for none
	wait      []string // value of X-Wait-Seconds; nil for none
}

var (
	jsonType = []string{"application/json"}
	noCache  = []string{"private, no-cache"} // RFC 9111 §5.2.2: store it, but validate each time
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

// Begin answers a poll. If the response is held, ticket is not nil, and the response
// comes from its Resume.
func (s *Service) Begin(r Request) (response Response, ticket *Ticket) {
	wait := r.Wait
	if s.Waiters.Full() {
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
