// Package poller keeps a worker at the configuration that the controller offers. Three
// loops and two helpers carry out what the agent's state.Machine decides:
//
//	follow     registers and polls
//	reconcile  asks the worker what it runs, and pushes what it should run
//	report     sends the outcomes to the controller
//	saver      writes the state to the cache
//	listen     receives the hints of a broker, if there is one
//
// No loop waits for another, so that an unresponsive controller never delays
// configuring a restarted worker, and an unresponsive worker never delays polling. Every
// loop retries until Run ends.
package poller

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

// Source is where configurations come from. Each call ends within seconds, whatever the
// other side does. An error is one of package protocol's, which is an answer, or any
// other, which is an outage and is retried after protocol.Floor at the earliest.
type Source interface {
	// Register may be called at any time. With self.AgentID set the agent keeps that
	// id. It authenticates with the token of as, or with the shared credentials if
	// there is none.
	Register(ctx context.Context, as protocol.Identity, self wire.RegisterRequest) (protocol.Registration, error)
	// Fetch returns protocol.ErrNotModified if the agent should run what the query's
	// ETag names. A long poll may take as long as its wait, and a little more.
	Fetch(ctx context.Context, id protocol.Identity, q protocol.Query) (protocol.Answer, error)
	// Report returns protocol.ErrUnwanted if the report need not be sent again.
	Report(ctx context.Context, id protocol.Identity, report wire.Report) error
	// Deregister removes the agent from the controller; nil if it is not there.
	Deregister(ctx context.Context, id protocol.Identity) error
}

// Sink is what runs configurations. Each call ends within seconds.
type Sink interface {
	// Running returns protocol.ErrNothingRuns before the first push.
	Running(ctx context.Context) (wire.WorkerState, error)
	// Push returns nil only if exactly that version runs, and *protocol.Refused only
	// if it never will.
	Push(ctx context.Context, config wire.WorkerConfig) error
}

// Cache outlives the process. After Save returned nil, Load returns that state; after an
// error or a crash, that state or the one before it.
type Cache interface {
	// Load returns what can be trusted, also beside an error.
	Load() (state.Stored, error)
	Save(stored state.Stored) error
}

// Hints say that there may be something to fetch, as package notify describes.
type Hints interface {
	Run(ctx context.Context, subject string, r notify.Receiver) error
}

// Parts are what a Poller is made of.
type Parts struct {
	Source Source
	Sink   Sink
	Cache  Cache
	Config state.Config
	Hints  Hints // of a broker; nil for the transports without one
	Log    logrus.FieldLogger

	Ephemeral bool // deregister at the end

	Metrics *Metrics // NewMetrics(nil) for none
}

// firstPushTimeout is how long a slow worker delays the first request to the controller.
const firstPushTimeout = time.Second

// Poller is the agent without its sockets. Make it with New.
type Poller struct {
	Parts

	// Each holds one wake-up at most, and is never closed.
	wakeFollow, wakeReconcile, wakeReport, wakeListen chan struct{}
	firstPushDone                                     chan struct{} // closed by reconcile after its first round
	saver                                             saver

	mu       sync.Mutex // guards the rest; held for a decision, never for I/O
	machine  *state.Machine
	longPoll *longPoll // under way; nil: none
}

// New returns a Poller that has not started.
func New(parts Parts) *Poller {
	if parts.Hints != nil {
		parts.Metrics.initHints(parts.Config.Transport)
	}
	wakeUp := func() chan struct{} { return make(chan struct{}, 1) }
	return &Poller{
		Parts:      parts,
		wakeFollow: wakeUp(), wakeReconcile: wakeUp(), wakeReport: wakeUp(), wakeListen: wakeUp(),
		firstPushDone: make(chan struct{}),
		saver:         saver{wake: wakeUp(), changed: make(chan struct{})},
		machine:       state.New(parts.Config),
	}
}

// Run keeps the worker at what the controller offers until ctx ends, and then returns
// nil. An ephemeral agent deregisters first. Run is called once.
func (p *Poller) Run(ctx context.Context) error {
	p.load()
	saves, stopSaver := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSaver()
	saved := make(chan struct{})
	go func() { defer close(saved); p.runSaver(saves) }() // ends after the loops, unless the disk hangs
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
		p.Log.WithField("error", errHangs.Error()).Warn("Cache not saved at the end")
	}
	return err
}

// load starts from what the cache holds. A cache that cannot be used is an empty one.
func (p *Poller) load() {
	stored, err := p.Cache.Load()
	p.handle(p.Log, func(m *state.Machine, _ time.Time) { m.Loaded(stored, err) })
}

// deregister removes the agent from the controller, if it was ever registered.
func (p *Poller) deregister(ctx context.Context) {
	var stored state.Stored
	p.ask(func(m *state.Machine, _ time.Time) { stored, _ = m.Stored() })
	if stored.Identity.AgentToken == "" {
		return
	}
	a := newAttempts(p.Log)
	if err := p.Source.Deregister(a.begin(ctx), stored.Identity); err != nil {
		a.log.WithField("error", err.Error()).Warn("Agent not deregistered")
		return
	}
	a.log.WithField("agent", stored.Identity.AgentID).Info("Agent deregistered")
}

// AgentID returns the id under which the controller knows this agent, "" before it was
// registered. It waits for no I/O.
func (p *Poller) AgentID() (id string) {
	p.ask(func(m *state.Machine, _ time.Time) { id = m.AgentID() })
	return id
}

// Status returns the agent's status.
func (p *Poller) Status() (status protocol.Status) {
	p.ask(func(m *state.Machine, now time.Time) { status = m.Status(now) })
	return status
}

// ask asks the machine something.
func (p *Poller) ask(question func(m *state.Machine, now time.Time)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	question(p.machine, time.Now())
}

// handle gives the machine an event, and does what it asks for. Lines are logged to log.
func (p *Poller) handle(log logrus.FieldLogger, event func(m *state.Machine, now time.Time)) {
	var actions state.Actions
	p.ask(func(m *state.Machine, now time.Time) {
		event(m, now)
		actions = m.Actions()
	})
	for _, line := range actions.Log {
		log.WithFields(line.Fields).Log(line.Level, line.Message)
	}
	if actions.WorkerRestarted {
		p.Metrics.workerRestarts.Inc()
	}
	for _, w := range []struct {
		wanted bool
		loop   chan struct{}
	}{
		{actions.Save, p.saver.wake}, {actions.Follow, p.wakeFollow}, {actions.Reconcile, p.wakeReconcile},
		{actions.Report, p.wakeReport}, {actions.Subscribe, p.wakeListen},
	} {
		if w.wanted {
			wake(w.loop)
		}
	}
	if at := actions.Interrupt; !at.IsZero() {
		time.AfterFunc(time.Until(at), p.interruptStale)
	}
}

// wake puts a wake-up into c unless there is one already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits for d, for a wake-up, or for the end of ctx.
func pause(ctx context.Context, d time.Duration, wakeUp <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wakeUp:
	case <-timer.C:
	}
}
