package poller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	logrustest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/requestid"
)

// figures returns the series of a registry that are not 0, by name and labels: the values
// of counters, and the counts of histograms.
func figures(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := strings.TrimPrefix(family.GetName(), "fleetconf_agent_")
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			if n := m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()); n > 0 {
				found[name] = n
			}
		}
	}
	return found
}

// measured plays a scenario for d, and returns its figures.
func measured(t *testing.T, s scenario, d time.Duration) map[string]float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	s.metrics = NewMetrics(reg)
	play(t, s, func(*testing.T, *world) { pass(d) })
	return figures(t, reg)
}

func TestMetrics_ChangeApplied_Counted(t *testing.T) {
	got := measured(
		t, scenario{controller: &fakeController{publications: []publication{published(0, 1)}}}, 40*time.Second,
	)
	want := map[string]float64{
		"registrations_total registered": 1,
		"fetches_total changed":          1, "fetches_total unchanged": 1, "fetch_duration_seconds": 2,
		"pushes_total applied": 1, "push_duration_seconds": 1,
		"reports_total taken":        1,
		"cache_writes_total written": 4, // its name, its token, the candidate, the last good
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
}

func TestMetrics_Failures_CountedByOutcome(t *testing.T) {
	for name, row := range map[string]struct {
		scenario scenario
		after    time.Duration
		want     []string // series that are not 0
	}{
		"nothing published": {scenario{}, 5 * time.Second, []string{"fetches_total nothing_published"}},
		"a wait is over": {
			scenario{transport: wire.LongPoll}, 90 * time.Second, []string{"fetches_total wait_over"},
		},
		"no configuration": {
			scenario{controller: &fakeController{invalid: always}}, 5 * time.Second, []string{"fetches_total invalid"},
		},
		"a token refused": {
			scenario{controller: &fakeController{denies: always}}, 5 * time.Second, []string{"fetches_total denied"},
		},
		"a proxy cuts": {
			scenario{transport: wire.LongPoll, controller: &fakeController{cutsAfter: 10 * time.Second}}, time.Minute,
			[]string{"fetches_total cut"},
		},
		"busy": {
			scenario{controller: &fakeController{busy: []span{{4 * time.Second, forever}}, retryAfter: time.Second}},
			40 * time.Second, []string{"fetches_total limited"},
		},
		"busy from the start": {
			scenario{controller: &fakeController{busy: always, retryAfter: time.Second}}, 5 * time.Second,
			[]string{"registrations_total limited"},
		},
		"away": {
			scenario{controller: &fakeController{down: []span{{4 * time.Second, forever}}}}, 40 * time.Second,
			[]string{"fetches_total failed"},
		},
		"away from the start": {
			scenario{controller: &fakeController{down: always}}, 5 * time.Second,
			[]string{"registrations_total failed"},
		},
		"a wrong password": {
			scenario{controller: &fakeController{noEnrolment: always}}, 5 * time.Second,
			[]string{"registrations_total denied"},
		},
		"reports are lost": {
			scenario{controller: &fakeController{publications: []publication{published(0, 1)}, takesNoReport: always}},
			5 * time.Second, []string{"reports_total failed"},
		},
		"reports are shed": {scenario{controller: &fakeController{
			publications: []publication{published(0, 1)}, busyReports: always, retryAfter: time.Second,
		}}, 5 * time.Second, []string{"reports_total limited"}},
		"reports unwanted": {
			scenario{controller: &fakeController{publications: []publication{published(0, 1)}, unwanted: true}},
			5 * time.Second, []string{"reports_total unwanted"},
		},
		"a worker refuses": {
			scenario{
				controller: &fakeController{publications: []publication{published(0, 1)}},
				worker:     &fakeWorker{refuses: func(int64, time.Duration) string { return "no" }},
			},
			5 * time.Second, []string{"pushes_total refused", "push_duration_seconds"},
		},
		"pushes fail": {
			scenario{
				controller: &fakeController{publications: []publication{published(0, 1)}},
				worker:     &fakeWorker{failsPushes: always},
			},
			5 * time.Second, []string{"pushes_total failed", "push_duration_seconds"},
		},
		"a full disk": {
			scenario{cache: &fakeCache{unwritable: always}}, 5 * time.Second, []string{"cache_writes_total failed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := measured(t, row.scenario, row.after)
			for _, want := range row.want {
				if got[want] == 0 {
					t.Errorf("nothing is counted under %q, but %v", want, got)
				}
			}
		})
	}
}

func TestMetrics_WorkerRestart_CountedOnce(t *testing.T) {
	down := func(from, to time.Duration) []span { return []span{{from, to}} }
	for name, row := range map[string]struct {
		worker *fakeWorker
		want   float64
	}{
		"between two observations": {&fakeWorker{restarts: []time.Duration{5 * time.Second}}, 1},
		"down for some observations": {
			&fakeWorker{restarts: []time.Duration{5 * time.Second}, down: down(5*time.Second, 8*time.Second)}, 1,
		},
		"configured by hand": {&fakeWorker{
			restarts: []time.Duration{5 * time.Second}, down: down(5*time.Second, 8*time.Second),
			tampered: []publication{published(6*time.Second, 1)},
		}, 1},
		"twice": {&fakeWorker{
			restarts: []time.Duration{5 * time.Second, 12 * time.Second}, down: down(5*time.Second, 8*time.Second),
		}, 2},
		"away, and the same again": {&fakeWorker{down: down(5*time.Second, 8*time.Second)}, 0},
		"down when the agent started": {
			&fakeWorker{restarts: []time.Duration{2 * time.Second}, down: down(0, 3*time.Second)}, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			play(t, scenario{
				controller: &fakeController{publications: []publication{published(0, 1)}}, worker: row.worker,
				metrics: NewMetrics(reg),
			}, func(t *testing.T, w *world) {
				pass(20 * time.Second)
				logged := 0.0
				for _, line := range w.log.AllEntries() {
					if line.Message == "Worker restarted" {
						logged++
					}
				}
				if logged != row.want {
					t.Errorf("logged %v restarts, want %v", logged, row.want)
				}
			})
			if got := figures(t, reg)["worker_restarts_total"]; got != row.want {
				t.Errorf("counted %v restarts, want %v", got, row.want)
			}
		})
	}
}

func TestMetrics_ReportUnauthorized_CountedAsDenied(t *testing.T) {
	reg := prometheus.NewRegistry()
	NewMetrics(reg).reported(fmt.Errorf("%w: token", protocol.ErrUnauthorized))
	if got := figures(t, reg); got["reports_total denied"] != 1 {
		t.Errorf("got %v, want it counted as denied", got)
	}
}

// An attempt that ends because the agent stops is not a failure.
func TestMetrics_Canceled_NotCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.fetched(protocol.Query{}, protocol.Answer{}, context.Canceled, time.Second)
	m.registered(context.Canceled)
	m.reported(context.Canceled)
	m.pushed(context.Canceled, time.Second)
	if got := figures(t, reg); len(got) != 0 {
		t.Errorf("got %v, want nothing counted", got)
	}
}

func TestMetrics_LongPoll_NotTimed(t *testing.T) {
	reg := prometheus.NewRegistry()
	NewMetrics(reg).fetched(protocol.Query{Wait: time.Minute}, protocol.Answer{}, nil, time.Minute)
	if got := figures(t, reg); got["fetches_total changed"] != 1 || got["fetch_duration_seconds"] != 0 {
		t.Errorf("got %v, want it counted and not timed", got)
	}
}

// quiet is a broker that sends no hints.
type quiet struct{}

func (quiet) Run(ctx context.Context, _ string, _ notify.Receiver) error { <-ctx.Done(); return nil }

func TestMetrics_Hints_CountedByOutcome(t *testing.T) {
	reg := prometheus.NewRegistry()
	synctest.Test(t, func(t *testing.T) {
		w := scenario{
			transport: wire.NATS, hints: quiet{}, metrics: NewMetrics(reg),
			cache: &fakeCache{stored: state.Stored{LastGood: ptr(release(5, 30))}},
		}.world()
		w.load()
		l := listener{w.Poller}
		say := func(version int64, etag string) {
			message, err := notify.Hint{Version: version, ETag: etag}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			l.Received(message)
		}
		l.Received([]byte("nonsense"))
		say(4, `"x"`)
		say(6, `"x"`)
		w.handle(w.Log, func(m *state.Machine, now time.Time) {
			_, q := m.Querying(now)
			_ = m.Fetched(now, q, protocol.Answer{}, protocol.ErrNotModified) // the hint was unfounded
		})
		say(6, `"x"`)
		say(7, `"x"`)
	})
	want := map[string]float64{}
	for _, outcome := range []string{"followed", "delayed", "old", "ignored", "invalid"} {
		want["hints_total "+outcome+" nats"] = 1
	}
	if diff := cmp.Diff(want, figures(t, reg)); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
}

func TestMetrics_HintSeries_ExistFromTheStart(t *testing.T) {
	for hints, want := range map[Hints]int{nil: 0, quiet{}: 5} {
		reg := prometheus.NewRegistry()
		New(Parts{Hints: hints, Config: state.Config{Transport: wire.Redis}, Metrics: NewMetrics(reg)})
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, f := range families {
			if f.GetName() == "fleetconf_agent_hints_total" {
				got = len(f.GetMetric())
			}
		}
		if got != want {
			t.Errorf("with hints %v there are %d series, want %d", hints, got, want)
		}
	}
}

// Each attempt has an id of its own, which its log lines contain.
func TestAttempts_Each_HasItsOwnID(t *testing.T) {
	log, lines := logrustest.NewNullLogger()
	a := newAttempts(log)
	first := requestid.Of(a.begin(t.Context()))
	a.log.Info("One")
	second := requestid.Of(a.begin(t.Context()))
	a.log.Info("Two")
	if first == "" || first == second {
		t.Errorf("got ids %q and %q, want two that differ", first, second)
	}
	if got := lines.AllEntries(); got[0].Data["request_id"] != first || got[1].Data["request_id"] != second {
		t.Errorf("the lines have %v and %v, want %s and %s", got[0].Data, got[1].Data, first, second)
	}
}

// Each log line of a request has its id, which the server logs too.
func TestRun_Exchanges_LogRequestIDs(t *testing.T) {
	c := &fakeController{
		publications: []publication{published(0, 1), published(60*time.Second, 2)},
		down:         []span{{2 * time.Minute, 3 * time.Minute}},
	}
	w := &fakeWorker{refuses: func(v int64, _ time.Duration) string {
		if v == 2 {
			return "no"
		}
		return ""
	}}
	play(t, scenario{controller: c, worker: w}, func(t *testing.T, w *world) {
		pass(5 * time.Minute)
		found := map[string]bool{}
		for _, line := range w.log.AllEntries() {
			found[line.Message] = found[line.Message] || line.Data["request_id"] != nil
		}
		for _, message := range []string{
			"Registered", "Configuration fetched", "Configuration pushed", "Configuration applied",
			"Configuration refused",
			"Reported", "Polled", "Controller lost", "Controller back",
		} {
			if !found[message] {
				t.Errorf("no line %q has a request id", message)
			}
		}
	})
}

// naming passes the contexts of requests to seen.
type naming struct {
	*fakeController
	seen func(context.Context)
}

func (n naming) Register(
	ctx context.Context, as protocol.Identity, self wire.RegisterRequest,
) (protocol.Registration, error) {
	n.seen(ctx)
	return n.fakeController.Register(ctx, as, self)
}

func (n naming) Fetch(ctx context.Context, id protocol.Identity, q protocol.Query) (protocol.Answer, error) {
	n.seen(ctx)
	return n.fakeController.Fetch(ctx, id, q)
}

func (n naming) Deregister(ctx context.Context, id protocol.Identity) error {
	n.seen(ctx)
	return n.fakeController.Deregister(ctx, id)
}

// namingWorker is naming for a worker.
type namingWorker struct {
	*fakeWorker
	seen func(context.Context)
}

func (n namingWorker) Running(ctx context.Context) (wire.WorkerState, error) {
	n.seen(ctx)
	return n.fakeWorker.Running(ctx)
}

func (n namingWorker) Push(ctx context.Context, config wire.WorkerConfig) error {
	n.seen(ctx)
	return n.fakeWorker.Push(ctx, config)
}

func TestRun_EachRequest_HasItsOwnID(t *testing.T) {
	var ids []string
	source, sink := &fakeController{publications: []publication{published(0, 1)}}, &fakeWorker{}
	seen := func(ctx context.Context) { ids = append(ids, requestid.Of(ctx)) }
	synctest.Test(t, func(t *testing.T) {
		w := scenario{controller: source, worker: sink}.world()
		w.Source, w.Sink = naming{source, seen}, namingWorker{sink, seen}
		go w.runSaver(t.Context()) // ends with the test
		a := newAttempts(w.Log)
		for range 3 { // identify, register, fetch
			w.step(t.Context(), &a)
		}
		if w.observe(t.Context(), &a) {
			t.Error("got something else to do, want one push")
		}
		w.deregister(t.Context())
	})
	if len(ids) != 5 { // register, fetch, read, push, leave
		t.Fatalf("got %d requests, want 5", len(ids))
	}
	for i, id := range ids {
		if id == "" || i > 0 && id == ids[i-1] {
			t.Errorf("got ids %q, want one for each", ids)
		}
	}
}
