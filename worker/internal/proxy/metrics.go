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

// Metrics are the metrics of a Proxy.
type Metrics struct {
	version   prometheus.Gauge
	hits      metrics.Outcomes
	seconds   prometheus.Observer // of a hit that was sent to a target
	firstByte prometheus.Observer
	inFlight  prometheus.Gauge
	sent      prometheus.Counter
	probes    metrics.Outcomes
}

// The outcomes of a hit: a status of the target, a reason why there is none, or a reason why
// the response is incomplete.
const (
	otherStatus   = "other"
	invalid       = "invalid" // the request cannot be forwarded
	notConfigured = "not_configured"
	unreachable   = "unreachable"
	timeout       = "timeout"
	forbidden     = "forbidden"
	loop          = "loop"
	cut           = "cut"     // the response of the target is incomplete
	overdue       = "overdue" // HIT_TIMEOUT passed during the response
	disconnected  = "left"    // the client disconnected
)

// The outcomes of a probe, beside those of a hit.
const (
	probePassed = "passed"
	probeFailed = "failed" // the target answered with a status of 500 or more
)

// statusClasses are the outcomes of hits with a status of the target.
var statusClasses = [...]string{2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}

// NewMetrics returns the metrics of a Proxy.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	return &Metrics{
		version: factory.NewGauge(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "applied_version",
			Help: "Version of the current configuration; 0 if there is none, or if it was pushed without a version.",
		}),
		hits: metrics.NewOutcomes(reg, prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "hits_total",
			Help: "Completed hits, by the class of the target's status, or the reason why there was none or the " +
				"response is incomplete.",
		}, append(statusClasses[2:], otherStatus, invalid, notConfigured, unreachable, timeout, forbidden, loop, cut,
			overdue, disconnected)...),
		seconds: factory.NewHistogram(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "hit_duration_seconds",
			Help:    "Time from a hit to the last byte of its response, of hits that were sent to a target.",
			Buckets: metrics.Buckets,
		}),
		firstByte: factory.NewHistogram(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "target_first_byte_seconds",
			Help:    "Time from a hit to the target's status, including redirects.",
			Buckets: metrics.Buckets,
		}),
		inFlight: factory.NewGauge(prometheus.GaugeOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "hits_in_flight",
			Help: "Hits in flight.",
		}),
		sent: factory.NewCounter(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "sent_bytes_total",
			Help: "Bytes of the targets' bodies that were sent to clients.",
		}),
		probes: metrics.NewOutcomes(reg, prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "probes_total",
			Help: "Trial fetches of a new URL, by outcome.",
		}, probePassed, probeFailed, unreachable, timeout, forbidden, disconnected),
	}
}

// probed counts a probe that ended with err.
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

// reason returns the outcome of err, or otherwise if err is of no known kind.
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

// hit measures one hit. It wraps the body of the target's response and counts the bytes
// read.
type hit struct {
	metrics *Metrics
	began   time.Time
	status  int  // of the target; 0 while there is none
	whole   bool // ReverseProxy reported no failure

	io.ReadCloser       // the body
	bytes         int   // that were read
	readErr       error // the last error of Read
}

// begin starts to measure a hit. The caller must call end.
func (m *Metrics) begin() *hit {
	m.inFlight.Inc()
	return &hit{metrics: m, began: time.Now()}
}

// answered records that the target's response has begun, and wraps its body.
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

// end counts the hit. client is the context of its request; err is the error of Hit.
func (h *hit) end(client context.Context, err error) {
	m := h.metrics
	m.inFlight.Dec()
	m.sent.Add(float64(h.bytes))
	outcome := h.outcome(client, err)
	m.hits.Count(outcome)
	if outcome != invalid && outcome != notConfigured && outcome != loop {
		m.seconds.Observe(time.Since(h.began).Seconds())
	}
}

func (h *hit) outcome(client context.Context, err error) string {
	switch {
	case err != nil:
		return reason(err, unreachable)
	case h.whole && errors.Is(h.readErr, io.EOF):
		if class := h.status / 100; class < len(statusClasses) {
			return statusClasses[class]
		}
		return otherStatus
	case h.status == 0, client.Err() != nil:
		return disconnected
	case h.readErr == nil, errors.Is(h.readErr, io.EOF): // the client does not read on
		return disconnected
	case errors.Is(h.readErr, context.DeadlineExceeded):
		return overdue
	}
	return cut
}
