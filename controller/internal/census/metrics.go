package census

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const subsystem = "controller"

var (
	agentsDesc     = metrics.Describe(subsystem, "agents", "Agents by status.", "status")
	transportsDesc = metrics.Describe(subsystem, "agents_by_transport",
		"Agents by how they receive hints of a newer version, without the inactive ones.", "transport")
	versionsDesc = metrics.Describe(subsystem, "agents_by_applied_version",
		"Agents by the version that their worker runs, without the inactive ones: "+
			"the desired version, each of the four others that most run, any other, or none.", "version")
)

// Describe implements prometheus.Collector.
func (c *Census) Describe(to chan<- *prometheus.Desc) {
	to <- agentsDesc
	to <- transportsDesc
	to <- versionsDesc
}

// Collect implements prometheus.Collector. It reports the numbers of agents.
func (c *Census) Collect(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, n int, label string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), label)
	}
	plan := c.plan.Load()
	summary := c.Summary(plan, time.Now())
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
