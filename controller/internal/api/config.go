package api

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
	"github.com/fleetconf/fleetconf/pkg/etag"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

// answered is a configuration as it goes over the wire, made once a version:
// the body and the header values of every answer to a poll.
type answered struct {
	config   *models.Config
	content  string // its hash
	body     []byte
	etag     []string
	length   []string
	interval []string
}

// servedConfig holds the answer to polls for the current configuration.
type servedConfig struct{ latest atomic.Pointer[answered] }

var (
	jsonType = []string{"application/json"}
	noCache  = []string{"private, no-cache"} // RFC 9111 §5.2.2: keep it, but ask each time
)

// of returns the answer for current, which it makes if it is not the latest.
func (s *servedConfig) of(current *models.Config) (*answered, error) {
	if latest := s.latest.Load(); latest != nil && latest.config == current {
		return latest, nil
	}
	body, err := wire.Encode(toConfig(current))
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	made := &answered{
		config: current, content: current.ContentHash(), body: body, etag: []string{current.ETag},
		length: []string{strconv.Itoa(len(body))}, interval: []string{strconv.Itoa(seconds(current.PollInterval))},
	}
	s.latest.Store(made)
	return made, nil
}

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
	p := poll{a: a, self: c.self, held: c.Request.Header["If-None-Match"], applied: appliedOf(c.Request.Header)}
	p.visit = models.Poll{
		At: time.Now().UTC(), Transport: a.transportOf(c.Request.Header, wait),
		Degraded: headerText(c.Request.Header, wire.HeaderWorkerError),
	}
	if p.visit.Transport == models.Polling {
		p.visit.PushError = headerText(c.Request.Header, wire.HeaderPushError)
	}
	if err := p.decide(); err != nil {
		return err
	}
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
	if a.Waiters == nil || a.Waiters.Full() {
		return 0, nil
	}
	wait = min(wait, wire.MaxWait)
	c.Writer.Header()[wire.HeaderWait] = []string{strconv.Itoa(seconds(wait))}
	return wait, nil
}

// hold keeps a poll until there is something to say that is worth it, or the wait
// is over.
func (a *API) hold(c *call, wait time.Duration, p *poll) (err error) {
	extend(c, wait)
	ctx := c.Request.Context()
	back := c.releaseWhileHeld()
	a.Waiters.Wait(ctx, wait, p.self, func() bool {
		if err = p.decide(); err == nil && p.self != nil && p.self.Deregistered() {
			err = unauthorized(c, errWrong)
		}
		return err != nil || p.due()
	})
	back()
	switch {
	case p.self == nil:
	case ctx.Err() != nil:
		a.Agents.Disconnected(p.self, p.visit, p.interval)
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

// poll is a poll, and what there is to say to it at this moment.
type poll struct {
	a       *API
	self    *service.Agent // nil for who is no agent
	held    []string       // the lines of If-None-Match
	applied applied
	visit   models.Poll // what it tells of the agent

	status int // 200, 304 or 404
	// unchanged says that the caller runs what a 200 has: without If-None-Match a 304
	// would be no proper answer.
	unchanged bool
	current   *answered // nil where nothing was published
	interval  time.Duration
	kept      keepReason
}

// due reports whether there is something to say that is not to be delayed.
func (p *poll) due() bool { return p.status == http.StatusOK && !p.unchanged }

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

// keepReason is why an agent is not offered the current version.
type keepReason int

const (
	nothing keepReason = iota
	refused
	conflict
)

// decide finds what there is to say now.
func (p *poll) decide() error {
	a := p.a
	current := a.Configs.Current()
	p.interval = a.Configs.PollInterval()
	p.status, p.unchanged, p.current, p.kept = http.StatusNotFound, false, nil, nothing
	if current != nil {
		out, err := a.served.of(current)
		if err != nil {
			return err
		}
		p.current, p.status = out, http.StatusOK
	}
	newest := desired(current)
	held := false
	if p.self != nil {
		held = p.observe(newest)
	}
	if current == nil {
		return nil
	}
	names, runs := etag.NoneMatch(p.held, current.ETag), p.applied == applied{newest, p.current.content}
	switch {
	case names && (runs || p.applied == applied{}):
		p.status = http.StatusNotModified
		return nil
	case runs:
		p.unchanged = true
		return nil
	case p.self == nil:
		return nil
	}
	if !a.Agents.Offers(p.self, newest) {
		p.kept = refused
	} else if held {
		p.kept = conflict
	} else if _, inConflict := a.Configs.Conflict(); inConflict && isAhead(p.held, p.applied, newest) {
		p.kept = conflict
	}
	if p.kept != nothing {
		p.status = http.StatusNotFound
		if _, ok := etag.Single(p.held); ok {
			p.status = http.StatusNotModified // against what it runs
		}
	}
	p.visit.Mismatch = p.mismatch(names)
	return nil
}

// mismatch reports whether what the agent holds is not the content of the version that
// it says it runs. names says that it sent the current ETag. Of an earlier version its
// ETag tells the content.
func (p *poll) mismatch(names bool) bool {
	switch {
	case p.applied == applied{}:
		return false
	case names || p.applied.version == p.current.config.Version:
		return true // decide knows that it does not run the current one
	}
	tag, one := etag.Single(p.held)
	content := models.ContentOf(tag)
	return one && content != "" && models.VersionOf(tag) == p.applied.version && content != p.applied.content
}

// note remembers that the agent was here, and what it runs. The answer is to be
// held for wait.
func (p *poll) note(wait time.Duration) {
	if p.self == nil {
		return
	}
	p.visit.Interval = max(p.interval, wait)
	if p.visit.Transport == p.a.broker() {
		p.visit.Interval = max(p.interval, p.a.SweepInterval)
	}
	p.a.Agents.Poll(p.self, p.visit)
}

// observe notes which version the agent says it runs. It reports whether the agent
// keeps that one, whatever the fleet does.
func (p *poll) observe(newest int64) (held bool) {
	p.visit.Runs, p.visit.Foreign, p.visit.Mismatch = p.applied.version, false, false
	if p.current != nil && len(p.held) > 0 && p.held[0] != "*" && etag.NoneMatch(p.held, p.current.config.ETag) {
		p.visit.Runs = newest
		return false
	}
	var ahead int64
	verified := false
	if tag, one := etag.Single(p.held); one {
		ahead, verified = p.a.Configs.ObserveTag(tag)
	}
	switch {
	case ahead != 0:
		p.visit.Runs = ahead
	case p.applied.version <= newest:
		return false
	}
	p.visit.Foreign = !verified
	return p.visit.Foreign && p.a.Agents.Holds(p.self, p.visit.Runs, newest)
}

// answer says it.
func (p *poll) answer(c *call) error {
	h := c.Writer.Header()
	h[wire.HeaderFleet] = p.a.fleet
	if p.visit.Transport == p.a.broker() {
		h[wire.HeaderSweepInterval] = p.a.sweep
	}
	if p.current == nil {
		h.Set(wire.HeaderPollInterval, strconv.Itoa(seconds(p.interval)))
		return problem.New(http.StatusNotFound, "nothing was published yet")
	}
	h[wire.HeaderPollInterval] = p.current.interval
	h["Cache-Control"] = noCache
	switch p.status {
	case http.StatusNotFound:
		return p.reason()
	case http.StatusNotModified:
		h["Etag"] = p.current.etag
		if p.kept != nothing {
			tag, _ := etag.Single(p.held)
			h["Etag"] = []string{tag}
		}
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
		return nil
	}
	if window := p.a.Configs.Window(); window > 0 {
		h[wire.HeaderSpread] = []string{strconv.FormatInt(window.Milliseconds(), 10)}
	}
	if p.self != nil && p.applied.version > p.current.config.Version {
		h[wire.HeaderOlderBecause] = p.because()
	}
	h["Etag"] = p.current.etag
	h["Content-Type"] = jsonType
	h["Content-Length"] = p.current.length
	c.Status(http.StatusOK)
	_, _ = c.Writer.Write(p.current.body) // the caller has gone: nobody is left to tell
	return nil
}

var (
	byPublish = []string{wire.OlderPublish}
	byResume  = []string{wire.OlderResume}
)

// because is why the agent is offered an older version than the one that it says it
// runs. Where its ETag is the current one it runs no later one: its cache was edited.
func (p *poll) because() []string {
	if etag.NoneMatch(p.held, p.current.config.ETag) || p.visit.Foreign && !p.a.Agents.Resumed(p.self) {
		return byPublish
	}
	return byResume
}

// reason is what an agent is told that is offered nothing.
func (p *poll) reason() error {
	version := p.current.config.Version
	if p.kept == refused {
		return problem.New(http.StatusNotFound, "this agent's worker refused version %d, and nothing newer was published", version)
	}
	return problem.New(http.StatusNotFound,
		"this store ends at version %d, and agents run later ones: what they run stays, until an admin decides", version)
}

// isAhead reports whether an agent may run something later than the store's
// newest version: its tag says so, or neither its tag nor X-Applied-Version says what
// it runs. Who runs an earlier version, or nothing, is not taken back by the newest.
func isAhead(held []string, applied applied, newest int64) bool {
	for _, tags := range held {
		version := models.VersionOf(tags)
		if version == 0 { // a gateway's own
			version = applied.version
		}
		if version == 0 || version > newest {
			return true
		}
	}
	return false
}
