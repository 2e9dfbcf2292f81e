package status

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	logrustest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// gathered returns what Prometheus scrapes from an agent with a status, without comments.
func gathered(t *testing.T, s protocol.Status) string {
	t.Helper()
	reg := prometheus.NewRegistry()
	NewMetrics(reg, func() protocol.Status { return s })
	page := httptest.NewRecorder()
	metrics.Handler(reg).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var lines []string
	for line := range strings.Lines(page.Body.String()) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "_http_request") {
			lines = append(lines, strings.TrimPrefix(line, "fleetconf_agent_"))
		}
	}
	return strings.Join(lines, "")
}

func TestMetrics_Status_AsGauges(t *testing.T) {
	for name, row := range map[string]struct {
		status protocol.Status
		want   string
	}{
		"just started": {protocol.Status{
			Transport: wire.Polling, Push: protocol.PushStatus{Transport: wire.LongPoll},
		}, `
applied_version 0
cache_lost 0
controller_lost 0
desired_version 0
in_sync 0
last_fetch_timestamp_seconds 0
push_lost 1
registered 0
transport{transport="longpoll"} 0
transport{transport="nats"} 0
transport{transport="poll"} 1
transport{transport="redis"} 0
worker_lost 0
`},
		"all is well": {protocol.Status{
			Registered: true, InSync: true, DesiredVersion: new(int64(8)), AppliedVersion: new(int64(7)),
			CacheAgeSeconds: new(int64(90)),
			Transport:       wire.NATS, Push: protocol.PushStatus{Transport: wire.NATS, Healthy: true},
			LastFetch: new(time.Unix(1000, 500_000_000)),
		}, `
applied_version 7
cache_age_seconds 90
cache_lost 0
controller_lost 0
desired_version 8
in_sync 1
last_fetch_timestamp_seconds 1000.5
push_lost 0
registered 1
transport{transport="longpoll"} 0
transport{transport="nats"} 1
transport{transport="poll"} 0
transport{transport="redis"} 0
worker_lost 0
`},
		"nothing is well": {protocol.Status{
			Transport: wire.Polling, Push: protocol.PushStatus{Transport: wire.Polling},
			ControllerError: "x", Worker: protocol.WorkerStatus{Error: "x"}, Cache: protocol.CacheStatus{Error: "x"},
		}, `
applied_version 0
cache_lost 1
controller_lost 1
desired_version 0
in_sync 0
last_fetch_timestamp_seconds 0
push_lost 0
registered 0
transport{transport="longpoll"} 0
transport{transport="nats"} 0
transport{transport="poll"} 1
transport{transport="redis"} 0
worker_lost 1
`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := "\n" + gathered(t, row.status); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestMetrics_Requests_CountedByRouteClassAndCode(t *testing.T) {
	log, _ := logrustest.NewNullLogger()
	reg := prometheus.NewRegistry()
	current := func() protocol.Status { return protocol.Status{} }
	handler := Handler(Parts{
		Current: current, Log: log, Metrics: NewMetrics(reg, current), Scrape: metrics.Handler(reg),
	})
	for _, path := range []string{"/status", "/health", "/ready", "/version", "/metrics", "/nothing", "/else"} {
		handler.ServeHTTP(
			httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://localhost:8081"+path, nil),
		)
	}
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/status", nil))
	const want = `
# HELP fleetconf_agent_http_requests_total Requests answered, by route class and status code.
# TYPE fleetconf_agent_http_requests_total counter
fleetconf_agent_http_requests_total{class="other",code="404"} 2
fleetconf_agent_http_requests_total{class="other",code="405"} 1
fleetconf_agent_http_requests_total{class="probe",code="200"} 3
fleetconf_agent_http_requests_total{class="probe",code="503"} 1
fleetconf_agent_http_requests_total{class="status",code="200"} 1
`
	if err := testutil.GatherAndCompare(
		reg, strings.NewReader(want), "fleetconf_agent_http_requests_total",
	); err != nil {
		t.Error(err)
	}
	page := httptest.NewRecorder()
	handler.ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(page.Body.String(), `fleetconf_agent_http_request_duration_seconds_count{class="status"} 1`) {
		t.Errorf("/metrics does not time requests:\n%s", page.Body)
	}
}
