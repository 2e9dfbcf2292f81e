package state

import (
	"cmp"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/pace"
	"github.com/fleetconf/fleetconf/agent/internal/reconcile"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

// Config is what does not change while an agent runs.
type Config struct {
	Self      wire.RegisterRequest // what to register, without id and secret
	Transport wire.Transport       // how to learn of newer versions between two polls
	Fleet     string               // whose hints; "": the fleet that the controller names
}

// Machine is the state of one agent. Make it with New; it has one owner at a time.
//
// Its methods are the events, and the questions that the loops ask. After each event,
// Actions returns what else the event asks for.
type Machine struct {
	config    Config
	stored    Stored
	revision  int       // of stored; counts up
	savedID   bool      // the agent's secret is in the cache
	pace      pace.Pace // when to poll
	following following
	worker    reconcile.Worker
	reports   reports // what the controller was told

	controllerErr, workerErr, cacheErr fault

	actions    Actions
	loggedPush pace.Push
}

// New returns the Machine of an agent without a cache.
func New(config Config) *Machine {
	return &Machine{
		config: config, pace: pace.New(config.Transport),
		following: newFollowing(), worker: reconcile.New(), reports: newReports(),
	}
}

// Actions are what an event asks of the loops.
type Actions struct {
	Log             []Line
	Save            bool // Stored has changed
	Follow          bool // Next may have another answer
	Reconcile       bool // the worker should run something else
	Report          bool // NextReport may have another answer
	Subscribe       bool // Fleet has changed
	WorkerRestarted bool
	// Interrupt is when to end a long poll that is Stale; zero: never.
	Interrupt time.Time
}

// Line is a line to log.
type Line struct {
	Level   logrus.Level
	Message string
	Fields  logrus.Fields
}

// Actions returns what the events since the last call ask for.
func (m *Machine) Actions() Actions {
	m.logPush()
	actions := m.actions
	m.actions = Actions{}
	return actions
}

func (m *Machine) log(level logrus.Level, message string, fields logrus.Fields) {
	m.actions.Log = append(m.actions.Log, Line{level, message, fields})
}

// logPush logs a change between healthy and not, and the first error.
func (m *Machine) logPush() {
	was, is := m.loggedPush, m.pace.Push()
	m.loggedPush = is
	switch {
	case is.Healthy && !was.Healthy:
		m.log(logrus.InfoLevel, "Push healthy", logrus.Fields{"transport": m.config.Transport})
	case !is.Healthy && is.Err != "" && (was.Healthy || was.Err == ""):
		m.log(logrus.WarnLevel, "Push lost; polling", logrus.Fields{
			"transport": m.config.Transport, "error": is.Err, "interval": m.pace.Interval().String(),
		})
	}
}

// Loaded starts from the content of the cache. After an error, stored is the part that can
// still be used.
func (m *Machine) Loaded(stored Stored, err error) {
	if err != nil {
		m.log(logrus.WarnLevel, "Cache unusable", logrus.Fields{"error": err.Error()})
	}
	m.stored = stored
	m.savedID = stored.Identity.AgentSecret != ""
	if stored.Identity.AgentToken != "" {
		m.following.registerWith = nothing
	}
	if desired := stored.Desired(); desired != nil {
		m.pace.SetInterval(desired.Config.PollInterval())
		fields := logrus.Fields{"agent": stored.Identity.AgentID, "version": desired.Config.Version}
		m.log(logrus.InfoLevel, "Cache loaded", fields)
	}
}

// Stored returns what to save. The revision tells one state from a later one.
func (m *Machine) Stored() (stored Stored, revision int) { return m.stored, m.revision }

func (m *Machine) save() {
	m.revision++
	m.actions.Save = true
}

// Saved records that the cache holds stored, or why it does not.
func (m *Machine) Saved(stored Stored, err error) {
	if err == nil {
		m.savedID = stored.Identity.AgentSecret != ""
	}
	m.note(&m.cacheErr, err, "Cache unwritable", "Cache writable")
}

// AgentID returns the id under which the controller knows this agent; "" before it was
// registered.
func (m *Machine) AgentID() string {
	if m.stored.Identity.AgentToken == "" {
		return ""
	}
	return m.stored.Identity.AgentID
}

// Fleet returns the id of the fleet whose hints to receive.
func (m *Machine) Fleet() string { return cmp.Or(m.config.Fleet, m.stored.Fleet) }

// Subscribed records that hints are received.
func (m *Machine) Subscribed(now time.Time) {
	m.pace.Subscribed(now)
	m.actions.Follow = true
}

// Unsubscribed records that no hints are received, and why.
func (m *Machine) Unsubscribed(now time.Time, err error) {
	m.pace.Unsubscribed(now, err)
	m.actions.Follow = true
}

// Hinted handles a hint, which anyone with access to the broker can send: it says only
// that a version exists.
func (m *Machine) Hinted(now time.Time, hint notify.Hint) pace.Outcome {
	outcome := m.pace.Hint(now, hint, m.stored.Candidate, m.stored.LastGood)
	if outcome == pace.HintFollowed || outcome == pace.HintDelayed {
		fields := logrus.Fields{"version": hint.Version, "spread": hint.Spread().String()}
		m.log(logrus.DebugLevel, "Hint received", fields)
		m.actions.Follow = true
	}
	return outcome
}

// fault is what is wrong with the controller, the worker or the cache; "" while all is
// well.
type fault string

// note records the outcome of an attempt. It logs lost if the error has changed, and back
// if there is none any more.
func (m *Machine) note(f *fault, err error, lost, back string) {
	was := *f
	switch {
	case err == nil && was == "":
	case err == nil:
		*f = ""
		m.log(logrus.InfoLevel, back, nil)
	case fault(err.Error()) == was:
		m.log(logrus.DebugLevel, lost, logrus.Fields{"error": err.Error()})
	default:
		*f = fault(err.Error())
		m.log(logrus.WarnLevel, lost, logrus.Fields{"error": err.Error()})
	}
}
