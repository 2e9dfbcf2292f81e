package publish

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const subsystem = "controller"

// Metrics counts the outcomes of publishes and of announcements.
type Metrics struct {
	publishes     metrics.Outcomes
	announcements *prometheus.CounterVec
}

// The outcomes of a publish.
const (
	outcomeChanged      = "changed"
	outcomeUnchanged    = "unchanged"
	outcomeFrozen       = "frozen"
	outcomePrecondition = "precondition"
	outcomeInvalid      = "invalid"
	outcomeFailed       = "failed" // of an announcement too
	outcomeTaken        = "taken"  // accepted by the broker; of an announcement
)

// NewMetrics returns the metrics of one controller, registered with reg unless that is
// nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{
		publishes: metrics.NewOutcomes(reg, prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "publishes_total",
			Help: "Publishes and rollbacks, by outcome.",
		}, outcomeChanged, outcomeUnchanged, outcomeFrozen, outcomePrecondition, outcomeInvalid, outcomeFailed),
		announcements: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "announcements_total",
			Help: "Announcements over a broker, by transport and outcome.",
		}, []string{"transport", "outcome"}),
	}
}

// published counts the outcome of a publish. A publish whose client disconnected before
// it began is not counted.
func (m *Metrics) published(outcome models.Outcome, err error) {
	var (
		frozen  *models.FrozenError
		invalid *models.InvalidError
		label   = outcomeUnchanged
	)
	switch {
	case errors.Is(err, context.Canceled):
		return
	case errors.As(err, &frozen):
		label = outcomeFrozen
	case errors.As(err, &invalid):
		label = outcomeInvalid
	case errors.Is(err, models.ErrPrecondition):
		label = outcomePrecondition
	case err != nil:
		label = outcomeFailed
	case outcome.Changed:
		label = outcomeChanged
	}
	m.publishes.Count(label)
}

// Announcing returns an Announcer that counts the announcements of announcer under a
// transport.
func (m *Metrics) Announcing(over wire.Transport, announcer Announcer) Announcer {
	return counted{
		announcer,
		m.announcements.WithLabelValues(string(over), outcomeTaken),
		m.announcements.WithLabelValues(string(over), outcomeFailed),
	}
}

type counted struct {
	Announcer
	taken, failed prometheus.Counter
}

// Announce announces a and counts the outcome, unless the controller is stopping.
func (c counted) Announce(ctx context.Context, a models.Announcement) error {
	err := c.Announcer.Announce(ctx, a)
	switch {
	case err == nil:
		c.taken.Inc()
	case !errors.Is(ctx.Err(), context.Canceled):
		c.failed.Inc()
	}
	return err
}

var (
	desiredDesc = metrics.Describe(
		subsystem, "desired_version", "The version that agents should run; 0 before the first publish.",
	)
	lastPublishDesc = metrics.Describe(subsystem, "last_publish_timestamp_seconds",
		"When the current version was published; 0 for none.")
	conflictDesc = metrics.Describe(subsystem, "conflict",
		"Whether agents run later versions than the store's and no admin decided: 1 or 0.")
	frozenDesc     = metrics.Describe(subsystem, "frozen", "Whether publishing is frozen: 1 or 0.")
	brokerLostDesc = metrics.Describe(
		subsystem, "broker_lost", "Whether the broker does not take announcements: 1 or 0.",
	)
)

// Describe implements prometheus.Collector.
func (p *Publisher) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{desiredDesc, lastPublishDesc, conflictDesc, frozenDesc} {
		to <- desc
	}
}

// Collect implements prometheus.Collector. It reports the plan.
func (p *Publisher) Collect(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value)
	}
	plan, published := p.Plan(), 0.0
	if plan.Newest != nil {
		published = metrics.Timestamp(plan.Newest.PublishedAt)
	}
	gauge(desiredDesc, float64(plan.Version()))
	gauge(lastPublishDesc, published)
	gauge(conflictDesc, metrics.Truth(plan.Conflict()))
	gauge(frozenDesc, metrics.Truth(plan.FrozenAt(time.Now()) != nil))
}

// Describe implements prometheus.Collector.
func (a *Announcements) Describe(to chan<- *prometheus.Desc) { to <- brokerLostDesc }

// Collect implements prometheus.Collector.
func (a *Announcements) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(brokerLostDesc, prometheus.GaugeValue, metrics.Truth(a.Lost() != nil))
}
