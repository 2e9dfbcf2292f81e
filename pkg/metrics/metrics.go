// Package metrics is what the three programs measure alike: which build runs, how
// the Go runtime does, and how requests are answered. What only one of them
// knows is measured where it happens, by a Metrics struct that is made with a
// prometheus.Registerer; a nil one measures for nobody.
//
// Names follow the conventions of Prometheus: fleetconf, the program, what is
// measured, its base unit. Labels take few values, none of which a caller
// chooses, and no agent is named by one.
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

// Namespace begins each name.
const Namespace = "fleetconf"

// Buckets are the upper bounds, in seconds, of what is over in a moment: from a
// poll that is answered from memory to what HIT_TIMEOUT ends.
var Buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// NewRegistry returns a registry that has metrics of the build, the Go runtime, the process
// and its log: lostLines returns how many of its lines could not be written.
func NewRegistry(lostLines func() float64) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := buildinfo.Read()
	promauto.With(reg).NewGauge(prometheus.GaugeOpts{
		Namespace: Namespace, Name: "build_info",
		Help:        "Which build runs: always 1.",
		ConstLabels: prometheus.Labels{"version": build.Version, "commit": build.Commit, "goversion": build.Go},
	}).Set(1)
	promauto.With(reg).NewCounterFunc(prometheus.CounterOpts{
		Namespace: Namespace, Name: "log_lines_lost_total",
		Help: "Lines of the log that could not be written.",
	}, lostLines)
	return reg
}

// Certificate measures when the certificate that a program serves with ends:
// never, which is 0, where notAfter is zero, for there is none.
func Certificate(reg prometheus.Registerer, program string, notAfter func() time.Time) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: Namespace, Subsystem: program, Name: "tls_certificate_not_after_timestamp_seconds",
		Help: "When the certificate that is served ends; 0 where none is.",
	}, func() float64 { return Timestamp(notAfter()) })
}

// Handler answers GET /metrics with what from gathers. It does not compress: that
// takes more memory than all the rest of an agent, to save some kilobytes a scrape.
// Everybody may ask, so it bounds what that costs: who comes when scrapers are being
// answered already is told 503.
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

// scrapers is how many are answered at once.
const scrapers = 4

// Requests counts the requests that a program answers, by class and status, and
// how long each class takes.
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
			Help: "Requests answered, by class of route and status code.",
		}, []string{"class", "code"}),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: Namespace, Subsystem: program, Name: "http_request_duration_seconds",
			Help:    "Time from the request to the end of its answer, by class of route.",
			Buckets: Buckets,
		}, []string{"class"}),
	}
}

// Class returns the requests of a class. To observe one takes no lock and makes
// no garbage.
func (r *Requests) Class(name string) *Class {
	class := &Class{name: name, requests: r}
	class.seconds = sync.OnceValue(func() prometheus.Observer { return r.seconds.WithLabelValues(name) })
	return class
}

// Class is requests that are measured together.
type Class struct {
	name     string
	requests *Requests
	seconds  func() prometheus.Observer                   // made with the first: a class that waits has none
	codes    [statuses]atomic.Pointer[prometheus.Counter] // by status, from 100 on
}

// statuses is how many statuses there are: 100 to 599.
const statuses = 500

// Answered counts a request that was answered with status after took.
func (c *Class) Answered(status int, took time.Duration) {
	c.Counted(status)
	c.seconds().Observe(took.Seconds())
}

// Counted counts a request whose time says nothing, because it was meant to wait.
func (c *Class) Counted(status int) {
	if status < 100 || status >= 100+statuses {
		status = http.StatusInternalServerError // no handler of ours answers so
	}
	counter := c.codes[status-100].Load()
	if counter == nil {
		made := c.requests.total.WithLabelValues(c.name, strconv.Itoa(status))
		counter = &made // the same one, should another be faster
		c.codes[status-100].Store(counter)
	}
	(*counter).Inc()
}
