package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Outcomes counts what can end in several ways, by a label outcome. All of them
// are there from the start, so that the first of a kind is seen as an increase.
type Outcomes map[string]prometheus.Counter

// NewOutcomes returns the counter that opts describe, of these outcomes.
func NewOutcomes(reg prometheus.Registerer, opts prometheus.CounterOpts, outcomes ...string) Outcomes {
	counters := promauto.With(reg).NewCounterVec(opts, []string{"outcome"})
	o := make(Outcomes, len(outcomes))
	for _, outcome := range outcomes {
		o[outcome] = counters.WithLabelValues(outcome)
	}
	return o
}

// Count counts one that ended so. An outcome that was not announced is not
// counted.
func (o Outcomes) Count(outcome string) {
	if counter := o[outcome]; counter != nil {
		counter.Inc()
	}
}
