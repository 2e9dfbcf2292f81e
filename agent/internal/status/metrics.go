package status

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const subsystem = "agent"

// Metrics are what the requests to the agent are measured by.
type Metrics struct {
	status, probe, other *metrics.Class
}

// NewMetrics returns the metrics of the requests. With reg, how the agent is goes
// there too: what current says at the time that it is read.
func NewMetrics(reg prometheus.Registerer, current func() protocol.Status) *Metrics {
	if reg != nil {
		reg.MustRegister(gauges{current})
	}
	requests := metrics.NewRequests(reg, subsystem)
	return &Metrics{status: requests.Class("status"), probe: requests.Class("probe"), other: requests.Class("other")}
}

// gauges is a Status as Prometheus reads it.
type gauges struct{ current func() protocol.Status }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return metrics.Describe(subsystem, name, help, labels...)
}

var (
	registered = describe("registered",
		"1 once the controller has accepted this agent's token since the start, while it is not refused.")
	desiredVersion = describe(
		"desired_version", "Version that the worker should run; 0 while nothing was ever fetched.",
	)
	appliedVersion = describe("applied_version", "Version that the worker accepted last; 0 for none.")
	inSync         = describe("in_sync", "1 while the worker, when last asked, ran what is desired.")
	transport      = describe("transport", "1 for how newer versions are heard of now, 0 for the others.", "transport")
	pushLost       = describe("push_lost", "1 while what PUSH asks for is not heard, so that the agent polls.")
	lastFetch      = describe(
		"last_fetch_timestamp_seconds", "When the controller last answered a fetch, a 304 too; 0 before the first.",
	)
	cacheAge = describe(
		"cache_age_seconds",
		"Time since the configuration that the cache holds was fetched; absent while it holds none.",
	)
	controllerLost = describe("controller_lost", "1 while exchanges with the controller fail or are refused.")
	workerLost     = describe("worker_lost", "1 while the worker cannot be asked or told.")
	cacheLost      = describe("cache_lost", "1 while the cache cannot be written.")
)

// transports are all that the label takes.
var transports = []wire.Transport{wire.LongPoll, wire.Redis, wire.NATS, wire.Polling}

// Describe implements prometheus.Collector.
func (g gauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		registered, desiredVersion, appliedVersion, inSync, transport, pushLost, lastFetch, cacheAge, controllerLost,
		workerLost, cacheLost,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(to chan<- prometheus.Metric) {
	s := g.current()
	is := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	is(registered, metrics.Truth(s.Registered))
	is(desiredVersion, orZero(s.DesiredVersion))
	is(appliedVersion, orZero(s.AppliedVersion))
	is(inSync, metrics.Truth(s.InSync))
	for _, t := range transports {
		is(transport, metrics.Truth(s.Transport == t), string(t))
	}
	is(pushLost, metrics.Truth(s.Push.Transport != wire.Polling && !s.Push.Healthy))
	var fetched time.Time
	if s.LastFetch != nil {
		fetched = *s.LastFetch
	}
	is(lastFetch, metrics.Timestamp(fetched))
	if s.CacheAgeSeconds != nil {
		is(cacheAge, float64(*s.CacheAgeSeconds))
	}
	is(controllerLost, metrics.Truth(s.ControllerError != ""))
	is(workerLost, metrics.Truth(s.Worker.Error != ""))
	is(cacheLost, metrics.Truth(s.Cache.Error != ""))
}

func orZero(version *int64) float64 {
	if version == nil {
		return 0
	}
	return float64(*version)
}
