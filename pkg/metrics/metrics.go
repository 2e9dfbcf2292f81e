// Package metrics holds the metrics that the three programs share: the build, the Go runtime
// and requests. Other metrics are in the package that they measure, in a Metrics struct made
// with a prometheus.Registerer; with a nil one they are not exported.
//
// Names follow the conventions of Prometheus: fleetconf, program, quantity, base unit. Labels
// have few values, which clients cannot choose, and none is an agent.
package metrics

import (
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

// Namespace is the prefix of each name.
const Namespace = "fleetconf"

// Buckets are the upper bounds of histograms in seconds, from a poll that is answered from
// memory to the default HIT_TIMEOUT.
var Buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// NewRegistry returns a registry that has metrics of the build, the Go runtime, the process
// and its log: lostLines returns how many of its lines could not be written.
func NewRegistry(lostLines func() float64) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := buildinfo.Read()
	promauto.With(reg).NewGauge(prometheus.GaugeOpts{
		Namespace: Namespace, Name: "build_info",
		Help:        "The build that runs; always 1.",
		ConstLabels: prometheus.Labels{"version": build.Version, "commit": build.Commit, "goversion": build.Go},
	}).Set(1)
	promauto.With(reg).NewCounterFunc(prometheus.CounterOpts{
		Namespace: Namespace, Name: "log_lines_lost_total",
		Help: "Lines of the log that could not be written.",
	}, lostLines)
	return reg
}

// Certificate exports when the certificate of a program expires. notAfter returns the zero time
// if there is none.
func Certificate(reg prometheus.Registerer, program string, notAfter func() time.Time) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: Namespace, Subsystem: program, Name: "tls_certificate_not_after_timestamp_seconds",
		Help: "When the certificate in use expires; 0 if there is none.",
	}, func() float64 { return Timestamp(notAfter()) })
}

// Handler returns a handler of GET /metrics. It does not compress: that would take more memory
// than the rest of an agent, to save some kilobytes. Anyone may call it, so concurrent scrapes
// are limited: others are rejected with 503.
//
//	@ID			getMetrics
//	@Summary	What Prometheus reads
//	@Tags		process
//	@Produce	plain
//	@Success	200	{string}	string
//	@Failure	503	{object}	problem.Problem	"four scrapes are in flight already"
//	@Router		/metrics [get]
func Handler(from prometheus.Gatherer) http.Handler {
	scrape := promhttp.HandlerFor(from, promhttp.HandlerOpts{DisableCompression: true})
	slots := make(chan struct{}, scrapers)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			scrape.ServeHTTP(w, r)
		default:
			busy := problem.New(http.StatusServiceUnavailable, "%d scrapes are in flight already", scrapers)
			busy.RetryAfter = time.Second
			problem.Write(w, busy)
		}
	})
}

// scrapers is the number of concurrent scrapes.
const scrapers = 4

// Requests counts the requests of a program by route class and status, and measures the
// duration of each class.
type Requests struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// NewRequests returns the requests of a program.
func NewRequests(reg prometheus.Registerer, program string) *Requests {
	factory := promauto.With(reg)
	return &Requests{
		total: factory.NewCounterVec(prometheus.CounterOpts{
			Namespace: Namespace, Subsystem: program, Name: "http_requests_total",
			Help: "Requests answered, by route class and status code.",
		}, []string{"class", "code"}),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: Namespace, Subsystem: program, Name: "http_request_duration_seconds",
			Help:    "Time from a request to the end of its response, by route class.",
			Buckets: Buckets,
		}, []string{"class"}),
	}
}

// Class returns the requests of a route class. Observing one takes no lock and does not
// allocate.
func (r *Requests) Class(name string) *Class {
	class := &Class{name: name, requests: r}
	class.seconds = sync.OnceValue(func() prometheus.Observer { return r.seconds.WithLabelValues(name) })
	return class
}

// Class is the requests of a route class.
type Class struct {
	name     string
	requests *Requests
	seconds  func() prometheus.Observer                   // made at the first: a class of long polls has none
	codes    [statuses]atomic.Pointer[prometheus.Counter] // by status, from 100 on
}

// statuses is the number of status codes: 100 to 599.
const statuses = 500

// Answered counts a request that was answered with status after took.
func (c *Class) Answered(status int, took time.Duration) {
	c.Counted(status)
	c.seconds().Observe(took.Seconds())
}

// Counted counts a long poll, whose duration is not measured.
func (c *Class) Counted(status int) {
	if status < 100 || status >= 100+statuses {
		status = http.StatusInternalServerError // not a status code
	}
	counter := c.codes[status-100].Load()
	if counter == nil {
		made := c.requests.total.WithLabelValues(c.name, strconv.Itoa(status))
		counter = &made // a concurrent call makes the same
		c.codes[status-100].Store(counter)
	}
	(*counter).Inc()
}
