package poll

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/pkg/etag"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// offer is what a caller says of itself, and what it is offered at a moment.
type offer struct {
	service *Service
	self    *registry.Agent
	tags    []string // the lines of If-None-Match
	applied applied
	seen    models.Poll // what the poll says of the agent

	plan    *models.Plan    // what decides
	release *models.Release // what the caller should run; nil: keep what it runs
	reason  models.Reason
	runs    int64 // the version that the agent may run, the highest of several
	resumed bool  // an admin has let the agent follow the store
	status  int   // 200, 304 or 404
	// unchanged says that the caller runs what a 200 has: without If-None-Match a 304
	// would be no proper response.
	unchanged bool
}

// applied is what a caller says that it runs, in headers that no gateway changes. The
// zero value is nothing.
type applied struct {
	version int64
	content string // the hash
}

func (s *Service) offer(r *Request, wait time.Duration) offer {
	o := offer{service: s, self: r.Self, tags: r.Header["If-None-Match"], applied: appliedOf(r.Header)}
	o.seen = models.Poll{
		At: r.StartedAt, Transport: s.transportOf(r.Header, wait), Degraded: text(r.Header, wire.HeaderWorkerError),
	}
	if o.seen.Transport == wire.Polling {
		o.seen.PushError = text(r.Header, wire.HeaderPushError)
	}
	return o
}

func appliedOf(h map[string][]string) applied {
	version, content := h[wire.HeaderAppliedVersion], h[wire.HeaderAppliedContent]
	if len(version) != 1 || len(content) != 1 || len(content[0]) != etag.HashLength {
		return applied{}
	}
	n, err := strconv.ParseInt(version[0], 10, 64)
	if err != nil || n < 1 {
		return applied{}
	}
	return applied{n, content[0]}
}

// transportOf returns how the caller receives hints of a newer version. A broker that
// this controller does not announce over brings none.
func (s *Service) transportOf(h map[string][]string, wait time.Duration) wire.Transport {
	switch named := h[wire.HeaderTransport]; {
	case wait > 0 && len(named) == 1 && named[0] == string(wire.Polling):
		return wire.Polling // no wait of it was ever held
	case wait > 0:
		return wire.LongPoll
	case len(named) == 1 && s.Broker != "" && named[0] == string(s.Broker):
		return s.Broker
	}
	return wire.Polling
}

// text returns the text in a header, "" if it is absent.
func text(h map[string][]string, name string) string {
	if lines := h[name]; len(lines) > 0 {
		return wire.HeaderText(lines[0])
	}
	return ""
}

// due reports whether the response is one that is not delayed.
func (o *offer) due() bool { return o.status == StatusOK && !o.unchanged }

// decide finds what the caller should run by a plan, and the status of the response.
func (o *offer) decide(plan *models.Plan) {
	current, newest := plan.Newest, plan.Version()
	names := current != nil && etag.NoneMatch(o.tags, current.ETag)
	o.plan, o.release, o.reason, o.unchanged = plan, current, models.Reason{}, false
	if o.self != nil {
		if after := o.observe(names && o.tags[0] != "*"); after != plan {
			o.decide(after) // the first agent that runs a later version than the store has
			return
		}
	}
	runs := current != nil && o.applied == applied{newest, current.Content}
	switch {
	case names && (runs || o.applied == applied{}):
		o.status = StatusNotModified
		return
	case runs:
		o.status, o.unchanged = StatusOK, true
		return
	}
	var traits models.Traits
	if o.self != nil {
		traits = o.self.Traits(o.seen.Foreign, newest)
		traits.Runs, traits.Unknown = o.runs, o.seen.Unknown
		o.seen.Mismatch = current != nil && o.mismatch(names)
	}
	o.resumed = traits.Held == models.Released
	o.release, o.reason = plan.For(traits)
	switch _, one := etag.Single(o.tags); {
	case o.release != nil:
		o.status = StatusOK
	case one && current != nil:
		o.status = StatusNotModified // against what it runs
	default:
		o.status = StatusNotFound
	}
}

// observe finds out which version an agent runs, and returns the plan that follows from
// it. names says that the agent sent the ETag of the newest version.
func (o *offer) observe(names bool) *models.Plan {
	v, newest := &o.seen, o.plan.Version()
	v.Runs, v.Newest, v.Unknown, v.Foreign, v.Mismatch = o.applied.version, newest, false, false, false
	if names {
		v.Runs, o.runs = newest, newest
		return o.plan
	}
	plan := o.plan
	if tag, one := etag.Single(o.tags); one {
		var ahead int64
		if plan, ahead, v.Foreign = o.service.Publisher.ObserveTag(plan, tag); ahead != 0 {
			v.Runs, o.runs = ahead, ahead
			return plan
		}
	}
	v.Foreign = v.Runs > newest
	o.runs = v.Runs
	for _, line := range o.tags {
		version := cmp.Or(models.VersionOf(line), o.applied.version) // 0: the ETag of a gateway
		o.runs, v.Unknown = max(o.runs, version), v.Unknown || version == 0
	}
	return plan
}

// mismatch reports whether what the agent holds is not the content of the version that
// it says it runs. names says that it sent the ETag of the newest version. The ETag of
// an earlier version tells the content of that.
func (o *offer) mismatch(names bool) bool {
	switch {
	case o.applied == applied{}:
		return false
	case names || o.applied.version == o.plan.Version():
		return true // decide knows that it does not run the newest
	}
	tag, one := etag.Single(o.tags)
	content := models.ContentOf(tag)
	return one && content != "" && models.VersionOf(tag) == o.applied.version && content != o.applied.content
}

// record notes that the agent was here, and what it runs. The response is held for wait.
func (o *offer) record(wait time.Duration) {
	if o.self == nil {
		return
	}
	interval := o.plan.PollInterval()
	o.seen.Interval = max(interval, wait)
	if o.seen.Transport == o.service.Broker {
		o.seen.Interval = max(interval, o.service.SweepInterval)
	}
	o.service.Agents.Poll(o.self, o.seen)
}

// response is the response to the caller. wait is how long it may have been held.
func (o *offer) response(wait time.Duration) Response {
	r := Response{Status: o.status, service: o.service, plan: o.plan, transport: o.seen.Transport}
	if wait >= 0 {
		r.wait = waitValue(wait)
	}
	current := o.plan.Newest
	switch {
	case o.status == StatusNotFound:
		r.Detail = o.detail()
		return r
	case o.release == nil:
		tag, _ := etag.Single(o.tags)
		r.tag = []string{tag}
		return r
	}
	r.tag = current.Tag
	if o.status == StatusOK {
		r.Body = current.Body
		if o.self != nil && o.applied.version > current.Version {
			r.older = o.because()
		}
	}
	return r
}

// waitValue is the value of X-Wait-Seconds.
func waitValue(wait time.Duration) []string { return []string{strconv.Itoa(int(wait / time.Second))} }

// detail says why the caller is offered nothing.
func (o *offer) detail() string {
	switch version := o.plan.Version(); {
	case version == 0:
		return "nothing was published yet"
	case o.reason.Kind == models.ReasonRefused:
		return fmt.Sprintf("this agent's worker refused version %d, and nothing newer was published", version)
	default:
		return fmt.Sprintf(
			"this store ends at version %d, and agents run later ones: what they run stays, until an admin decides", version)
	}
}

var (
	byPublish = []string{wire.OlderPublish}
	byResume  = []string{wire.OlderResume}
)

// because is why the agent is offered an older version than the one that it says it
// runs. Where its ETag is the newest one it runs no later one: its cache was edited.
func (o *offer) because() []string {
	if etag.NoneMatch(o.tags, o.plan.ETag()) || o.seen.Foreign && !o.resumed {
		return byPublish
	}
	return byResume
}
