package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/requestid"
)

// measured is a worker with a registry of its own.
func measured(t *testing.T, change ...func(*Options)) (*worker, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	return newWorker(t, append(change, func(o *Options) { o.Metrics = NewMetrics(reg) })...), reg
}

// hits are the outcomes of a worker's hits when all have ended, which may be after
// their callers have the answer. There are no more.
func (w *worker) hits(t *testing.T, reg *prometheus.Registry) string {
	t.Helper()
	w.Server.Close()
	return outcomes(t, reg, "fleetconf_worker_hits_total")
}

// outcomes are those of a counter that are not 0.
func outcomes(t *testing.T, reg *prometheus.Registry, name string) string {
	t.Helper()
	var found []string
	for _, m := range family(t, reg, name).GetMetric() {
		if n := m.GetCounter().GetValue(); n > 0 {
			found = append(found, fmt.Sprint(m.GetLabel()[0].GetValue(), " ", n))
		}
	}
	return strings.Join(found, ", ")
}

func family(t *testing.T, reg *prometheus.Registry, name string) *dto.MetricFamily {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f
		}
	}
	t.Fatalf("there is no %s", name)
	return nil
}

func observed(t *testing.T, reg *prometheus.Registry, name string) uint64 {
	t.Helper()
	return family(t, reg, name).GetMetric()[0].GetHistogram().GetSampleCount()
}

func TestMetrics_HitsByOutcome(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	silent := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	hurried := func(o *Options) { o.Timeout = 50 * time.Millisecond }
	for name, row := range map[string]struct {
		target  http.HandlerFunc
		change  func(*Options)
		via     bool // the hit comes from this worker
		upgrade string
		want    string
		asked   uint64 // targets
	}{
		"answered":              {target: status(200), want: "2xx 1", asked: 1},
		"answered with nothing": {target: status(204), want: "2xx 1", asked: 1},
		"not modified":          {target: status(304), want: "3xx 1", asked: 1},
		"not found":             {target: status(404), want: "4xx 1", asked: 1},
		"the target fails":      {target: status(500), want: "5xx 1", asked: 1},
		"a status of no class":  {target: status(601), want: "other 1", asked: 1},
		"nothing runs":          {want: "not_configured 1"},
		"no answer": {target: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			want: "unreachable 1", asked: 1},
		"too slow": {target: silent, change: hurried, want: "timeout 1", asked: 1},
		"redirected elsewhere": {target: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "ftp://a.example/", http.StatusFound)
		}, want: "forbidden 1", asked: 1},
		"a request that cannot be passed on": {target: status(200), upgrade: "web\x80socket", want: "invalid 1"},
		"a loop":                             {target: status(200), via: true, want: "loop 1"},
		"the answer breaks off":              {target: begin(func(*http.Request) {}), want: "cut 1", asked: 1},
		"too slow in the middle": {target: begin(func(r *http.Request) { <-r.Context().Done() }),
			change: hurried, want: "overdue 1", asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w, reg := measured(t, func(o *Options) {
				if row.change != nil {
					row.change(o)
				}
			})
			if row.target != nil {
				w.apply(t, serve(t, row.target).URL, 1)
			}
			via := ""
			if row.via {
				via = w.via("1.1")
			}
			req, _ := http.NewRequest(http.MethodGet, w.URL, nil)
			req.Header.Set("Via", via)
			if row.upgrade != "" {
				req.Header.Set("Connection", "Upgrade")
				req.Header.Set("Upgrade", row.upgrade)
			}
			if res, err := w.plain.Do(req); err == nil { // one that breaks off at once gives no answer at all
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			if got := w.hits(t, reg); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
			if got := observed(t, reg, "fleetconf_worker_hit_duration_seconds"); got != row.asked {
				t.Errorf("timed %d hits, want %d", got, row.asked)
			}
		})
	}
}

// begin answers with a part of a body, and breaks off after more.
func begin(more func(*http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "a part")
		w.(http.Flusher).Flush()
		more(r)
		panic(http.ErrAbortHandler)
	}
}

func TestMetrics_ClientsThatDisconnect(t *testing.T) {
	wait := func(r *http.Request) { <-r.Context().Done() }
	for name, target := range map[string]func(leave func()) http.HandlerFunc{
		"before the answer": func(leave func()) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) { leave(); wait(r) }
		},
		"in the middle": func(func()) http.HandlerFunc { return begin(wait) },
	} {
		t.Run(name, func(t *testing.T) {
			w, reg := measured(t)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			w.apply(t, serve(t, target(leave)).URL, 1)
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, w.URL, nil)
			if res, err := w.plain.Do(req); err == nil {
				_, _ = io.ReadFull(res.Body, make([]byte, 6))
				leave()
				res.Body.Close()
			}
			if got := w.hits(t, reg); got != "left 1" {
				t.Errorf("got %s, want left 1", got)
			}
		})
	}
}

// Only a target that breaks off has cut.
func TestMetrics_IncompleteResponses(t *testing.T) {
	for name, row := range map[string]struct {
		readErr error
		want    string
	}{
		"the caller takes no more":          {nil, "left 1"},
		"the caller does not take the rest": {io.EOF, "left 1"},
		"the time is over":                  {fmt.Errorf("read: %w", context.DeadlineExceeded), "overdue 1"},
		"the target breaks off":             {io.ErrUnexpectedEOF, "cut 1"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			hit := NewMetrics(reg).begin()
			hit.answered(&http.Response{StatusCode: 200, Body: io.NopCloser(iotest.ErrReader(row.readErr))})
			_, _ = hit.Read(make([]byte, 4))
			hit.end(t.Context(), nil)
			if got := outcomes(t, reg, "fleetconf_worker_hits_total"); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestMetrics_OneHit(t *testing.T) {
	more := make(chan struct{})
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Write(bytes.Repeat([]byte("x"), 100<<10))
		w.(http.Flusher).Flush()
		<-more
	})
	w, reg := measured(t)
	w.apply(t, target.URL, 8)
	res, err := w.plain.Get(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := testutil.ToFloat64(w.metrics.inFlight); got != 1 {
		t.Errorf("in the middle of a hit %v are in flight, want 1", got)
	}
	if got := observed(t, reg, "fleetconf_worker_target_first_byte_seconds"); got != 1 {
		t.Errorf("timed %d first bytes, want 1", got)
	}
	close(more)
	_, _ = io.Copy(io.Discard, res.Body)
	if got := w.hits(t, reg); got != "2xx 1" {
		t.Errorf("got %s, want 2xx 1", got)
	}
	if got := observed(t, reg, "fleetconf_worker_hit_duration_seconds"); got != 1 {
		t.Errorf("timed %d hits, want 1", got)
	}
	for name, want := range map[string]float64{
		"fleetconf_worker_hits_in_flight":   0,
		"fleetconf_worker_sent_bytes_total": 100 << 10,
		"fleetconf_worker_applied_version":  8,
	} {
		m := family(t, reg, name).GetMetric()[0]
		if got := m.GetGauge().GetValue() + m.GetCounter().GetValue(); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestMetrics_ProbesByOutcome(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/fails":
			w.WriteHeader(500)
		case "/elsewhere":
			http.Redirect(w, r, "http://10.0.0.1/", http.StatusFound)
		case "/silent":
			<-r.Context().Done()
		}
	})
	w, reg := measured(t, func(o *Options) { o.Deny = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	for _, probed := range []string{target.URL, target.URL + "/fails", "http://" + closed.Addr().String(),
		target.URL + "/elsewhere"} {
		_, _ = w.Apply(t.Context(), models.WorkerConfig{URL: probed, Version: 1, Probe: true})
	}
	ctx, leave := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer leave()
	_, _ = w.Apply(ctx, models.WorkerConfig{URL: target.URL + "/silent", Version: 1, Probe: true})
	_, _ = w.Apply(t.Context(), models.WorkerConfig{URL: target.URL + "/fails", Version: 1}) // is not probed
	const want = "failed 1, forbidden 1, left 1, passed 1, unreachable 1"
	if got := outcomes(t, reg, "fleetconf_worker_probes_total"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.metrics.probed(refused(ErrTimeout))
	if got := outcomes(t, reg, "fleetconf_worker_probes_total"); got != "failed 1, forbidden 1, left 1, passed 1, "+
		"timeout 1, unreachable 1" {
		t.Errorf("got %s, want a timeout too", got)
	}
}

// A target, and what it redirects to, learn what to call the hit.
func TestHit_RequestID_ReachesTargetAndLog(t *testing.T) {
	seen := make(chan []string, 3)
	target := serve(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header["X-Request-Id"] })
	w := newWorker(t)
	if _, err := w.Apply(requestid.With(t.Context(), "of-the-push"),
		models.WorkerConfig{URL: target.URL, Version: 1, Probe: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"of-the-push"}, <-seen); diff != "" {
		t.Errorf("the probe (-want +got):\n%s", diff)
	}
	_, _, _ = w.hit(t, "X-Request-Id", "of-the-hit", "X-Request-Id", "another", "Connection", "X-Request-Id")
	if diff := cmp.Diff([]string{"of-the-hit"}, <-seen); diff != "" {
		t.Errorf("the hit (-want +got):\n%s", diff)
	}
}

func BenchmarkMeasure(b *testing.B) {
	m := NewMetrics(prometheus.NewRegistry())
	body := io.NopCloser(bytes.NewReader(nil))
	res, buf := &http.Response{StatusCode: 200}, make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		hit := m.begin()
		res.Body = body
		hit.answered(res)
		_, _ = hit.Read(buf)
		hit.whole = true
		hit.end(b.Context(), nil)
	}
}
