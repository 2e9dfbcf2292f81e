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

// Limits is how many requests of each class are let in a second, each at least
// one; and how many of them at once after a quiet second.
type Limits struct {
	Register int // registrations and removals
	Config   int // polls
	Status   int // reports
	Admin    int // all that only an admin may call
}

// mostRegistering is how many registrations may wait for each other: the disk
// writes one at a time, and one that waits ten seconds has failed. A disk that
// takes 25 a second is slow enough for anybody.
const mostRegistering = 250

// class is the requests that share a limit.
type class struct {
	*limit.Class
	name string // as it is measured

	rejectedCallers *limit.Rejections // of those that may not pass
	bucket          limit.Bucket      // of the strangers at one source

	warning  rate.Sometimes // how often a herd is worth a warning
	reported atomic.Int64   // of how many turned away the log has told
}

// newClasses returns the class of each door; an open one has none. Except for
// registrations, as many may be in flight as come in a second: reports wait for
// each other to be written together, and where the others take longer than that
// the controller has more than it can serve.
func newClasses(l Limits) map[access]*class {
	register := newClass(registering, l.Register, min(l.Register, mostRegistering))
	return map[access]*class{
		enrolling:     register,
		removing:      register, // the agents of a fleet that is taken down must not shut out the admin
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

// enter takes a place of the class for a request that may pass the door d. An admin
// on this machine needs none: from there an overload can be ended.
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

// charge counts a request that may not pass the door d, and rejects it if more came
// from its source than the class takes of all callers.
func (a *API) countRejected(c *call, rule access) error {
	k := a.classes[rule]
	if a.rejectedCallers.Take(a.rejectedCallers.Key(k.name, limit.Source(c.source())), k.bucket) == 0 {
		return nil
	}
	return a.overflow(c, k, k.rejectedCallers, rule)
}

// churn is how many registrations of new agents, and removals of agents by themselves,
// are accepted from one source. No limit of a single agent holds for them, and each
// leaves an entry in the audit log that cannot be deleted. A fleet of 10000 behind one
// address can start at the same time.
var churn = limit.Bucket{Burst: 10_000, Each: time.Second / 10}

// allowChurn counts a request against churn: 429 if too many came from its source.
// This machine has no limit.
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
			"try again after the time in Retry-After")
}

// overflow answers a request that its class has no room for. With it wait the others
// of line.
func (a *API) overflow(c *call, k *class, rejections *limit.Rejections, rule access) error {
	h := c.Writer.Header()
	problem.RetryAfter(h, rejections.Reject())
	if rule == reading {
		h.Set(wire.HeaderPollInterval, strconv.Itoa(seconds(a.Publisher.Plan().PollInterval())))
	}
	k.warning.Do(func() {
		total := k.rejected()
		a.Log.WithFields(logrus.Fields{"class": k.name, "turned_away": total - k.reported.Swap(total), "in_flight": k.InFlight()}).
			Warn("Requests turned away; more within a minute are counted, not logged")
	})
	select {
	case <-a.Draining:
		return problem.New(http.StatusServiceUnavailable, "the controller is stopping; ask again")
	default:
		return problem.New(http.StatusTooManyRequests, "more requests of this kind (%s) came than are let in at once; ask again after the time in Retry-After", k.name)
	}
}

// rejected is how many requests found no room, ever.
func (k *class) rejected() int64 { return k.Rejected() + k.rejectedCallers.Rejected() }

// leave gives back the place of a request.
func (c *call) release() {
	if c.class != nil {
		c.class.Leave()
		c.class = nil
	}
}

// releaseWhileHeld gives back the place of a request while it waits for something to
// happen; back takes it again, be there room or not. Who does not come back has
// clientGone.
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
