package api

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

// class holds the limits of a route class.
type class struct {
	*limit.Class
	name string // the label of its metrics

	rejectedCallers *limit.Rejections // of requests that were not authorized
	bucket          limit.Bucket      // rate of unauthorized requests from one source

	warning  rate.Sometimes // limits the log lines about rejections
	reported atomic.Int64   // rejections that are in the log
}

// newClasses returns the class of each access rule; open and closed routes have none.
// Registrations apart, a class admits as many requests in flight as its rate is per second:
// reports wait to be written in a batch, and others that take a second on average mean that
// the controller is overloaded.
func newClasses(l Limits) map[access]*class {
	register := newClass(registering, l.Register, min(l.Register, mostRegistering))
	return map[access]*class{
		enrolling:     register,
		removing:      register, // agents that all remove themselves must not use up the admin's limit
		reading:       newClass(polls, l.Config, l.Config),
		reporting:     newClass(reports, l.Status, l.Status),
		administering: newClass(admins, l.Admin, l.Admin),
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
func (a *API) acquire(c *call, rule access, who caller) error {
	k := a.classes[rule]
	if who == admin && server.FromLoopback(c.Request) {
		return nil
	}
	if !k.Enter() {
		return a.overflow(c, k, &k.Rejections, rule)
	}
	c.class = k
	return nil
}

// countRejected counts an unauthorized request against its source. It returns a rejection
// once the source exceeds the rate of the whole class, and nil below that.
func (a *API) countRejected(c *call, rule access) error {
	k := a.classes[rule]
	if a.rejectedCallers.Take(a.rejectedCallers.Key(k.name, limit.Source(c.source())), k.bucket) == 0 {
		return nil
	}
	return a.overflow(c, k, k.rejectedCallers, rule)
}

// churn limits the registrations of new agents, and the removals of agents by themselves, from
// one source. The limits of a single agent do not cover them, and each adds an entry to the
// audit log that cannot be deleted. The burst lets a fleet of 10000 agents behind one address
// start at the same time.
var churn = limit.Bucket{Burst: 10_000, Each: time.Second / 10}

// allowChurn counts a request against churn. It fails with 429 if the source has exceeded it.
// Requests from this machine are not limited.
func (a *API) allowChurn(c *call) error {
	if server.FromLoopback(c.Request) {
		return nil
	}
	wait := a.churn.Take(a.churn.Key("", limit.Source(c.source())), churn)
	if wait == 0 {
		return nil
	}
	problem.RetryAfter(c.Writer.Header(), wait+rand.N(limit.MaxRetryAfter-wait))
	return problem.New(http.StatusTooManyRequests,
		"too many new agents registered, or agents removed themselves, from this network; "+
			"retry after the time in Retry-After")
}

// overflow returns the rejection of a request that exceeds the limits of class k: 429, or 503
// while the controller stops. Its Retry-After grows with the recent rejections.
func (a *API) overflow(c *call, k *class, rejections *limit.Rejections, rule access) error {
	h := c.Writer.Header()
	problem.RetryAfter(h, rejections.Reject())
	if rule == reading {
		h.Set(wire.HeaderPollInterval, strconv.Itoa(seconds(a.Publisher.Plan().PollInterval())))
	}
	k.warning.Do(func() {
		total := k.rejected()
		a.Log.WithFields(logrus.Fields{
			"class": k.name, "rejected": total - k.reported.Swap(total), "in_flight": k.InFlight(),
		}).Warn("Requests rejected; others within a minute are counted, not logged")
	})
	select {
	case <-a.Draining:
		return problem.New(http.StatusServiceUnavailable, "the controller is stopping; retry")
	default:
		return problem.New(
			http.StatusTooManyRequests, "too many requests of class %s; retry after the time in Retry-After", k.name,
		)
	}
}

// rejected returns how many requests exceeded the limits of the class since the start.
func (k *class) rejected() int64 { return k.Rejected() + k.rejectedCallers.Rejected() }

// release releases the request's slot, if it has one.
func (c *call) release() {
	if c.class != nil {
		c.class.Leave()
		c.class = nil
	}
}

// releaseWhileHeld releases the request's slot while its response is held. reacquire takes a
// slot again, even if the class is full; it need not be called if the client disconnects.
func (c *call) releaseWhileHeld() (reacquire func()) {
	c.measured = c.measured.held
	k := c.class
	if k == nil {
		return func() {}
	}
	c.release()
	return func() {
		k.Return()
		c.class = k
	}
}
