package poller

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/agent/internal/pace"
	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const subsystem = "agent"

// Metrics count and time the requests of a Poller. An attempt that ends because the agent
// stops is not counted.
type Metrics struct {
	fetches        metrics.Outcomes
	fetchSeconds   prometheus.Observer // without long polls
	registrations  metrics.Outcomes
	reports        metrics.Outcomes
	pushes         metrics.Outcomes
	pushSeconds    prometheus.Observer
	workerRestarts prometheus.Counter
	cacheWrites    metrics.Outcomes
	hints          *prometheus.CounterVec
}

// Outcomes of requests to the controller that fail.
const (
	denied  = "denied"  // the credentials are refused
	limited = "limited" // the controller asks to retry later
	failed  = "failed"  // there is no answer, or not one of the controller
)

// NewMetrics returns the metrics of a Poller, registered with reg unless that is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: metrics.Namespace, Subsystem: subsystem, Name: name, Help: help}
	}
	seconds := func(name, help string) prometheus.Observer {
		return factory.NewHistogram(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: metrics.Buckets,
		})
	}
	return &Metrics{
		fetches: metrics.NewOutcomes(reg, counter("fetches_total", "Fetches, by outcome."),
			"changed", "unchanged", "wait_over", "nothing_published", "invalid", "cut", denied, limited, failed),
		fetchSeconds: seconds("fetch_duration_seconds", "Duration of a fetch that is not a long poll."),
		registrations: metrics.NewOutcomes(
			reg, counter("registrations_total", "Registrations, by outcome."), "registered", denied, limited, failed,
		),
		reports: metrics.NewOutcomes(
			reg, counter("reports_total", "Reports to the controller, by outcome."), "taken", "unwanted", denied,
			limited, failed,
		),
		pushes: metrics.NewOutcomes(
			reg, counter("pushes_total", "Pushes to the worker, by outcome."), "applied", "refused", failed,
		),
		pushSeconds: seconds("push_duration_seconds", "Duration of a push, with the worker's validation."),
		workerRestarts: factory.NewCounter(
			counter("worker_restarts_total", "Restarts of the worker that were observed.")),
		cacheWrites: metrics.NewOutcomes(
			reg, counter("cache_writes_total", "Writes to the cache, by outcome."), "written", failed,
		),
		hints: factory.NewCounterVec(
			counter("hints_total", "Hints received from a broker, by transport and outcome."),
			[]string{"transport", "outcome"},
		),
	}
}

// initHints makes the series of a transport exist from the start.
func (m *Metrics) initHints(transport wire.Transport) {
	for _, outcome := range []pace.Outcome{
		pace.HintFollowed, pace.HintDelayed, pace.HintOld, pace.HintIgnored, pace.HintInvalid,
	} {
		m.hints.WithLabelValues(string(transport), string(outcome))
	}
}

// countHint counts a hint by its outcome.
func (m *Metrics) countHint(transport wire.Transport, outcome pace.Outcome) {
	m.hints.WithLabelValues(string(transport), string(outcome)).Inc()
}

// fetched counts a fetch by the error that it ended with.
func (m *Metrics) fetched(q protocol.Query, answer protocol.Answer, err error, took time.Duration) {
	if errors.Is(err, context.Canceled) {
		return
	}
	if err == nil && answer.Unchanged(q) {
		err = protocol.ErrNotModified
	}
	nothingNew := errors.Is(err, protocol.ErrNotModified) || errors.Is(err, protocol.ErrNothingPublished)
	switch {
	case err == nil:
		m.fetches.Count("changed")
	case nothingNew && q.Wait > 0:
		m.fetches.Count("wait_over")
	case errors.Is(err, protocol.ErrNotModified):
		m.fetches.Count("unchanged")
	case errors.Is(err, protocol.ErrNothingPublished):
		m.fetches.Count("nothing_published")
	case errors.Is(err, protocol.ErrInvalidConfig), errors.Is(err, protocol.ErrOlder):
		m.fetches.Count("invalid")
	case errors.Is(err, protocol.ErrCut):
		m.fetches.Count("cut")
	default:
		m.fetches.Count(failure(err))
	}
	if q.Wait == 0 {
		m.fetchSeconds.Observe(took.Seconds())
	}
}

// registered counts a registration by the error that it ended with.
func (m *Metrics) registered(err error) {
	if err == nil {
		m.registrations.Count("registered")
		return
	}
	m.registrations.Count(failure(err))
}

// reported counts a report by the error that it ended with.
func (m *Metrics) reported(err error) {
	switch {
	case err == nil:
		m.reports.Count("taken")
	case errors.Is(err, protocol.ErrUnwanted):
		m.reports.Count("unwanted")
	default:
		m.reports.Count(failure(err))
	}
}

// failure returns the outcome of a request to the controller that failed, "" if the agent
// stops.
func failure(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return ""
	case errors.Is(err, protocol.ErrUnauthorized):
		return denied
	case protocol.Floor(err) > 0:
		return limited
	}
	return failed
}

// pushed counts a push by the error that it ended with.
func (m *Metrics) pushed(err error, took time.Duration) {
	var refused *protocol.Refused
	switch {
	case err == nil:
		m.pushes.Count("applied")
	case errors.As(err, &refused):
		m.pushes.Count("refused")
	case errors.Is(err, context.Canceled):
		return
	default:
		m.pushes.Count(failed)
	}
	m.pushSeconds.Observe(took.Seconds())
}

// saved counts a write to the cache.
func (m *Metrics) saved(err error) {
	if err != nil {
		m.cacheWrites.Count(failed)
		return
	}
	m.cacheWrites.Count("written")
}
