package registry

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const subsystem = "controller"

// Metrics counts reports, and measures propagation and flushes.
type Metrics struct {
	reports     *prometheus.CounterVec
	propagation prometheus.Histogram
	flushed     prometheus.Gauge
}

// propagationBuckets range from a push to a poll interval of 15 minutes, in seconds.
var propagationBuckets = []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900}

// NewMetrics returns the metrics of one controller, registered with reg unless that is
// nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	m := &Metrics{
		reports: factory.NewCounterVec(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "reports_total",
			Help: "Outcomes of attempts that agents reported, by status. " +
				"A repeated report does not count, unless an admin requested a retry.",
		}, []string{"status"}),
		propagation: factory.NewHistogram(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "propagation_seconds",
			Help: "Time from the commit of the current version until a report or poll shows that an agent's worker " +
				"runs it, once per agent and version. Agents registered after the commit do not count.",
			Buckets: propagationBuckets,
		}),
		flushed: factory.NewGauge(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "last_presence_flush_timestamp_seconds",
			Help: "When the presence of all agents was last stored completely.",
		}),
	}
	for _, status := range []wire.AttemptStatus{wire.Applying, wire.Applied, wire.Failed} {
		m.reports.WithLabelValues(statusLabel(status))
	}
	return m
}

func statusLabel(status wire.AttemptStatus) string { return strings.ToLower(string(status)) }

// propagated records the time that the newest version took to reach an agent.
func (m *Metrics) propagated(took time.Duration) { m.propagation.Observe(took.Seconds()) }

// reported counts a reported attempt.
func (m *Metrics) reported(status wire.AttemptStatus) {
	m.reports.WithLabelValues(statusLabel(status)).Inc()
}

// stored records that all presence is in the store.
func (m *Metrics) stored() { m.flushed.SetToCurrentTime() }
