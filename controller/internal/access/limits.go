package access

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/fleetconf/fleetconf/pkg/limit"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// Limits are the rates of the route classes, in requests per second, each at least 1. After
// an idle second a class accepts a burst of that many requests.
type Limits struct {
	Register int // registrations and removals
	Config   int // polls
	Status   int // reports
	Admin    int // requests to routes of the admin
}

// mostRegistering is the maximum number of registrations in flight. The store writes them one
// at a time, and a registration that waits ten seconds fails: the limit suits a disk that
// stores 25 a second.
const mostRegistering = 250

// Names of the route classes, as metrics label them.
const (
	ClassRegister = "register"
	ClassPoll     = "poll"
	ClassReport   = "report"
	ClassAdmin    = "admin"
)

// class holds the limits of a route class.
type class struct {
	*limit.Class
	name string // the label of its metrics

	rejectedCallers *limit.Rejections // of requests that were not authorized
	bucket          limit.Bucket      // rate of unauthorized requests from one source

	warning  rate.Sometimes // limits the log lines about rejections
	reported atomic.Int64   // rejections that are in the log
}

// newClasses returns the class of each access rule; Anyone and the zero Rule have none.
// Registrations apart, a class admits as many requests in flight as its rate is per second:
// reports wait to be written in a batch, and others that take a second on average mean that
// the controller is overloaded.
func newClasses(l Limits) map[Rule]*class {
	register := newClass(ClassRegister, l.Register, min(l.Register, mostRegistering))
	return map[Rule]*class{
		Enrollers:     register,
		ItselfOrAdmin: register, // agents that all remove themselves must not use up the admin's limit
		Readers:       newClass(ClassPoll, l.Config, l.Config),
		Itself:        newClass(ClassReport, l.Status, l.Status),
		Admin:         newClass(ClassAdmin, l.Admin, l.Admin),
	}
}

func newClass(name string, perSecond, inFlight int) *class {
	return &class{
		Class: limit.New(perSecond, inFlight), name: name,
		rejectedCallers: limit.NewRejections(perSecond),
		bucket:          limit.Bucket{Burst: perSecond, Each: time.Second / time.Duration(perSecond)},
		warning:         rate.Sometimes{First: 1, Interval: time.Minute},
	}
}

// acquire takes a slot of the rule's class for an authorized request, and rejects the request
// if there is none. An admin on this machine needs no slot, and so can end an overload.
func (g *Guard) acquire(r Request, rule Rule, who kind) (*class, error) {
	k := g.classes[rule]
	if who == admin && server.FromLoopback(r.Request) {
		return nil, nil
	}
	if !k.Enter() {
		return nil, g.overflow(r, k, &k.Rejections, rule)
	}
	return k, nil
}

// countRejected counts an unauthorized request against its source. It returns a rejection
// once the source exceeds the rate of the whole class, and nil below that.
func (g *Guard) countRejected(r Request, rule Rule) error {
	k := g.classes[rule]
	if g.rejectedCallers.Take(g.rejectedCallers.Key(k.name, limit.Source(g.source(r.Request))), k.bucket) == 0 {
		return nil
	}
	return g.overflow(r, k, k.rejectedCallers, rule)
}

// churn limits the registrations of new agents, and the removals of agents by themselves, from
// one source. The limits of a single agent do not cover them, and each adds an entry to the
// audit log that cannot be deleted. The burst lets a fleet of 10000 agents behind one address
// start at the same time.
var churn = limit.Bucket{Burst: 10_000, Each: time.Second / 10}

// AllowChurn counts a registration of a new agent, or a removal of an agent by itself. It
// fails with 429 if the source sent too many. Requests from this machine are not limited.
func (g *Guard) AllowChurn(r Request) error {
	if server.FromLoopback(r.Request) {
		return nil
	}
	wait := g.churn.Take(g.churn.Key("", limit.Source(g.source(r.Request))), churn)
	if wait == 0 {
		return nil
	}
	problem.RetryAfter(r.Response, wait+rand.N(limit.MaxRetryAfter-wait))
	return problem.New(http.StatusTooManyRequests,
		"too many new agents registered, or agents removed themselves, from this network; "+
			"retry after the time in Retry-After")
}

// overflow returns the rejection of a request that exceeds the limits of class k: 429, or 503
// while the controller stops. Its Retry-After grows with the recent rejections.
func (g *Guard) overflow(r Request, k *class, rejections *limit.Rejections, rule Rule) error {
	problem.RetryAfter(r.Response, rejections.Reject())
	if rule == Readers {
		r.Response.Set(wire.HeaderPollInterval, strconv.Itoa(int(g.pollInterval()/time.Second)))
	}
	k.warning.Do(func() {
		total := k.rejected()
		g.Log.WithFields(logrus.Fields{
			"class": k.name, "rejected": total - k.reported.Swap(total), "in_flight": k.InFlight(),
		}).Warn("Requests rejected; others within a minute are counted, not logged")
	})
	select {
	case <-g.Draining:
		return problem.New(http.StatusServiceUnavailable, "the controller is stopping; retry")
	default:
		return problem.New(
			http.StatusTooManyRequests, "too many requests of class %s; retry after the time in Retry-After", k.name,
		)
	}
}

// rejected returns how many requests exceeded the limits of the class since the start.
func (k *class) rejected() int64 { return k.Rejected() + k.rejectedCallers.Rejected() }

// Release releases the request's slot, if it has one.
func (c *Caller) Release() {
	if c.class != nil {
		c.class.Leave()
		c.class = nil
	}
}

// ReleaseWhileHeld releases the request's slot while its response is held. reacquire takes a
// slot again, even if the class is full; it need not be called if the client disconnects.
func (c *Caller) ReleaseWhileHeld() (reacquire func()) {
	k := c.class
	if k == nil {
		return func() {}
	}
	c.Release()
	return func() {
		k.Return()
		c.class = k
	}
}
