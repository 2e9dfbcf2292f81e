package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Describe returns the description of a metric of a program.
func Describe(program, name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(Namespace, program, name), help, labels, nil)
}

// Truth returns 1 for true and 0 for false.
func Truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Timestamp returns t in seconds since 1970, or 0 for the zero time.
func Timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}
