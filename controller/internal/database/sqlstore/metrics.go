package sqlstore

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/pkg/metrics"
)

// operation is the label of a kind of transaction or query.
type operation string

const (
	publishing  operation = "publish"
	reporting   operation = "report"   // reports, which agents wait for
	present     operation = "presence" // flushes of presence
	registering operation = "register"
	removing    operation = "remove"
	freezing    operation = "freeze"
	conflicting operation = "conflict"
	auditing    operation = "audit"
	reading     operation = "read"
)

// kinds are the labels of errors.
var kinds = []struct {
	label string
	kind  error
}{
	{"busy", database.ErrBusy}, {"full", database.ErrFull}, {"readonly", database.ErrReadOnly},
	{"io", database.ErrIO}, {"corrupt", database.ErrCorrupt},
}

const anyOther = "other"

// Metrics measure how long operations take, and count errors.
type Metrics struct {
	seconds *prometheus.HistogramVec
	errors  *prometheus.CounterVec
}

// NewMetrics returns the metrics of one store; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	const subsystem = "controller"
	factory := promauto.With(reg)
	m := &Metrics{
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "database_operation_duration_seconds",
			Help:    "Duration of transactions and queries with their wait for earlier ones, by operation.",
			Buckets: metrics.Buckets,
		}, []string{"operation"}),
		errors: factory.NewCounterVec(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "database_errors_total",
			Help: "Failed transactions and queries, by kind of error.",
		}, []string{"kind"}),
	}
	for _, k := range kinds {
		m.errors.WithLabelValues(k.label)
	}
	m.errors.WithLabelValues(anyOther)
	return m
}

// ended measures an operation that ends now, with *err, which is explained.
func (s *Store) ended(op operation, began time.Time, err *error) {
	s.metrics.seconds.WithLabelValues(string(op)).Observe(time.Since(began).Seconds())
	if s.driver.Owns(*err) { // else it succeeded, or found nothing, or a rule rejected it
		s.metrics.errors.WithLabelValues(kindOf(*err)).Inc()
	}
}

func kindOf(err error) string {
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			return k.label
		}
	}
	return anyOther
}
