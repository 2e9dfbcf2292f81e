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

// operation is what the database is asked to do, as it is measured.
type operation string

const (
	publishing  operation = "publish"
	reporting   operation = "report"   // what agents wait for
	present     operation = "presence" // what nobody waits for
	registering operation = "register"
	removing    operation = "remove"
	freezing    operation = "freeze"
	conflicting operation = "conflict"
	auditing    operation = "audit"
	reading     operation = "read"
)

// The kinds of error of SQLite.
var kinds = []struct {
	label string
	kind  error
}{
	{"busy", database.ErrBusy}, {"full", database.ErrFull}, {"readonly", database.ErrReadOnly}, {"io", database.ErrIO}, {"corrupt", database.ErrCorrupt},
}

const anyOther = "other"

// Metrics are how long the database takes, and how it fails.
type Metrics struct {
	seconds *prometheus.HistogramVec
	errors  *prometheus.CounterVec
}

// NewMetrics returns the metrics of one database; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	m := &Metrics{
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "database_operation_duration_seconds",
			Help:    "Time that a transaction or a query took, with its wait for those before it, by operation.",
			Buckets: metrics.Buckets,
		}, []string{"operation"}),
		errors: factory.NewCounterVec(prometheus.CounterOpts{
			Namespace: metrics.Namespace, Subsystem: subsystem, Name: "database_errors_total",
			Help: "Transactions and queries that SQLite failed, by kind.",
		}, []string{"kind"}),
	}
	for _, k := range kinds {
		m.errors.WithLabelValues(k.label)
	}
	m.errors.WithLabelValues(anyOther)
	return m
}

const subsystem = "controller"

// ended measures an operation that began then, and ended now with *err.
func (m *Metrics) ended(op operation, began time.Time, err *error) {
	m.seconds.WithLabelValues(string(op)).Observe(time.Since(began).Seconds())
	var driver sqlite3.Error
	if !errors.As(*err, &driver) {
		return // it succeeded, or found nothing, or a rule refused it
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

// Collector tells how the database is: ready or not, and how large.
type Collector struct {
	db *DB

	mu    sync.Mutex // guards the rest
	asked time.Time  // when the database was last asked whether it is ready
	ready float64
}

// NewCollector returns the collector of db.
func NewCollector(db *DB) *Collector { return &Collector{db: db} }

var (
	readyDesc = metrics.Describe(subsystem, "database_ready",
		"Whether the database answers, is still the file that was opened, and can be written: 1 or 0.")
	sizeDesc = metrics.Describe(subsystem, "database_size_bytes",
		"Size of the database on the disk, by file: main, and wal, the write-ahead log.", "file")
)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	to <- readyDesc
	to <- sizeDesc
}

// readyTimeout is how long a database that does not answer holds up who collects.
// Whether it is ready holds good for as long as fresh: to find out may take a write,
// and everybody may scrape.
const (
	readyTimeout = 2 * time.Second
	fresh        = 5 * time.Second
)

// isReady is 1 or 0.
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

// size is that of a file, 0 where there is none.
func size(path string) float64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return float64(info.Size())
}
