package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Outcomes is a counter with a label outcome. All outcomes are exported from the start, so that
// Prometheus sees the first of a kind as an increase.
type Outcomes map[string]prometheus.Counter

// NewOutcomes returns the counter that opts describe, with these outcomes.
func NewOutcomes(reg prometheus.Registerer, opts prometheus.CounterOpts, outcomes ...string) Outcomes {
	counters := promauto.With(reg).NewCounterVec(opts, []string{"outcome"})
	o := make(Outcomes, len(outcomes))
	for _, outcome := range outcomes {
		o[outcome] = counters.WithLabelValues(outcome)
	}
	return o
}

// Count counts an outcome. It ignores one that NewOutcomes does not know.
func (o Outcomes) Count(outcome string) {
	if counter := o[outcome]; counter != nil {
		counter.Inc()
	}
}
