package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/pkg/metrics"
	"github.com/fleetconf/fleetconf/worker/internal/proxy"
)

const subsystem = "worker"

// The classes of requests: of each route in the table, and of what has no route.
const (
	hitClass   = "hit"
	pushClass  = "push"
	stateClass = "state"
	probeClass = "probe" // of supervisors
	docsClass  = "docs"
	otherClass = "other"
)

// Metrics are what the worker's API measures.
type Metrics struct {
	requests *metrics.Requests
	pushes   metrics.Outcomes
	lastPush prometheus.Gauge
}

// How a push ends.
const (
	pushApplied      = "applied"
	pushUnchanged    = "unchanged"
	pushRefused      = "refused"   // this worker will not run it
	pushInvalid      = "invalid"   // no document of the contract
	pushForbidden    = "forbidden" // by somebody who may not
	pushDisconnected = "left"      // by somebody who did not wait for the verdict
)

// NewMetrics returns the metrics of the worker's API.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{
		requests: metrics.NewRequests(reg, subsystem),
		pushes: metrics.NewOutcomes(reg, prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "pushes_total",
			Help: "Configurations pushed, by outcome.",
		}, pushApplied, pushUnchanged, pushRefused, pushInvalid, pushForbidden, pushDisconnected),
		lastPush: promauto.With(reg).NewGauge(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "last_push_timestamp_seconds",
			Help: "When a push was last taken; 0 before the first.",
		}),
	}
}

// pushed counts a push that was let in.
func (m *Metrics) pushed(changed bool, err error) {
	switch {
	case err == nil && changed:
		m.pushes.Count(pushApplied)
	case err == nil:
		m.pushes.Count(pushUnchanged)
	case errors.Is(err, proxy.ErrRefused):
		m.pushes.Count(pushRefused)
	case errors.Is(err, context.Canceled):
		m.pushes.Count(pushDisconnected)
	default:
		m.pushes.Count(pushInvalid)
	}
	if err == nil {
		m.lastPush.SetToCurrentTime()
	}
}

// countForbidden counts the pushes that check refuses.
func (m *Metrics) countForbidden(check func(*http.Request) error) func(*http.Request) error {
	return func(r *http.Request) error {
		err := check(r)
		if err != nil {
			m.pushes.Count(pushForbidden)
		}
		return err
	}
}
