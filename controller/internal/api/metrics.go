package api

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/pkg/metrics"
)

// Route classes, as the metrics label them.
const (
	polls       = "poll"
	waiting     = "wait" // a poll whose response was held
	registering = "register"
	reports     = "report"
	publishing  = "publish"
	admins      = "admin"
	probing     = "probe"
	documents   = "docs"
	other       = "other" // requests that match no route
)

// Metrics are the metrics of the API.
type Metrics struct {
	factory            promauto.Factory
	requests           *metrics.Requests
	invalidCredentials prometheus.Counter
}

// NewMetrics returns the metrics of one API. They are registered with reg, unless it is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{factory: promauto.With(reg), requests: metrics.NewRequests(reg, subsystem)}
	m.invalidCredentials = m.factory.NewCounter(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: subsystem, Name: "credentials_refused_total",
		Help: "Requests with invalid credentials, or without the client certificate of that agent, " +
			"and registrations of a known id without its secret. Requests without credentials are not counted.",
	})
	return m
}

const subsystem = "controller"

// measured is how a response is measured.
type measured struct {
	class *metrics.Class
	timed bool
	held  *measured // once the response is held; its duration is then not measured
}

// measured returns how responses of a route class are measured.
func (m *Metrics) measured(name string) *measured {
	class := m.requests.Class(name)
	held := &measured{class: class}
	if name == polls {
		held.class = m.requests.Class(waiting)
	}
	held.held = held
	return &measured{class: class, timed: true, held: held}
}

// limits registers the metrics of classes.
func (m *Metrics) limits(classes ...*class) {
	for _, k := range classes {
		label := prometheus.Labels{"class": k.name}
		m.factory.NewCounterFunc(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "http_requests_shed_total",
			Help: "Requests rejected because of a limit, by route class.", ConstLabels: label,
		}, func() float64 { return float64(k.rejected()) })
		m.factory.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "http_requests_in_flight",
			Help:        "Accepted requests without a response yet, by route class. Held responses are not counted.",
			ConstLabels: label,
		}, func() float64 { return float64(k.InFlight()) })
	}
}

// scrape answers GET /metrics.
func (a *API) scrape(c *call) error {
	a.Scrape.ServeHTTP(c.Writer, c.Request)
	return nil
}
