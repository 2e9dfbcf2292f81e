// Package poller keeps a worker at the configuration that the controller wants
// it to run. These loops share one memory of what is wanted:
//
//	follow     asks the controller, and remembers what it offers as the candidate
//	reconcile  compares what the worker runs with what is wanted, and pushes the difference
//	report     tells the controller how it ended
//	saver      writes to the cache what the others have to remember
//	Hints      tell follow that there may be something newer, where a broker does
//
// None waits for another, so a controller that hangs does not keep a restarted
// worker hungry, nor a worker that hangs keep the agent from polling. None
// gives up.
package poller

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/fleetconf/fleetconf/agent/internal/models"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

// Source is where configurations come from. Each call ends within seconds,
// whatever the other side does. An error is one of models', which is an answer,
// or any other, which is an outage and worth another try; models.Floor says
// after how long.
type Source interface {
	// Register may be called at any time. With self.AgentID set the agent stays
	// the one it was. It authenticates with the token of as, or with the shared
	// credentials if there is none.
	Register(ctx context.Context, as models.Identity, self wire.RegisterRequest) (models.Registration, error)
	// Fetch returns models.ErrNotModified if what should run is what the query's
	// ETag names. With a wait it may take as long as that, and a little more.
	Fetch(ctx context.Context, id models.Identity, q models.Query) (models.Answer, error)
	// Report returns models.ErrUnwanted if the report need not be sent again.
	Report(ctx context.Context, id models.Identity, report wire.Report) error
	// Deregister takes the agent off; nil if it is not known anyway.
	Deregister(ctx context.Context, id models.Identity) error
}

// Sink is what runs configurations. Each call ends within seconds.
type Sink interface {
	// Running returns models.ErrNothingRuns before the first push.
	Running(ctx context.Context) (wire.WorkerState, error)
	// Push returns nil only if exactly that version runs, and *models.Refused
	// only if it never will.
	Push(ctx context.Context, config wire.WorkerConfig) error
}

// Cache outlives the process. After Save returned nil, Load gives that state;
// after an error or a crash, that state or the one before it.
type Cache interface {
	// Load returns what can be trusted, also beside an error.
	Load() (models.State, error)
	Save(state models.State) error
}

// Hints tell that there may be something to fetch; package notify has its law.
type Hints interface {
	Run(ctx context.Context, subject string, r notify.Receiver) error
}

// Parts are what a Poller is made of.
type Parts struct {
	Source Source
	Sink   Sink
	Cache  Cache
	Self   wire.RegisterRequest // what to say of this agent; the id comes from the cache
	Log    logrus.FieldLogger

	Transport wire.Transport // how to hear of newer versions between two polls
	Hints     Hints          // of a broker; nil for the other transports
	Fleet     string         // whose hints; "": that of the controller's answers

	Ephemeral bool // to take itself off the controller's list when it ends

	Metrics *Metrics // nil: nobody measures
}

const (
	cycleInterval    = time.Second      // how often the worker is asked what it runs
	firstInterval    = 30 * time.Second // between polls, until the controller says otherwise
	firstResync      = 5 * time.Minute  // between sweeps, until the controller says otherwise
	firstPushTimeout = time.Second      // the longest that a slow worker delays the first registration

	retryFirst   = time.Second
	retryLimit   = 5 * time.Minute  // of requests to the controller
	pushLimit    = 30 * time.Second // of pushes to the worker, which is near
	deniedWindow = 10 * time.Minute // a token refused again within it is no accident
	saveLimit    = time.Minute      // of writes to the cache
	rejoinSpread = time.Minute      // over which, or over a poll interval, a fleet comes back that lost the same thing
	pollsJitter  = 10               // percent of the interval, either way
	resyncJitter = 50               // percent of the sweep, which may only be longer
	immediately  = time.Second      // a release that comes before that did not have to be waited for
	maxImmediate = 4                // of them in a row, before there is a rest
)

// Poller is the agent without its sockets. Make it with New.
type Poller struct {
	Parts

	// Each holds one wake-up at most; nobody closes them.
	offered         chan struct{} // to reconcile: what is wanted changed
	reportPending   chan struct{} // to report: there may be something to send, and someone to take it
	reportTaken     chan struct{} // to follow: the controller took a report
	saveNeeded      chan struct{} // to saver: the state has changed
	verdictReceived chan struct{} // to follow: the worker has judged what was fetched, and the controller was told
	fleetChanged    chan struct{} // to listen: the controller names another fleet
	pollSooner      chan struct{} // to follow: push has changed, or has something to say
	// firstPushDone is closed by reconcile when the worker was first tried.
	firstPushDone chan struct{}

	known atomic.Pointer[string] // as AgentID says

	mu         sync.Mutex   // guards all below
	state      models.State // the truth; saver writes it to the cache
	saving     saving
	registered bool // the controller has accepted the token since this process started, and not refused it since
	secretSafe bool // the agent's secret is in the cache
	interval   time.Duration
	resync     time.Duration // between two polls while a broker is heard
	push       pushState
	lastFetch  time.Time

	worker          models.WorkerStatus
	health          health
	inSync          bool            // the worker, when last asked, ran what is wanted
	refusedLastGood *models.Release // the last good one, when the worker refused even that
	refusal         refusal         // what the worker refused last, until that is history

	reportAt time.Time    // not before is an outcome sent: the whole fleet fetches
	fetched  int64        // the version that the controller offered last
	due      bool         // the outcome for what is wanted now was not reported yet
	next     *wire.Report // to be sent; a newer one replaces it
	acked    wire.Report  // the last that the controller took

	controllerErr, workerErr, cacheErr fault
}

// New returns a Poller that has not started.
func New(parts Parts) *Poller {
	if parts.Metrics == nil {
		parts.Metrics = NewMetrics(nil)
	}
	if parts.Hints != nil {
		parts.Metrics.initHints(parts.Transport)
	}
	return &Poller{
		Parts:           parts,
		offered:         make(chan struct{}, 1),
		reportPending:   make(chan struct{}, 1),
		reportTaken:     make(chan struct{}, 1),
		saveNeeded:      make(chan struct{}, 1),
		verdictReceived: make(chan struct{}, 1),
		fleetChanged:    make(chan struct{}, 1),
		pollSooner:      make(chan struct{}, 1),
		firstPushDone:   make(chan struct{}),
		interval:        firstInterval,
		resync:          firstResync,
		push:            pushState{ignoreBackoff: backoff.New(retryFirst, wire.MaxPollInterval)},
		saving:          saving{changed: make(chan struct{})},
		due:             true,
	}
}

// Run keeps the worker at what the controller wants until ctx ends, and then
// returns nil. An ephemeral agent leaves the controller first. It is called once.
func (p *Poller) Run(ctx context.Context) error {
	p.load()
	saves, stopSaver := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSaver()
	saved := make(chan struct{})
	go func() { defer close(saved); p.saver(saves) }() // ends with the last loop, unless the disk hangs
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { p.reconcile(ctx); return nil })
	g.Go(func() error { p.follow(ctx); return nil })
	g.Go(func() error { p.report(ctx); return nil })
	if p.Hints != nil {
		g.Go(func() error { return p.listen(ctx) })
	}
	err := g.Wait()
	if p.Ephemeral {
		p.deregister(context.WithoutCancel(ctx)) // after the last poll, which would register it again
	}
	stopSaver()
	select {
	case <-saved:
	case <-time.After(saveTimeout):
		p.Log.WithField("error", errHangs.Error()).Warn("Cache not saved before the end")
	}
	return err
}

// deregister takes the agent off the controller's list, if it ever got there.
func (p *Poller) deregister(ctx context.Context) {
	p.mu.Lock()
	id := p.state.Identity
	p.mu.Unlock()
	if id.AgentToken == "" {
		return
	}
	a := newAttempts(p.Log)
	if err := p.Source.Deregister(a.begin(ctx), id); err != nil {
		a.log.WithField("error", err.Error()).Warn("Controller could not be told that this ephemeral agent ends")
		return
	}
	a.log.WithField("agent", id.AgentID).Info("Controller left")
}

// AgentID is who the controller takes this agent for, "" while it does not know
// it. It never waits, so a logger may ask.
func (p *Poller) AgentID() string {
	if id := p.known.Load(); id != nil {
		return *id
	}
	return ""
}

// Status says how the agent is.
func (p *Poller) Status() models.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := models.Status{
		AgentID:             p.state.Identity.AgentID,
		Registered:          p.registered,
		Transport:           wire.Polling,
		Push:                models.PushStatus{Transport: p.Transport, Healthy: p.push.healthy, Error: p.push.err},
		PollIntervalSeconds: int(p.interval / time.Second),
		Worker:              p.worker,
		Cache:               models.CacheStatus{Writable: p.cacheErr == "", Error: string(p.cacheErr)},
		ControllerError:     string(p.controllerErr),
		InSync:              p.inSync,
	}
	s.Worker.Error = string(p.workerErr)
	if p.push.healthy {
		s.Transport = p.Transport
	}
	if want := p.state.Desired(); want != nil {
		s.DesiredVersion = new(want.Config.Version)
		s.CacheAgeSeconds = new(max(0, int64(time.Since(want.FetchedAt)/time.Second)))
	}
	if good := p.state.LastGood; good != nil {
		s.AppliedVersion = new(good.Config.Version)
	}
	if !p.lastFetch.IsZero() {
		s.LastFetch = new(p.lastFetch)
	}
	var errs []string
	for _, text := range []string{s.ControllerError, s.Worker.Error, p.refusal.String(), s.Cache.Error} {
		if text != "" {
			errs = append(errs, text)
		}
	}
	s.LastError = strings.Join(errs, "; ")
	return s
}

// load starts from what the cache holds. A cache that cannot be used is a
// fresh start.
func (p *Poller) load() {
	state, err := p.Cache.Load()
	if err != nil {
		p.Log.WithField("error", err.Error()).Warn("Cache cannot be used")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = state
	p.secretSafe = state.Identity.AgentSecret != ""
	if state.Identity.AgentToken != "" {
		p.known.Store(&state.Identity.AgentID)
	}
	if want := state.Desired(); want != nil {
		p.interval = want.Config.PollInterval()
		p.Log.WithFields(logrus.Fields{"agent": state.Identity.AgentID, "version": want.Config.Version}).Info("Cache loaded")
	}
}

// fault is what is wrong with one neighbour, "" while all is well.
type fault string

// note takes the outcome of an attempt, and logs it as lost when it is another
// trouble than before, as back when it was the last of it.
func (t *fault) note(log logrus.FieldLogger, err error, lost, back string) {
	was := *t
	switch {
	case err == nil && was == "":
	case err == nil:
		*t = ""
		log.Info(back)
	case fault(err.Error()) == was:
		log.WithField("error", err.Error()).Debug(lost)
	default:
		*t = fault(err.Error())
		log.WithField("error", err.Error()).Warn(lost)
	}
}

// refusal is a worker's no; the zero refusal is none.
type refusal struct {
	version int64
	message string
}

func (r refusal) String() string {
	if r.version == 0 {
		return ""
	}
	return fmt.Sprintf("the worker refused version %d: %s", r.version, r.message)
}

// wake puts a wake-up into c unless one is there already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// drain takes a wake-up out of c that is there from before.
func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// sleep waits for d, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool { return pause(ctx, d, nil) }

// pause waits for d, or for a wake-up, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration, wakeUp <-chan struct{}) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wakeUp:
	case <-timer.C:
	}
	return ctx.Err() == nil
}

// early is the wake-up that may cut short the wait after err: none if the
// other side asked to be left alone.
func early(wakeUp <-chan struct{}, err error) <-chan struct{} {
	if models.Floor(err) > 0 {
		return nil
	}
	return wakeUp
}

// jitter draws a random part of d, down to nothing.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

// jittered draws a wait around interval, so that agents that started together do
// not poll together.
func jittered(interval time.Duration) time.Duration {
	most := interval * pollsJitter / 100
	return interval - most + jitter(2*most)
}
