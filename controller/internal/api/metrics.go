package api

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/pkg/metrics"
)

// Route classes, as the metrics label them.
const (
	polls       = access.ClassPoll
	waiting     = "wait" // a poll whose response was held
	registering = access.ClassRegister
	reports     = access.ClassReport
	publishing  = "publish"
	admins      = access.ClassAdmin
	probing     = "probe"
	documents   = "docs"
	other       = "other" // requests that match no route
)

// Metrics are the metrics of the API.
type Metrics struct {
	requests *metrics.Requests
	access   *access.Metrics
}

// NewMetrics returns the metrics of one API. They are registered with reg, unless it is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{requests: metrics.NewRequests(reg, "controller"), access: access.NewMetrics(reg)}
}

// measured is how a response is measured.
type measured struct {
	class *metrics.Class
	timed bool
	held  *measured // once the response is held; its duration is then not measured
}

// measured returns how responses of a route class are measured.
func (m *Metrics) measured(name string) *measured {
	class := m.requests.Class(name)
	held := &measured{class: class}
	if name == polls {
		held.class = m.requests.Class(waiting)
	}
	held.held = held
	return &measured{class: class, timed: true, held: held}
}

// scrape answers GET /metrics.
func (a *API) scrape(c *call) error {
	a.Scrape.ServeHTTP(c.Writer, c.Request)
	return nil
}
