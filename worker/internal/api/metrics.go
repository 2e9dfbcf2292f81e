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

// The route classes.
const (
	hitClass   = "hit"
	pushClass  = "push"
	stateClass = "state"
	probeClass = "probe" // of supervisors
	docsClass  = "docs"
	otherClass = "other" // no route
)

// Metrics are the metrics of the worker's API.
type Metrics struct {
	requests *metrics.Requests
	pushes   metrics.Outcomes
	lastPush prometheus.Gauge
}

// The outcomes of a push.
const (
	pushApplied      = "applied"
	pushUnchanged    = "unchanged"
	pushRefused      = "refused"   // this worker does not accept it
	pushInvalid      = "invalid"   // not a valid document
	pushForbidden    = "forbidden" // by a client that may not push
	pushDisconnected = "left"      // the client disconnected
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
			Help: "When a push was last accepted; 0 before the first.",
		}),
	}
}

// pushed counts a push that was allowed.
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

// countForbidden returns check, and counts the pushes that it denies.
func (m *Metrics) countForbidden(check func(*http.Request) error) func(*http.Request) error {
	return func(r *http.Request) error {
		err := check(r)
		if err != nil {
			m.pushes.Count(pushForbidden)
		}
		return err
	}
}
