package api

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/pkg/etag"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

var (
	jsonType = []string{"application/json"}
	noCache  = []string{"private, no-cache"} // RFC 9111 §5.2.2: store it, but validate each time
)

// config answers a poll. It is the hot path: no database, no JSON, no log line.
//
//	@ID				getConfig
//	@Summary		Fetch the current configuration
//	@Description	Answers 304 while If-None-Match (lists and * too) names the current one. An agent that reported the current version FAILED is not offered it again; and one that runs a later version than the store has keeps it until an admin decides.
//	@Description	With wait the answer is held until there is something else to say than 304, or than 404, and given when the wait and up to a sixteenth of it are over. X-Wait-Seconds says that it was.
//	@Tags			configuration
//	@Produce		json
//	@Security		Admin
//	@Security		Enroller
//	@Security		Agent
//	@Param			If-None-Match	header		string	false	"ETag of the configuration that the caller runs"
//	@Param			wait			query		string	false	"how long to hold the answer, such as 30s; longer than 5m is taken for 5m (0s)"
//	@Param			X-Transport		header		string	false	"the broker that an agent receives hints over; poll for none, although it asks to wait"	Enums(redis, nats, poll)
//	@Param			X-Applied-Version	header	int		false	"the version that the agent's worker runs"
//	@Param			X-Applied-Content	header	string	false	"the hash of the content that the agent holds for it; where it is not that of the version, the answer is 200"
//	@Param			X-Worker-Error	header		string	false	"why an agent cannot reach or feed its worker; absent while it can"
//	@Param			X-Push-Error	header		string	false	"why an agent polls although its PUSH is another"
//	@Success		200				{object}	wire.Config
//	@Success		304				"unchanged"
//	@Failure		400,401			{object}	problem.Problem
//	@Failure		404				{object}	problem.Problem	"nothing was ever published"
//	@Failure		429				{object}	problem.Problem	"more polls came than are let in at once"
//	@Failure		503				{object}	problem.Problem	"as 429, while the controller stops"
//	@Header			200,304,404,429	{integer}	X-Poll-Interval-Seconds		"seconds until the next poll; always"
//	@Header			200,304,404		{integer}	X-Sweep-Interval-Seconds	"to an agent that hears the broker that is announced over: seconds until its next poll"
//	@Header			200,304,404		{integer}	X-Wait-Seconds				"how long the answer was held at most; missing where nothing is held"
//	@Header			200,304,404		{string}	X-Fleet						"id of the controller's fleet"
//	@Header			200				{string}	X-Older-Because				"why the version is below X-Applied-Version: publish or resume"
//	@Header			200				{integer}	X-Spread-Milliseconds		"while the whole fleet fetches: how much later the report is best sent"
//	@Header			429,503			{integer}	Retry-After					"seconds, randomized"
//	@Header			200,304			{string}	ETag						"strong validator; always"
//	@Router			/api/v1/config [get]
func (a *API) config(c *call) error {
	wait, err := a.wait(c)
	if err != nil {
		return err
	}
	p := pollRequest{a: a, self: c.self, held: c.Request.Header["If-None-Match"], applied: appliedOf(c.Request.Header)}
	p.visit = models.Poll{
		At: time.Now().UTC(), Transport: a.transportOf(c.Request.Header, wait),
		Degraded: headerText(c.Request.Header, wire.HeaderWorkerError),
	}
	if p.visit.Transport == models.Polling {
		p.visit.PushError = headerText(c.Request.Header, wire.HeaderPushError)
	}
	p.decide(a.Configs.Plan())
	p.note(wait)
	if wait > 0 && !p.due() {
		held := p // which escapes, as p does not: a poll that is not held allocates none
		if err := a.hold(c, wait, &held); err != nil {
			return err
		}
		if c.Request.Context().Err() != nil {
			return nil // the client disconnected
		}
		p = held
	}
	return p.answer(c)
}

// wait is how long the answer to a poll is to be held, where answers are. Who asks
// for 0 learns that they are.
func (a *API) wait(c *call) (time.Duration, error) {
	if c.Request.URL.RawQuery == "" {
		return 0, nil
	}
	text, asked := c.GetQuery("wait")
	if !asked {
		return 0, nil
	}
	wait, ok := duration(text)
	if !ok || wait < 0 {
		return 0, wire.Bad("wait", "must be a duration such as 30s")
	}
	if a.Waiters.Full() {
		return 0, nil
	}
	wait = min(wait, wire.MaxWait)
	c.Writer.Header()[wire.HeaderWait] = []string{strconv.Itoa(seconds(wait))}
	return wait, nil
}

// hold keeps a poll until there is something to say that is worth it, or the wait
// is over.
func (a *API) hold(c *call, wait time.Duration, p *pollRequest) (err error) {
	extend(c, wait)
	ctx := c.Request.Context()
	back := c.releaseWhileHeld()
	a.Waiters.Wait(ctx, wait, p.self, func() bool {
		if p.decide(a.Configs.Plan()); p.self != nil && p.self.Deregistered() {
			err = unauthorized(c, errWrong)
		}
		return err != nil || p.due()
	})
	back()
	switch {
	case p.self == nil:
	case ctx.Err() != nil:
		a.Agents.Disconnected(p.self, p.visit, p.plan.PollInterval())
	default: // it was here until now
		p.visit.At = time.Now().UTC()
		p.note(0)
	}
	return err
}

// transportOf is how whoever polls hears of a newer version. To hear a broker that
// this controller does not announce over is to hear nothing.
func (a *API) transportOf(h http.Header, wait time.Duration) models.Transport {
	switch named := h[wire.HeaderTransport]; {
	case wait > 0 && len(named) == 1 && named[0] == string(models.Polling):
		return models.Polling // no wait of it was ever held
	case wait > 0:
		return models.LongPoll
	case len(named) == 1 && a.broker() != "" && named[0] == string(a.broker()):
		return a.broker()
	}
	return models.Polling
}

// headerText returns the text that a header holds, empty where it is absent.
func headerText(h http.Header, name string) string {
	if text := h[name]; len(text) > 0 {
		return wire.HeaderText(text[0])
	}
	return ""
}

// broker is what this controller announces over, "" for none.
func (a *API) broker() models.Transport {
	if a.Transport == models.Redis || a.Transport == models.NATS {
		return a.Transport
	}
	return ""
}

// pollRequest is a poll, and what there is to say to it at this moment.
type pollRequest struct {
	a       *API
	self    *registry.Agent // nil for who is no agent
	held    []string        // the lines of If-None-Match
	applied applied
	visit   models.Poll // what it tells of the agent

	plan    *models.Plan    // what decides
	release *models.Release // what the caller should run; nil: keep what it runs
	reason  models.Reason
	runs    int64 // the version that the agent may run, the highest of several
	resumed bool  // an admin has let the agent follow the store
	status  int   // 200, 304 or 404
	// unchanged says that the caller runs what a 200 has: without If-None-Match a 304
	// would be no proper answer.
	unchanged bool
}

// due reports whether there is something to say that is not to be delayed.
func (p *pollRequest) due() bool { return p.status == http.StatusOK && !p.unchanged }

// applied is what a caller says that it runs, in words that no gateway changes. The
// zero applied is nothing.
type applied struct {
	version int64
	content string // the hash
}

func appliedOf(h http.Header) applied {
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

// decide finds what the caller should run by a plan, and the status of the response.
func (p *pollRequest) decide(plan *models.Plan) {
	current, newest := plan.Newest, plan.Version()
	names := current != nil && etag.NoneMatch(p.held, current.ETag)
	p.plan, p.release, p.reason, p.unchanged = plan, current, models.Reason{}, false
	if p.self != nil {
		if after := p.observe(names && p.held[0] != "*"); after != plan {
			p.decide(after) // the first agent that runs a later version than the store has
			return
		}
	}
	runs := current != nil && p.applied == applied{newest, current.Content}
	switch {
	case names && (runs || p.applied == applied{}):
		p.status = http.StatusNotModified
		return
	case runs:
		p.status, p.unchanged = http.StatusOK, true
		return
	}
	var traits models.Traits
	if p.self != nil {
		traits = p.self.Traits(p.visit.Foreign, newest)
		traits.Runs, traits.Unknown = p.runs, p.visit.Unknown
		p.visit.Mismatch = current != nil && p.mismatch(names)
	}
	p.resumed = traits.Held == models.Released
	p.release, p.reason = plan.For(traits)
	switch _, one := etag.Single(p.held); {
	case p.release != nil:
		p.status = http.StatusOK
	case one && current != nil:
		p.status = http.StatusNotModified // against what it runs
	default:
		p.status = http.StatusNotFound
	}
}

// mismatch reports whether what the agent holds is not the content of the version that
// it says it runs. names says that it sent the current ETag. Of an earlier version its
// ETag tells the content.
func (p *pollRequest) mismatch(names bool) bool {
	switch {
	case p.applied == applied{}:
		return false
	case names || p.applied.version == p.plan.Version():
		return true // decide knows that it does not run the current one
	}
	tag, one := etag.Single(p.held)
	content := models.ContentOf(tag)
	return one && content != "" && models.VersionOf(tag) == p.applied.version && content != p.applied.content
}

// note remembers that the agent was here, and what it runs. The answer is to be
// held for wait.
func (p *pollRequest) note(wait time.Duration) {
	if p.self == nil {
		return
	}
	interval := p.plan.PollInterval()
	p.visit.Interval = max(interval, wait)
	if p.visit.Transport == p.a.broker() {
		p.visit.Interval = max(interval, p.a.SweepInterval)
	}
	p.a.Agents.Poll(p.self, p.visit)
}

// observe finds out which version an agent runs, and returns the plan that follows from
// it. names says that the agent sent the ETag of the newest version.
func (p *pollRequest) observe(names bool) *models.Plan {
	v, newest := &p.visit, p.plan.Version()
	v.Runs, v.Newest, v.Unknown, v.Foreign, v.Mismatch = p.applied.version, newest, false, false, false
	if names {
		v.Runs, p.runs = newest, newest
		return p.plan
	}
	plan := p.plan
	if tag, one := etag.Single(p.held); one {
		var ahead int64
		if plan, ahead, v.Foreign = p.a.Configs.ObserveTag(plan, tag); ahead != 0 {
			v.Runs, p.runs = ahead, ahead
			return plan
		}
	}
	v.Foreign = v.Runs > newest
	p.runs = v.Runs
	for _, line := range p.held {
		version := cmp.Or(models.VersionOf(line), p.applied.version) // 0: the ETag of a gateway
		p.runs, v.Unknown = max(p.runs, version), v.Unknown || version == 0
	}
	return plan
}

// answer writes the response.
func (p *pollRequest) answer(c *call) error {
	h := c.Writer.Header()
	h[wire.HeaderFleet] = p.a.fleet
	if p.visit.Transport == p.a.broker() {
		h[wire.HeaderSweepInterval] = p.a.sweep
	}
	current := p.plan.Newest
	if current == nil {
		h.Set(wire.HeaderPollInterval, strconv.Itoa(seconds(p.plan.PollInterval())))
		return problem.New(http.StatusNotFound, "nothing was published yet")
	}
	h[wire.HeaderPollInterval] = current.Interval
	h["Cache-Control"] = noCache
	switch p.status {
	case http.StatusNotFound:
		return p.keeps()
	case http.StatusNotModified:
		h["Etag"] = current.Tag
		if p.release == nil {
			tag, _ := etag.Single(p.held)
			h["Etag"] = []string{tag}
		}
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
		return nil
	}
	if spread := p.plan.SpreadAt(time.Now()); spread > 0 {
		h[wire.HeaderSpread] = []string{strconv.FormatInt(spread.Milliseconds(), 10)}
	}
	if p.self != nil && p.applied.version > current.Version {
		h[wire.HeaderOlderBecause] = p.because()
	}
	h["Etag"] = current.Tag
	h["Content-Type"] = jsonType
	h["Content-Length"] = current.Length
	c.Status(http.StatusOK)
	_, _ = c.Writer.Write(current.Body) // the client has disconnected, if this fails
	return nil
}

var (
	byPublish = []string{wire.OlderPublish}
	byResume  = []string{wire.OlderResume}
)

// because is why the agent is offered an older version than the one that it says it
// runs. Where its ETag is the current one it runs no later one: its cache was edited.
func (p *pollRequest) because() []string {
	if etag.NoneMatch(p.held, p.plan.ETag()) || p.visit.Foreign && !p.resumed {
		return byPublish
	}
	return byResume
}

// keeps is the response to an agent that is offered nothing, and sent no ETag.
func (p *pollRequest) keeps() error {
	version := p.plan.Version()
	if p.reason.Kind == models.ReasonRefused {
		return problem.New(http.StatusNotFound, "this agent's worker refused version %d, and nothing newer was published", version)
	}
	return problem.New(http.StatusNotFound,
		"this store ends at version %d, and agents run later ones: what they run stays, until an admin decides", version)
}
