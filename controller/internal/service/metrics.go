package service

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/metrics"
)

// Metrics are what happens to configurations and agents. What is so at a moment is
// the Collector's.
type Metrics struct {
	publishes     metrics.Outcomes
	reports       *prometheus.CounterVec
	announcements *prometheus.CounterVec
	propagation   prometheus.Histogram
	flushed       prometheus.Gauge
}

// The outcomes of a publish.
const (
	outcomeChanged      = "changed"
	outcomeUnchanged    = "unchanged"
	outcomeFrozen       = "frozen"
	outcomePrecondition = "precondition"
	outcomeInvalid      = "invalid"
	outcomeFailed       = "failed" // of an announcement too
	outcomeTaken        = "taken"  // of an announcement
)

// propagationBuckets go from a fleet that hears of a version at once to one that
// polls every quarter of an hour.
var propagationBuckets = []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900}

// NewMetrics returns the metrics of one controller; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	m := &Metrics{
		publishes: metrics.NewOutcomes(reg, prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "publishes_total",
			Help: "Publishes and rollbacks, by outcome.",
		}, outcomeChanged, outcomeUnchanged, outcomeFrozen, outcomePrecondition, outcomeInvalid, outcomeFailed),
		reports: factory.NewCounterVec(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "reports_total",
			Help: "Outcomes of attempts that agents reported, by status. The same one said again does not count, unless an admin had the agent try again.",
		}, []string{"status"}),
		announcements: factory.NewCounterVec(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "announcements_total",
			Help: "Announcements over a broker, by transport and outcome.",
		}, []string{"transport", "outcome"}),
		propagation: factory.NewHistogram(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "propagation_seconds",
			Help:    "Time from the commit of the current version until it was heard that an agent's worker runs it, once an agent and version. Agents registered after the commit do not count.",
			Buckets: propagationBuckets,
		}),
		flushed: factory.NewGauge(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "last_presence_flush_timestamp_seconds",
			Help: "When all that polls tell of agents was last in the database.",
		}),
	}
	for _, status := range []models.AttemptStatus{models.Applying, models.Applied, models.Failed} {
		m.reports.WithLabelValues(statusLabel(status))
	}
	return m
}

const subsystem = "controller"

func statusLabel(status models.AttemptStatus) string { return strings.ToLower(string(status)) }

// published counts what a publish came to. One whose caller left before it was its
// database.Lock came to nothing.
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

// propagated measures how long the newest version took to an agent.
func (m *Metrics) propagated(took time.Duration) { m.propagation.Observe(took.Seconds()) }

// reported counts an outcome that an agent reported.
func (m *Metrics) reported(status models.AttemptStatus) {
	m.reports.WithLabelValues(statusLabel(status)).Inc()
}

// stored notes that all presence is in the store.
func (m *Metrics) stored() { m.flushed.SetToCurrentTime() }

// Announcing returns the announcer, whose announcements are counted as going out
// over a transport.
func (m *Metrics) Announcing(over models.Transport, announcer Announcer) Announcer {
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

// Announce counts what comes of it, unless the controller stops.
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

// Collector tells how the fleet and its configuration are, when it is asked: it
// looks at all agents once.
type Collector struct {
	configs       *Configs
	agents        *Agents
	waiters       *Waiters
	announcements *Announcements
}

// NewCollector returns the collector of these; waiters are nil where no poll is
// held.
func NewCollector(configs *Configs, agents *Agents, waiters *Waiters, announcements *Announcements) *Collector {
	return &Collector{configs, agents, waiters, announcements}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return metrics.Describe(subsystem, name, help, labels...)
}

var (
	agentsDesc       = describe("agents", "Agents by status.", "status")
	transportsDesc   = describe("agents_by_transport", "Agents by how they hear of a newer version, without the inactive ones.", "transport")
	versionsDesc     = describe("agents_by_applied_version", "Agents by the version that their worker runs, without the inactive ones: the desired one, those that most run beside it, other for the rest, none for nothing.", "version")
	desiredDesc      = describe("desired_version", "The version that agents should run; 0 before the first publish.")
	lastPublishDesc  = describe("last_publish_timestamp_seconds", "When the current version was published; 0 before the first publish.")
	conflictDesc     = describe("conflict", "Whether agents run versions above the store's, and no admin has decided yet: 1 or 0.")
	frozenDesc       = describe("frozen", "Whether publishing is frozen: 1 or 0.")
	waitersDesc      = describe("waiters", "Polls that are held.")
	waitersLimitDesc = describe("waiters_limit", "How many polls are held at most.")
	brokerLostDesc   = describe("broker_lost", "Whether the broker does not take announcements: 1 or 0.")
)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		agentsDesc, transportsDesc, versionsDesc, desiredDesc, lastPublishDesc, conflictDesc, frozenDesc, waitersDesc, waitersLimitDesc, brokerLostDesc,
	} {
		to <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	plan, now := c.configs.Plan(), time.Now()
	summary := c.agents.Summary(plan, now)
	for _, status := range models.Statuses {
		gauge(agentsDesc, float64(summary.ByStatus[status]), string(status))
	}
	for _, transport := range models.Transports {
		gauge(transportsDesc, float64(summary.ByTransport[transport]), string(transport))
	}
	gauge(transportsDesc, float64(summary.ByTransport[""]), "unknown")
	for label, n := range versionCounts(summary.ByApplied, plan.Version()) {
		gauge(versionsDesc, float64(n), label)
	}
	gauge(desiredDesc, float64(plan.Version()))
	gauge(lastPublishDesc, lastPublish(plan.Config()))
	gauge(conflictDesc, metrics.Truth(plan.Conflict()))
	gauge(frozenDesc, metrics.Truth(plan.FrozenAt(now) != nil))
	waiting, most := 0, 0
	if c.waiters != nil {
		waiting, most = c.waiters.Waiting(), c.waiters.most
	}
	gauge(waitersDesc, float64(waiting))
	gauge(waitersLimitDesc, float64(most))
	gauge(brokerLostDesc, metrics.Truth(c.announcements.Lost() != nil))
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

func lastPublish(current *models.Config) float64 {
	if current == nil {
		return 0
	}
	return metrics.Timestamp(current.PublishedAt)
}
