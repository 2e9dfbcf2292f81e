package poll

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetconf/fleetconf/pkg/metrics"
)

var (
	waitersDesc      = metrics.Describe("controller", "waiters", "Long polls in progress.")
	waitersLimitDesc = metrics.Describe("controller", "waiters_limit", "The maximum of long polls in progress.")
)

// Describe implements prometheus.Collector.
func (w *Waiters) Describe(to chan<- *prometheus.Desc) {
	to <- waitersDesc
	to <- waitersLimitDesc
}

// Collect implements prometheus.Collector.
func (w *Waiters) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(waitersDesc, prometheus.GaugeValue, float64(w.Waiting()))
	to <- prometheus.MustNewConstMetric(waitersLimitDesc, prometheus.GaugeValue, float64(w.limit))
}
