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

// Metrics are what happens to agents.
type Metrics struct {
	reports     *prometheus.CounterVec
	propagation prometheus.Histogram
	flushed     prometheus.Gauge
}

// propagationBuckets go from a fleet that receives a version immediately to one that
// polls every quarter of an hour.
var propagationBuckets = []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900}

// NewMetrics returns the metrics of one controller; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	m := &Metrics{
		reports: factory.NewCounterVec(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "reports_total",
			Help: "Outcomes of attempts that agents reported, by status. A repeated report does not count, unless an admin had the agent try again.",
		}, []string{"status"}),
		propagation: factory.NewHistogram(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "propagation_seconds",
			Help:    "Time from the commit of the current version until the controller knows that an agent's worker runs it, once per agent and version. Agents registered after the commit do not count.",
			Buckets: propagationBuckets,
		}),
		flushed: factory.NewGauge(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "last_presence_flush_timestamp_seconds",
			Help: "When the presence of all agents was last in the database.",
		}),
	}
	for _, status := range []wire.AttemptStatus{wire.Applying, wire.Applied, wire.Failed} {
		m.reports.WithLabelValues(statusLabel(status))
	}
	return m
}

func statusLabel(status wire.AttemptStatus) string { return strings.ToLower(string(status)) }

// propagated measures how long the newest version took to an agent.
func (m *Metrics) propagated(took time.Duration) { m.propagation.Observe(took.Seconds()) }

// reported counts an outcome that an agent reported.
func (m *Metrics) reported(status wire.AttemptStatus) {
	m.reports.WithLabelValues(statusLabel(status)).Inc()
}

// stored notes that all presence is in the store.
func (m *Metrics) stored() { m.flushed.SetToCurrentTime() }

var (
	agentsDesc     = metrics.Describe(subsystem, "agents", "Agents by status.", "status")
	transportsDesc = metrics.Describe(subsystem, "agents_by_transport",
		"Agents by how they hear of a newer version, without the inactive ones.", "transport")
	versionsDesc = metrics.Describe(subsystem, "agents_by_applied_version",
		"Agents by the version that their worker runs, without the inactive ones: the desired one, those that most run beside it, other for the rest, none for nothing.", "version")
)

// Describe implements prometheus.Collector.
func (r *Registry) Describe(to chan<- *prometheus.Desc) {
	to <- agentsDesc
	to <- transportsDesc
	to <- versionsDesc
}

// Collect implements prometheus.Collector: how many agents there are.
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

// versionsApart is how many versions are counted apart beside the desired one.
const versionsApart = 4

// versionCounts gives the agents of few versions apart, whatever agents run.
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
		if i < versionsApart {
			label = format(version)
		}
		counts[label] += byApplied[version]
	}
	return counts
}

func format(version int64) string { return strconv.FormatInt(version, 10) }
