package registry

import (
	"cmp"
	"slices"
	"strconv"
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

var (
	agentsDesc     = metrics.Describe(subsystem, "agents", "Agents by status.", "status")
	transportsDesc = metrics.Describe(subsystem, "agents_by_transport",
		"Agents by how they receive hints of a newer version, without the inactive ones.", "transport")
	versionsDesc = metrics.Describe(subsystem, "agents_by_applied_version",
		"Agents by the version that their worker runs, without the inactive ones: "+
			"the desired version, each of the four others that most run, any other, or none.", "version")
)

// Describe implements prometheus.Collector.
func (r *Registry) Describe(to chan<- *prometheus.Desc) {
	to <- agentsDesc
	to <- transportsDesc
	to <- versionsDesc
}

// Collect implements prometheus.Collector. It reports the numbers of agents.
func (r *Registry) Collect(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, n int, label string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), label)
	}
	plan := r.plan.Load()
	summary := r.Summary(plan, time.Now())
	for _, status := range wire.AgentStatuses {
		gauge(agentsDesc, summary.ByStatus[status], string(status))
	}
	for _, transport := range wire.Transports {
		gauge(transportsDesc, summary.ByTransport[transport], string(transport))
	}
	gauge(transportsDesc, summary.ByTransport[""], "unknown")
	for label, n := range versionCounts(summary.ByApplied, plan.Version()) {
		gauge(versionsDesc, n, label)
	}
}

// otherVersions is the number of versions beside the desired one that have a label.
const otherVersions = 4

// versionCounts returns the number of agents by version label. It returns at most
// otherVersions + 3 labels, so that agents cannot create series.
func versionCounts(byApplied map[int64]int, desired int64) map[string]int {
	counts := map[string]int{"none": byApplied[0], "other": 0}
	if desired != 0 {
		counts[format(desired)] = byApplied[desired]
	}
	var others []int64
	for version := range byApplied {
		if version != 0 && version != desired {
			others = append(others, version)
		}
	}
	slices.SortFunc(others, func(a, b int64) int {
		return cmp.Or(cmp.Compare(byApplied[b], byApplied[a]), cmp.Compare(b, a))
	})
	for i, version := range others {
		label := "other"
		if i < otherVersions {
			label = format(version)
		}
		counts[label] += byApplied[version]
	}
	return counts
}

func format(version int64) string { return strconv.FormatInt(version, 10) }
