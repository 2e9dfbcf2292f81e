package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fleetconf/fleetconf/pkg/metrics"
)

const subsystem = "worker"

// Metrics are what a Proxy measures.
type Metrics struct {
	version   prometheus.Gauge
	hits      metrics.Outcomes
	seconds   prometheus.Observer // of a hit that a target was asked for
	firstByte prometheus.Observer
	inFlight  prometheus.Gauge
	sent      prometheus.Counter
	probes    metrics.Outcomes
}

// How a hit ends: with a status of the target, without one for a reason, or in
// the middle.
const (
	otherStatus   = "other"
	invalid       = "invalid" // the request cannot be passed on
	notConfigured = "not_configured"
	unreachable   = "unreachable"
	timeout       = "timeout"
	forbidden     = "forbidden"
	loop          = "loop"
	cut           = "cut"     // the answer broke off after it had begun
	overdue       = "overdue" // HIT_TIMEOUT ended an answer that had begun, for the target or the caller is slow
	disconnected  = "left"    // the caller did not wait for its end
)

// How a probe ends, beside the reasons that a hit has too.
const (
	probePassed = "passed"
	probeFailed = "failed" // the target answered with a status of 500 or more
)

// statusClasses are the outcomes of hits that the target answered, by its status.
var statusClasses = [...]string{2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}

// NewMetrics returns the metrics of a Proxy.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	return &Metrics{
		version: factory.NewGauge(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "applied_version",
			Help: "Version of the configuration that runs; 0 while none does, or it was pushed without one.",
		}),
		hits: metrics.NewOutcomes(reg, prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "hits_total",
			Help: "Hits that ended, by the class of the target's status, or why there was none, or not all of it.",
		}, append(statusClasses[2:], otherStatus, invalid, notConfigured, unreachable, timeout, forbidden, loop, cut,
			overdue, disconnected)...),
		seconds: factory.NewHistogram(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "hit_duration_seconds",
			Help:    "Time from a hit to the last byte of its answer, of hits that a target was asked for.",
			Buckets: metrics.Buckets,
		}),
		firstByte: factory.NewHistogram(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "target_first_byte_seconds",
			Help:    "Time from a hit to the target's status, through all redirects.",
			Buckets: metrics.Buckets,
		}),
		inFlight: factory.NewGauge(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "hits_in_flight",
			Help: "Hits that have not ended.",
		}),
		sent: factory.NewCounter(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "sent_bytes_total",
			Help: "Bytes of the targets' bodies that were passed on to callers.",
		}),
		probes: metrics.NewOutcomes(reg, prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "probes_total",
			Help: "Trial fetches of a URL that is new, by outcome.",
		}, probePassed, probeFailed, unreachable, timeout, forbidden, disconnected),
	}
}

// probed counts a probe by the error that it ended with.
func (m *Metrics) probed(err error) {
	switch {
	case err == nil:
		m.probes.Count(probePassed)
	case !errors.Is(err, ErrRefused):
		m.probes.Count(disconnected)
	default:
		m.probes.Count(reason(err, probeFailed))
	}
}

// reason is the outcome that err stands for.
func reason(err error, otherwise string) string {
	for _, r := range []struct {
		kind    error
		outcome string
	}{
		{ErrRequest, invalid}, {ErrNotConfigured, notConfigured}, {ErrUnreachable, unreachable}, {ErrTimeout, timeout},
		{ErrForbidden, forbidden}, {ErrLoop, loop},
	} {
		if errors.Is(err, r.kind) {
			return r.outcome
		}
	}
	return otherwise
}

// hit is the measure of one hit. It stands in for the body of the target's
// answer, and counts what is read of it.
type hit struct {
	metrics *Metrics
	began   time.Time
	status  int // of the target; 0 while there is none
	whole   bool

	io.ReadCloser       // the body
	bytes         int   // of it that were read
	readErr       error // that reading it ended with
}

// begin measures a hit until its end.
func (m *Metrics) begin() *hit {
	m.inFlight.Inc()
	return &hit{metrics: m, began: time.Now()}
}

// answered notes that the target's answer has begun.
func (h *hit) answered(res *http.Response) {
	h.metrics.firstByte.Observe(time.Since(h.began).Seconds())
	h.status, h.ReadCloser = res.StatusCode, res.Body
	res.Body = h
}

// Read implements io.Reader.
func (h *hit) Read(b []byte) (int, error) {
	n, err := h.ReadCloser.Read(b)
	h.bytes += n
	h.readErr = err
	return n, err
}

// end counts the hit of a caller, whose context that is. It failed with err, unless that is nil.
func (h *hit) end(caller context.Context, err error) {
	m := h.metrics
	m.inFlight.Dec()
	m.sent.Add(float64(h.bytes))
	outcome := h.outcome(caller, err)
	m.hits.Count(outcome)
	if outcome != invalid && outcome != notConfigured && outcome != loop {
		m.seconds.Observe(time.Since(h.began).Seconds())
	}
}

func (h *hit) outcome(caller context.Context, err error) string {
	switch {
	case err != nil:
		return reason(err, unreachable)
	case h.whole && errors.Is(h.readErr, io.EOF):
		if class := h.status / 100; class < len(statusClasses) {
			return statusClasses[class]
		}
		return otherStatus
	case h.status == 0, caller.Err() != nil: // it has gone
		return disconnected
	case h.readErr == nil, errors.Is(h.readErr, io.EOF): // it takes no more
		return disconnected
	case errors.Is(h.readErr, context.DeadlineExceeded):
		return overdue
	}
	return cut
}
