package api

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/fleetconf/fleetconf/controller/internal/limit"
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

	telling rate.Sometimes // how often a herd is worth a warning
	told    atomic.Int64   // of how many turned away the log has told
}

// newClasses returns the class of each door; an open one has none. Except for
// registrations, as many may be in flight as come in a second: reports wait for
// each other to be written together, and where the others take longer than that
// the controller has more than it can serve.
func newClasses(l Limits) map[door]*class {
	register := newClass(registering, l.Register, min(l.Register, mostRegistering))
	return map[door]*class{
		enrolling:     register,
		removing:      register, // the agents of a fleet that is taken down must not shut out the admin
		reading:       newClass(polls, l.Config, l.Config),
		reporting:     newClass(reports, l.Status, l.Status),
		administering: newClass(admins, l.Admin, l.Admin),
	}
}

func newClass(name string, perSecond, inFlight int) *class {
	return &class{Class: limit.New(perSecond, inFlight), name: name, telling: rate.Sometimes{First: 1, Interval: time.Minute}}
}

// enter lets a request in if its class has room, before anything is spent on
// whose it is. It must leave. Who claims to be an admin and is one shares no limit
// with those who are not, and on this machine has none: from there a herd can be
// ended.
func (a *API) enter(c *call, d door) error {
	k := a.classes[d]
	if d == administering && a.isAdmin(c.GetHeader("Authorization")) {
		k = a.proven
	}
	switch {
	case k == nil, d == administering && server.FromLoopback(c.Request):
		return nil // counted nowhere
	case k.Enter():
		c.class = k
		return nil
	case server.FromLoopback(c.Request) && a.isAdmin(c.GetHeader("Authorization")):
		return nil
	}
	return a.overflow(c, k, d)
}

// overflow answers a request that its class has no room for.
func (a *API) overflow(c *call, k *class, d door) error {
	h := c.Writer.Header()
	server.RetryAfter(h, k.TurnAway())
	if d == reading {
		h.Set(wire.HeaderPollInterval, strconv.Itoa(seconds(a.Configs.PollInterval())))
	}
	k.telling.Do(func() {
		total := k.TurnedAway()
		a.Log.WithFields(logrus.Fields{"class": k.name, "turned_away": total - k.told.Swap(total), "in_flight": k.InFlight()}).
			Warn("Requests turned away; more within a minute are counted, not logged")
	})
	select {
	case <-a.Draining:
		return problem.New(http.StatusServiceUnavailable, "the controller is stopping; ask again")
	default:
		return problem.New(http.StatusTooManyRequests, "more requests of this kind (%s) came than are let in at once; ask again after the time in Retry-After", k.name)
	}
}

// leave gives back the place of a request.
func (c *call) leave() {
	if c.class != nil {
		c.class.Leave()
		c.class = nil
	}
}

// stepAside gives back the place of a request while it waits for something to
// happen; back takes it again, be there room or not. Who does not come back has
// left.
func (c *call) stepAside() (back func()) {
	c.measured = c.measured.held
	k := c.class
	if k == nil {
		return func() {}
	}
	c.leave()
	return func() {
		k.Return()
		c.class = k
	}
}
