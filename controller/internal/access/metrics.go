package access

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/pkg/metrics"
)

const subsystem = "controller"

// Metrics are the metrics of a Guard.
type Metrics struct {
	factory            promauto.Factory
	invalidCredentials prometheus.Counter
}

// NewMetrics returns the metrics of one Guard. They are registered with reg, unless it is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{factory: promauto.With(reg)}
	m.invalidCredentials = m.factory.NewCounter(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: subsystem, Name: "credentials_refused_total",
		Help: "Requests with invalid credentials, or without the client certificate of that agent, " +
			"and registrations of a known id without its secret. Requests without credentials are not counted.",
	})
	return m
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
