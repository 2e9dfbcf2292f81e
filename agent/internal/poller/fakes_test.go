package poller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

var errOutage = errors.New("connection refused")

// span is the fake time [from, to) since the world began.
type span struct{ from, to time.Duration }

func within(spans []span, t time.Duration) bool {
	return slices.ContainsFunc(spans, func(s span) bool { return s.from <= t && t < s.to })
}

const forever = 1000 * 24 * time.Hour

// always contains every moment.
var always = []span{{0, forever}}

// clock measures the fake time since a world began.
type clock struct{ began time.Time }

func (c clock) now() time.Duration { return time.Since(c.began) }

// release is version v with interval seconds, as the fake controller serves it.
func release(v int64, interval int) protocol.Release {
	return protocol.Release{
		ETag: fmt.Sprintf(`"v%d-%d"`, v, interval),
		Config: wire.Config{
			Version: v, Data: wire.Data{URL: fmt.Sprintf("http://target/%d", v)}, PollIntervalSeconds: interval,
		},
	}
}

// publication is a release that is current from at on.
type publication struct {
	at time.Duration
	protocol.Release
}

func published(at time.Duration, v int64) publication { return publication{at, release(v, 30)} }

// fakeController behaves as its fields say at each time.
type fakeController struct {
	clock
	publications  []publication
	down, hanging []span
	invalid       []span                                 // answers with an invalid document
	busy          []span                                 // 429 with retryAfter
	retryAfter    time.Duration                          // of busy and busyReports
	takesNoReport []span                                 // reports fail
	denies        []span                                 // rejects every token
	noEnrolment   []span                                 // rejects the shared credentials
	uncertified   []span                                 // 403 to polls, until the agent re-registers with its token
	conflicts     []span                                 // rejects the agent's secret
	loses         []span                                 // responses to registrations are lost
	busyReports   []span                                 // 429 with retryAfter to reports alone
	slowReports   time.Duration                          // how long a report takes
	slowFetches   time.Duration                          // how long a poll takes at least
	unwanted      bool                                   // rejects reports
	forgets       []time.Duration                        // loses all its agents
	rivals        []time.Duration                        // another agent registers with the same id
	withholds     bool                                   // does not offer a version that was reported FAILED
	noLongPolls   bool                                   // as PUSH=none
	otherBroker   bool                                   // announces over another broker than the agent's
	cutsAfter     time.Duration                          // a proxy cuts longer waits; 0: none does
	lost          error                                  // what ends a wait when it goes down; nil: errOutage
	cutError      error                                  // what the proxy ends waits with; nil: 504
	drains        []time.Duration                        // releases all waiters
	dropsETags    bool                                   // a gateway drops those of requests and answers
	compares      bool                                   // answers 200 if the applied content differs
	old           bool                                   // does not know the headers of the applied version
	fleets        []namedFleet                           // the ids that it names
	because       string                                 // why it offers an older version than the applied one
	spread        time.Duration                          // how long it says that the fleet takes to fetch
	says          func(wait time.Duration) time.Duration // how long it says that it delayed an answer; nil: the truth

	mu          sync.Mutex // guards the records below
	calls       []call
	degraded    []call // polls whose worker error differs from the one before
	token       string
	previous    string // accepted too
	rebound     bool   // the agent has re-registered with its token
	tokenAt     time.Duration
	tokens      int
	failed      int64
	outcomes    []wire.Report // without their ETags
	applied     *wire.Config  // that the last poll named
	pushError   string        // that the last poll said
	outcomeTags []string
	outcomeAt   []time.Duration
	selves      []wire.RegisterRequest
}

// namedFleet is the fleet that the controller names from a time on.
type namedFleet struct {
	at    time.Duration
	fleet string
}

// call is a request, with the ETag or the version that it named.
type call struct {
	at   time.Duration
	what string
	etag string
}

func (c *fakeController) record(what, etag string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call{c.now(), what, etag})
}

// told records the worker error of a poll if it differs from the last one.
func (c *fakeController) told(q protocol.Query) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.degraded); n == 0 && q.WorkerError != "" || n > 0 && c.degraded[n-1].what != q.WorkerError {
		c.degraded = append(c.degraded, call{c.now(), q.WorkerError, q.ETag})
	}
}

// times returns when requests of a kind came.
func (c *fakeController) times(what string) (at []time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.calls {
		if call.what == what {
			at = append(at, call.at)
		}
	}
	return at
}

func (c *fakeController) etags() (etags []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.calls {
		if call.what == "fetch" {
			etags = append(etags, call.etag)
		}
	}
	return etags
}

func (c *fakeController) reports() []wire.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.outcomes)
}

// reachable returns an error while the controller is unavailable, after the timeout of the
// real client if it hangs.
func (c *fakeController) reachable(ctx context.Context) error {
	if within(c.hanging, c.now()) {
		if !sleep(ctx, 10*time.Second) {
			return ctx.Err()
		}
		return errors.New("did not answer within 10s")
	}
	if within(c.down, c.now()) {
		return errOutage
	}
	if within(c.busy, c.now()) {
		return &protocol.RetryLater{After: c.retryAfter, Err: errOutage}
	}
	return ctx.Err()
}

// authentic reports whether the token is that of the last registration, and the controller
// still knows it.
func (c *fakeController) authentic(id protocol.Identity) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	lost := func(at time.Duration) bool { return c.tokenAt < at && at <= c.now() }
	valid := id.AgentToken != "" && (id.AgentToken == c.token || id.AgentToken == c.previous)
	return valid && !within(c.denies, c.now()) &&
		!slices.ContainsFunc(c.forgets, lost) && !slices.ContainsFunc(c.rivals, lost)
}

func (c *fakeController) Register(
	ctx context.Context, as protocol.Identity, self wire.RegisterRequest,
) (protocol.Registration, error) {
	c.record("register", as.AgentToken)
	if err := c.reachable(ctx); err != nil {
		return protocol.Registration{}, err
	}
	switch {
	case as.AgentToken != "" && !c.authentic(as):
		return protocol.Registration{}, fmt.Errorf("%w: token", protocol.ErrUnauthorized)
	case as.AgentToken == "" && within(c.noEnrolment, c.now()):
		return protocol.Registration{}, fmt.Errorf("%w: shared credentials", protocol.ErrUnauthorized)
	case as.AgentToken == "" && within(c.conflicts, c.now()):
		return protocol.Registration{}, fmt.Errorf("%w: another secret", protocol.ErrUnauthorized)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.selves = append(c.selves, self)
	if self.AgentID == "" {
		self.AgentID = "agent-1"
	}
	c.tokens++
	c.token, c.tokenAt, c.previous = fmt.Sprintf("token-%d", c.tokens), c.now(), c.token
	c.rebound = c.rebound || as.AgentToken != ""
	if within(c.loses, c.now()) {
		return protocol.Registration{}, errOutage
	}
	return protocol.Registration{
		Identity:     protocol.Identity{AgentID: self.AgentID, AgentToken: c.token},
		PollInterval: 30 * time.Second,
	}, nil
}

func (c *fakeController) Fetch(ctx context.Context, id protocol.Identity, q protocol.Query) (protocol.Answer, error) {
	c.record("fetch", q.ETag)
	c.told(q)
	c.mu.Lock()
	c.applied, c.pushError = q.Applied, q.PushError
	c.mu.Unlock()
	etag := q.ETag
	if c.dropsETags {
		etag = ""
	}
	unchanged := func(current *protocol.Release) bool {
		return current != nil && !c.old && q.Applied != nil && *q.Applied == current.Config
	}
	if err := c.reachable(ctx); err != nil {
		return protocol.Answer{}, err
	}
	if !sleep(ctx, c.slowFetches) {
		return protocol.Answer{}, ctx.Err()
	}
	if !c.authentic(id) {
		return protocol.Answer{}, fmt.Errorf("%w: token", protocol.ErrUnauthorized)
	}
	if within(c.uncertified, c.now()) && !c.rebound {
		return protocol.Answer{}, fmt.Errorf("%w: certificate", protocol.ErrForbidden)
	}
	answer := protocol.Answer{PollInterval: 30 * time.Second}
	for _, m := range c.fleets {
		if m.at <= c.now() {
			answer.Fleet = m.fleet
		}
	}
	if (q.Transport == wire.NATS || q.Transport == wire.Redis) && !c.otherBroker {
		answer.ResyncInterval = 5 * time.Minute
	}
	if q.MayWait && !c.noLongPolls {
		answer.CanWait, answer.Waited = true, q.Wait
		if c.says != nil {
			answer.Waited = c.says(q.Wait)
		} else if current := c.current(); q.Wait > 0 && (current == nil || c.withheld(current) ||
			etag != "" && etag == current.ETag && !c.compares || unchanged(current)) {
			if err := c.delay(ctx, q.Wait); err != nil {
				return protocol.Answer{}, err
			}
		}
	}
	current := c.current()
	if current != nil {
		answer.PollInterval = current.Config.PollInterval()
	}
	withheld := c.withheld(current)
	switch {
	case within(c.invalid, c.now()):
		return answer, fmt.Errorf("%w: data.url is missing", protocol.ErrInvalidConfig)
	case current == nil, withheld && etag == "":
		return answer, protocol.ErrNothingPublished
	case etag != "" && etag == current.ETag && (!c.compares || unchanged(current)), withheld:
		return answer, protocol.ErrNotModified
	}
	fetched := *current
	fetched.FetchedAt = time.Now()
	if c.dropsETags {
		fetched.ETag = ""
	}
	if q.Applied != nil && current.Config.Version < q.Applied.Version {
		answer.OlderBecause = c.because
	}
	answer.Release, answer.Spread = &fetched, c.spread
	return answer, nil
}

func (c *fakeController) current() *protocol.Release {
	var current *protocol.Release
	for i := range c.publications {
		if c.publications[i].at <= c.now() {
			current = &c.publications[i].Release
		}
	}
	return current
}

// withheld reports whether a release is not offered because the worker refused it.
func (c *fakeController) withheld(current *protocol.Release) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.withholds && current != nil && c.failed == current.Config.Version
}

// delay returns when something is published or the wait is over, or with the error that ends
// the wait.
func (c *fakeController) delay(ctx context.Context, wait time.Duration) error {
	now := c.now()
	end, cut := now+wait+rand.N(wait/16+1), error(nil)
	sooner := func(at time.Duration, err error) {
		if now < at && at < end {
			end, cut = at, err
		}
	}
	for _, p := range c.publications {
		sooner(p.at, nil)
	}
	for _, at := range c.drains {
		sooner(at, nil)
	}
	for _, s := range c.down {
		sooner(s.from, cmp.Or(c.lost, errOutage))
	}
	if c.cutsAfter > 0 {
		err := protocol.ErrCut
		if c.cutError != nil {
			err = c.cutError
		}
		sooner(now+c.cutsAfter, err)
	}
	if !sleep(ctx, end-now) {
		return ctx.Err()
	}
	return cut
}

func (c *fakeController) Deregister(ctx context.Context, id protocol.Identity) error {
	c.record("leave", id.AgentID)
	return c.reachable(ctx)
}

func (c *fakeController) Report(ctx context.Context, id protocol.Identity, report wire.Report) error {
	c.record("report", fmt.Sprint(report.Version, " ", report.Status))
	if err := c.reachable(ctx); err != nil {
		return err
	}
	if !sleep(ctx, c.slowReports) {
		return ctx.Err()
	}
	switch {
	case within(c.busyReports, c.now()):
		return &protocol.RetryLater{After: c.retryAfter, Err: errOutage}
	case within(c.takesNoReport, c.now()):
		return errOutage
	case c.unwanted:
		return protocol.ErrUnwanted
	case !c.authentic(id):
		return protocol.ErrUnauthorized
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outcomeTags = append(c.outcomeTags, report.ETag)
	report.ETag = ""
	c.outcomes = append(c.outcomes, report)
	c.outcomeAt = append(c.outcomeAt, c.now())
	if report.Status == wire.Failed {
		c.failed = report.Version
	}
	return nil
}

// fakeWorker behaves as its fields say at each time.
type fakeWorker struct {
	clock
	down, hanging []span
	failsPushes   []span                                // answers reads, but 500 to pushes
	restarts      []time.Duration                       // loses what it runs
	refuses       func(v int64, t time.Duration) string // the error message, "" to accept; nil: accepts all
	slow          time.Duration                         // how long a push lasts
	forgetsPushes bool                                  // accepts every push and runs none
	tampered      []publication                         // someone else pushes these

	mu      sync.Mutex // guards the records below
	pushes  []push
	reads   []time.Duration
	running wire.WorkerConfig
	since   time.Duration
}

// push is a push, and whether it was accepted.
type push struct {
	at      time.Duration
	version int64
	taken   bool
	probe   bool
}

func (w *fakeWorker) reachable(ctx context.Context, timeout time.Duration) error {
	if within(w.hanging, w.now()) {
		if !sleep(ctx, timeout) {
			return ctx.Err()
		}
		return fmt.Errorf("did not answer within %s", timeout)
	}
	if within(w.down, w.now()) {
		return errOutage
	}
	return ctx.Err()
}

// instance returns the number of restarts until now, and the time of the last one.
func (w *fakeWorker) instance() (n int, since time.Duration) {
	for _, at := range w.restarts {
		if at <= w.now() {
			n, since = n+1, at
		}
	}
	return n, since
}

func (w *fakeWorker) Running(ctx context.Context) (wire.WorkerState, error) {
	w.mu.Lock()
	w.reads = append(w.reads, w.now())
	w.mu.Unlock()
	if err := w.reachable(ctx, 2*time.Second); err != nil {
		return wire.WorkerState{}, err
	}
	return w.state()
}

func (w *fakeWorker) state() (wire.WorkerState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, started := w.instance()
	running, since := w.running, w.since
	for _, t := range w.tampered {
		if since < t.at && t.at <= w.now() {
			running, since = t.WorkerConfig(), t.at
		}
	}
	if running.Version == 0 || since < started || w.forgetsPushes {
		return wire.WorkerState{}, protocol.ErrNothingRuns
	}
	return wire.WorkerState{URL: running.URL, Version: running.Version, Instance: fmt.Sprint("instance-", n)}, nil
}

func (w *fakeWorker) Push(ctx context.Context, config wire.WorkerConfig) error {
	err := w.reachable(ctx, 5*time.Second)
	if err == nil && !sleep(ctx, w.slow) {
		err = ctx.Err()
	}
	if err == nil && within(w.failsPushes, w.now()) {
		err = errors.New("answered 500")
	}
	if err == nil && w.refuses != nil {
		if message := w.refuses(config.Version, w.now()); message != "" {
			err = &protocol.Refused{Message: message}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pushes = append(w.pushes, push{w.now(), config.Version, err == nil, config.Probe})
	if err == nil {
		w.running, w.since = config, w.now()
	}
	return err
}

// taken returns the versions that the worker accepted, in order.
func (w *fakeWorker) taken() (versions []int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pushes {
		if p.taken {
			versions = append(versions, p.version)
		}
	}
	return versions
}

func (w *fakeWorker) pushTimes() (at []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pushes {
		at = append(at, p.at)
	}
	return at
}

func (w *fakeWorker) readTimes() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.reads)
}

// sleep waits for d, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		pause(ctx, d, nil)
	}
	return ctx.Err() == nil
}

// fakeCache is a file in memory.
type fakeCache struct {
	clock
	unwritable []span
	loadError  error
	hanging    []span        // writes return when proceed is closed
	slow       time.Duration // how long a write lasts
	proceed    chan struct{}

	mu     sync.Mutex
	stored state.Stored
	saves  []state.Stored
}

func (c *fakeCache) Load() (state.Stored, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stored, c.loadError
}

func (c *fakeCache) Save(stored state.Stored) error {
	if within(c.hanging, c.now()) {
		<-c.proceed
	}
	time.Sleep(c.slow)
	c.mu.Lock()
	defer c.mu.Unlock()
	if within(c.unwritable, c.now()) {
		return errors.New("no space left on device")
	}
	c.stored = stored
	c.saves = append(c.saves, stored)
	return nil
}

func (c *fakeCache) content() state.Stored {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stored
}

// world is a poller among fakes.
type world struct {
	*Poller
	controller *fakeController
	worker     *fakeWorker
	cache      *fakeCache
	log        *logrustest.Hook
}

// scenario is what a world is made of. Fields that are nil are empty, and without faults.
type scenario struct {
	controller *fakeController
	worker     *fakeWorker
	cache      *fakeCache
	source     Source // nil: controller
	ephemeral  bool
	transport  wire.Transport // empty: poll
	hints      Hints
	fleet      string // FLEET_ID
	metrics    *Metrics
}

// play runs a poller in a bubble of fake time until story, which checks it, returns.
func play(t *testing.T, s scenario, story func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := s.world()
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		go func() { stopped <- w.Run(ctx) }() // ends with cancel below
		defer func() {
			cancel()
			if err := <-stopped; err != nil {
				t.Errorf("Run: got %v, want nil", err)
			}
		}()
		story(t, w)
	})
}

func (s scenario) world() *world {
	began := clock{time.Now()}
	if s.controller == nil {
		s.controller = &fakeController{}
	}
	if s.worker == nil {
		s.worker = &fakeWorker{}
	}
	if s.cache == nil {
		s.cache = &fakeCache{}
	}
	if s.transport == "" {
		s.transport = wire.Polling
	}
	s.controller.clock, s.worker.clock, s.cache.clock = began, began, began
	s.cache.proceed = make(chan struct{})
	source := s.source
	if source == nil {
		source = s.controller
	}
	if s.metrics == nil {
		s.metrics = NewMetrics(nil)
	}
	log, hook := logrustest.NewNullLogger()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.DebugLevel)
	return &world{
		Poller: New(Parts{
			Source: source, Sink: s.worker, Cache: s.cache,
			Config: state.Config{Self: wire.RegisterRequest{Hostname: "host"}, Transport: s.transport, Fleet: s.fleet},
			Log:    log, Ephemeral: s.ephemeral, Hints: s.hints, Metrics: s.metrics,
		}),
		controller: s.controller, worker: s.worker, cache: s.cache, log: hook,
	}
}

// pass waits for d of fake time, and until all goroutines are idle.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// runs fails the test unless the worker runs version v, or nothing for 0.
func (w *world) runs(t *testing.T, v int64) {
	t.Helper()
	got, err := w.worker.state()
	if v == 0 && errors.Is(err, protocol.ErrNothingRuns) {
		return
	}
	if err != nil || got.Version != v {
		t.Errorf("at %s the worker runs version %d (%v), want %d", w.worker.now(), got.Version, err, v)
	}
}

// logged counts the lines of a level and a message.
func (w *world) logged(level logrus.Level, message string) (n int) {
	for _, e := range w.log.AllEntries() {
		if e.Level == level && e.Message == message {
			n++
		}
	}
	return n
}
