package metrics_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fleetconf/fleetconf/pkg/metrics"
)

func TestOutcomes_InitializedToZero(t *testing.T) {
	reg := prometheus.NewRegistry()
	pushes := metrics.NewOutcomes(reg, prometheus.CounterOpts{Name: "pushes_total", Help: "Pushes."}, "applied",
		"refused")
	pushes.Count("applied")
	pushes.Count("unheard of")
	const want = `
# HELP pushes_total Pushes.
# TYPE pushes_total counter
pushes_total{outcome="applied"} 1
pushes_total{outcome="refused"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	metrics.NewOutcomes(nil, prometheus.CounterOpts{Name: "pushes_total"}, "applied").Count("applied") // not exported
}
