package status

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const subsystem = "agent"

// The route classes.
const (
	statusClass = "status"
	probeClass  = "probe" // of supervisors
	otherClass  = "other" // no route
)

// Metrics measure the requests to the agent.
type Metrics struct {
	requests *metrics.Requests
}

// NewMetrics returns the metrics of the requests. It also registers gauges of the status
// with reg, unless that is nil; each scrape calls current.
func NewMetrics(reg prometheus.Registerer, current func() protocol.Status) *Metrics {
	if reg != nil {
		reg.MustRegister(gauges{current})
	}
	return &Metrics{requests: metrics.NewRequests(reg, subsystem)}
}

// gauges is the prometheus.Collector of a status.
type gauges struct{ current func() protocol.Status }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return metrics.Describe(subsystem, name, help, labels...)
}

var (
	registered = describe("registered",
		"1 once the controller has accepted this agent's token since the start, and until it refuses it.")
	desiredVersion = describe(
		"desired_version", "Version that the worker should run; 0 before the first fetch.",
	)
	appliedVersion = describe("applied_version", "Version that the worker accepted last; 0 for none.")
	inSync         = describe("in_sync", "1 while the worker runs the desired version.")
	transport      = describe(
		"transport", "1 for how the agent learns of newer versions now, 0 for the others.", "transport",
	)
	pushLost  = describe("push_lost", "1 while the transport of PUSH fails, so that the agent polls.")
	lastFetch = describe(
		"last_fetch_timestamp_seconds", "Time of the last answer to a fetch, 304 included; 0 before the first.",
	)
	cacheAge = describe(
		"cache_age_seconds",
		"Age of the configuration in the cache; absent while there is none.",
	)
	controllerLost = describe("controller_lost", "1 while requests to the controller fail or are refused.")
	workerLost     = describe("worker_lost", "1 while requests to the worker fail.")
	cacheLost      = describe("cache_lost", "1 while the cache cannot be written.")
)

// transports are the values of the label.
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
