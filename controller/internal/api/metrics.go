package api

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/pkg/metrics"
)

// What a route is measured as.
const (
	polls       = "poll"
	waiting     = "wait" // a poll whose answer is held: no route of its own
	registering = "register"
	reports     = "report"
	publishing  = "publish"
	admins      = "admin"
	probing     = "probe"
	documents   = "docs"
	other       = "other" // what is no route
)

// Metrics are how requests are answered, and who is turned away.
type Metrics struct {
	factory            promauto.Factory
	requests           *metrics.Requests
	invalidCredentials prometheus.Counter
}

// NewMetrics returns the metrics of one API; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{factory: promauto.With(reg), requests: metrics.NewRequests(reg, subsystem)}
	m.invalidCredentials = m.factory.NewCounter(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: subsystem, Name: "credentials_refused_total",
		Help: "Requests with invalid credentials or with another certificate than TLS_CLIENT_CA_FILE requires of that agent, " +
			"and registrations of another agent's id. Requests without credentials do not count.",
	})
	return m
}

const subsystem = "controller"

// measured is how an answer is measured.
type measured struct {
	class *metrics.Class
	timed bool
	held  *measured // how it is once it is held: that takes as long as it is meant to
}

// as returns how answers of a class are measured.
func (m *Metrics) measured(name string) *measured {
	class := m.requests.Class(name)
	held := &measured{class: class}
	if name == polls {
		held.class = m.requests.Class(waiting)
	}
	held.held = held
	return &measured{class: class, timed: true, held: held}
}

// limits measures the classes that have a limit.
func (m *Metrics) limits(classes ...*class) {
	for _, k := range classes {
		label := prometheus.Labels{"class": k.name}
		m.factory.NewCounterFunc(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "http_requests_shed_total",
			Help: "Requests turned away because more came than are let in, by class.", ConstLabels: label,
		}, func() float64 { return float64(k.rejected()) })
		m.factory.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "http_requests_in_flight",
			Help: "Requests that are let in and not answered yet, by class. Those that are held are not among them.", ConstLabels: label,
		}, func() float64 { return float64(k.InFlight()) })
	}
}

// scrape answers GET /metrics.
func (a *API) scrape(c *call) error {
	a.Scrape.ServeHTTP(c.Writer, c.Request)
	return nil
}
