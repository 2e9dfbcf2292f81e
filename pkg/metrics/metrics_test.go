package metrics_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fleetconf/fleetconf/pkg/metrics"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

func TestRegistry_HasBuildRuntimeAndProcessMetrics(t *testing.T) {
	answer := httptest.NewRecorder()
	registry := metrics.NewRegistry(func() float64 { return 3 })
	metrics.Handler(registry).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`fleetconf_build_info{commit="`, `version="dev"} 1`, "\ngo_goroutines ",
		"\nprocess_open_fds ", "\nfleetconf_log_lines_lost_total 3\n"} {
		if !strings.Contains(answer.Body.String(), want) {
			t.Errorf("/metrics lacks %q:\n%s", want, answer.Body)
		}
	}
}

func TestHandler_FifthConcurrentScrape_Rejected(t *testing.T) {
	gathering, finish := make(chan struct{}), make(chan struct{})
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slow", Help: "Slow."}, func() float64 {
		gathering <- struct{}{}
		<-finish
		return 1
	}))
	handler := metrics.Handler(reg)
	scrape := func() *http.Response {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
		return answer.Result()
	}
	var scraping sync.WaitGroup
	for range 4 {
		scraping.Go(func() {
			if got := scrape().StatusCode; got != 200 {
				t.Errorf("one of four: got %d, want 200", got)
			}
		})
		<-gathering
	}
	fifth := scrape()
	if p := problem.Read(fifth); fifth.StatusCode != 503 || fifth.Header.Get("Retry-After") == "" ||
		fifth.Header.Get("Content-Type") != problem.ContentType || !strings.Contains(p.Detail, "4 scrapes") {
		t.Errorf("the fifth: got %v %v, want a problem of status 503 with Retry-After", p, fifth.Header)
	}
	close(finish)
	scraping.Wait()
}

func TestClass_Observe_CountsByStatus(t *testing.T) {
	reg := prometheus.NewRegistry()
	requests := metrics.NewRequests(reg, "controller")
	polls := requests.Class("poll")
	polls.Answered(200, 3*time.Millisecond)
	polls.Answered(304, 20*time.Millisecond)
	polls.Counted(304) // a long-poll
	polls.Counted(1)
	requests.Class("wait").Counted(304) // whose time says nothing, so that it has none
	const want = `
# HELP fleetconf_controller_http_requests_total Requests answered, by route class and status code.
# TYPE fleetconf_controller_http_requests_total counter
fleetconf_controller_http_requests_total{class="poll",code="200"} 1
fleetconf_controller_http_requests_total{class="poll",code="304"} 2
fleetconf_controller_http_requests_total{class="poll",code="500"} 1
fleetconf_controller_http_requests_total{class="wait",code="304"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want),
		"fleetconf_controller_http_requests_total"); err != nil {
		t.Error(err)
	}
	answer := httptest.NewRecorder()
	metrics.Handler(reg).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	body, _ := io.ReadAll(answer.Body)
	for _, want := range []string{`_bucket{class="poll",le="0.005"} 1`, `_sum{class="poll"} 0.023`,
		`_count{class="poll"} 2`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("/metrics lacks %q:\n%s", want, body)
		}
	}
	if strings.Contains(string(body), `_count{class="wait"}`) {
		t.Errorf("/metrics has a histogram of what waits:\n%s", body)
	}
}

func TestCertificate_ReadAtEachScrape(t *testing.T) {
	reg, ends := prometheus.NewRegistry(), time.Unix(1_800_000_000, 0)
	metrics.Certificate(reg, "controller", func() time.Time { return ends })
	ends = time.Time{}
	if got, err := testutil.GatherAndCount(reg); err != nil || got != 1 {
		t.Errorf("without a certificate: got %d series, %v", got, err)
	}
	ends = time.Unix(1_800_003_600, 0)
	const want = `
# HELP fleetconf_controller_tls_certificate_not_after_timestamp_seconds When the certificate in use expires; 0 if there is none.
# TYPE fleetconf_controller_tls_certificate_not_after_timestamp_seconds gauge
fleetconf_controller_tls_certificate_not_after_timestamp_seconds 1.8000036e+09
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestRequests_NilRegistry(t *testing.T) {
	metrics.NewRequests(nil, "agent").Class("probe").Answered(200, time.Second)
}

func TestClass_Observe_AllocatesNothing(t *testing.T) {
	polls := metrics.NewRequests(prometheus.NewRegistry(), "controller").Class("poll")
	polls.Answered(304, time.Millisecond)
	if made := testing.AllocsPerRun(1000, func() { polls.Answered(304, time.Millisecond) }); made != 0 {
		t.Errorf("to observe a request makes %v allocations, want 0", made)
	}
}

func BenchmarkClass(b *testing.B) {
	polls := metrics.NewRequests(prometheus.NewRegistry(), "controller").Class("poll")
	b.ReportAllocs()
	for b.Loop() {
		polls.Answered(304, time.Millisecond)
	}
}
