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

// offer is the decision about one poll: the state that the caller sent, and the release
// that it is offered under a plan.
type offer struct {
	service *Service
	self    *registry.Agent
	tags    []string // the lines of If-None-Match
	applied applied
	seen    models.Poll // the state of the agent

	// decide sets the rest.

	plan    *models.Plan
	release *models.Release // that the caller should run; nil if it keeps what it runs
	reason  models.Reason
	runs    int64 // the highest version that the agent may run, judging by its headers
	resumed bool  // an admin resumed: the agent follows the store again
	status  int   // StatusOK, StatusNotModified or StatusNotFound
	// unchanged means that the caller runs the release of a 200. Without a matching
	// If-None-Match, HTTP does not allow a 304.
	unchanged bool
}

// applied identifies the configuration that a caller runs, from headers that gateways do
// not change. The zero value is none.
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

// transportOf returns how the caller receives hints. A broker counts only if this
// controller announces over it.
func (s *Service) transportOf(h map[string][]string, wait time.Duration) wire.Transport {
	switch named := h[wire.HeaderTransport]; {
	case wait > 0 && len(named) == 1 && named[0] == string(wire.Polling):
		return wire.Polling // the agent's waits are not honored, as by a gateway
	case wait > 0:
		return wire.LongPoll
	case len(named) == 1 && s.Broker != "" && named[0] == string(s.Broker):
		return s.Broker
	}
	return wire.Polling
}

// text returns the decoded text of a header, "" if it is absent.
func text(h map[string][]string, name string) string {
	if lines := h[name]; len(lines) > 0 {
		return wire.HeaderText(lines[0])
	}
	return ""
}

// due reports whether the response is sent without a wait.
func (o *offer) due() bool { return o.status == StatusOK && !o.unchanged }

// decide determines the release that the caller should run under a plan, and the status
// of the response.
func (o *offer) decide(plan *models.Plan) {
	current, newest := plan.Newest, plan.Version()
	names := current != nil && etag.NoneMatch(o.tags, current.ETag)
	o.plan, o.release, o.reason, o.unchanged = plan, current, models.Reason{}, false
	if o.self != nil {
		if after := o.observe(names && o.tags[0] != "*"); after != plan {
			o.decide(after) // this agent is the first seen with a later version
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
		o.status = StatusNotModified // with the ETag of the version that it keeps
	default:
		o.status = StatusNotFound
	}
}

// observe determines the version that an agent runs, and returns the resulting plan.
// names means that the agent sent the ETag of the newest version.
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
		version := cmp.Or(models.VersionOf(line), o.applied.version) // 0: an ETag that a gateway made
		o.runs, v.Unknown = max(o.runs, version), v.Unknown || version == 0
	}
	return plan
}

// mismatch reports whether the agent's content is not that of the version that it names.
// names means that it sent the ETag of the newest version. For an earlier version, the
// ETag has the hash of the content.
func (o *offer) mismatch(names bool) bool {
	switch {
	case o.applied == applied{}:
		return false
	case names || o.applied.version == o.plan.Version():
		return true // decide has excluded that it runs the newest version
	}
	tag, one := etag.Single(o.tags)
	content := models.ContentOf(tag)
	return one && content != "" && models.VersionOf(tag) == o.applied.version && content != o.applied.content
}

// record records the agent's poll in the registry. The response is delayed by up to wait.
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

// response returns the response to the caller. wait is the maximum delay that was
// granted, below 0 for none.
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

// waitValue returns the value of X-Wait-Seconds.
func waitValue(wait time.Duration) []string { return []string{strconv.Itoa(int(wait / time.Second))} }

// detail returns why a 404 offers nothing.
func (o *offer) detail() string {
	switch version := o.plan.Version(); {
	case version == 0:
		return "nothing was published yet"
	case o.reason.Kind == models.ReasonRefused:
		return fmt.Sprintf("this agent's worker refused version %d, and nothing newer was published", version)
	default:
		return fmt.Sprintf("the store's newest version is %d, and agents run later ones, which they keep "+
			"until an admin decides", version)
	}
}

var (
	byPublish = []string{wire.OlderPublish}
	byResume  = []string{wire.OlderResume}
)

// because returns the value of X-Older-Because: why the agent is offered an older version
// than the one that it names. If its ETag is that of the newest version, it does not run a
// later one: its cache was edited.
func (o *offer) because() []string {
	if etag.NoneMatch(o.tags, o.plan.ETag()) || o.seen.Foreign && !o.resumed {
		return byPublish
	}
	return byResume
}
