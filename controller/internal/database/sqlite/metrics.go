package sqlite

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetconf/fleetconf/controller/internal/database/sqlstore"
	"github.com/fleetconf/fleetconf/pkg/metrics"
)

// Metrics measure how long operations take, and count errors.
type Metrics = sqlstore.Metrics

// NewMetrics returns the metrics of one store; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics { return sqlstore.NewMetrics(reg) }

const subsystem = "controller"

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
