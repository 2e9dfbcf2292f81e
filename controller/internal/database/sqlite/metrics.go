package sqlite

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/mattn/go-sqlite3"
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

const subsystem = "controller"

// ended measures an operation that ends now, with *err.
func (m *Metrics) ended(op operation, began time.Time, err *error) {
	m.seconds.WithLabelValues(string(op)).Observe(time.Since(began).Seconds())
	var driver sqlite3.Error
	if !errors.As(*err, &driver) {
		return // it succeeded, or found nothing, or a rule rejected it
	}
	m.errors.WithLabelValues(kindOf(driver)).Inc()
}

func kindOf(driver sqlite3.Error) string {
	explained := explain(driver)
	for _, k := range kinds {
		if errors.Is(explained, k.kind) {
			return k.label
		}
	}
	return anyOther
}

// Collector collects whether a store is ready, and the size of its files.
type Collector struct {
	db *DB

	mu    sync.Mutex // guards the rest
	asked time.Time  // when ready was set
	ready float64    // 1 or 0
}

// NewCollector returns the collector of db.
func NewCollector(db *DB) *Collector { return &Collector{db: db} }

var (
	readyDesc = metrics.Describe(subsystem, "database_ready",
		"Whether the database responds, is still the file that was opened, and can be written: 1 or 0.")
	sizeDesc = metrics.Describe(subsystem, "database_size_bytes",
		"Size of the database on the disk, by file: main, and wal, the write-ahead log.", "file")
)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	to <- readyDesc
	to <- sizeDesc
}

const (
	// readyTimeout bounds how long a store that does not respond delays a scrape.
	readyTimeout = 2 * time.Second
	// fresh is how long the answer of Ping is used: Ping may write, and scrapes need no
	// credentials.
	fresh = 5 * time.Second
)

// isReady returns 1 if the store is ready, 0 if not.
func (c *Collector) isReady() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.asked.IsZero() && time.Since(c.asked) < fresh {
		return c.ready
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	c.ready = metrics.Truth(c.db.Ping(ctx) == nil)
	c.asked = time.Now()
	return c.ready
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, c.isReady())
	to <- prometheus.MustNewConstMetric(sizeDesc, prometheus.GaugeValue, size(c.db.path), "main")
	to <- prometheus.MustNewConstMetric(sizeDesc, prometheus.GaugeValue, size(c.db.path+"-wal"), "wal")
}

// size returns the size of a file in bytes, 0 if there is none.
func size(path string) float64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return float64(info.Size())
}
