package fleettest_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/poll"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// measured is a fleet with its metrics.
type measured struct {
	fleettest.Fleet
	reg           *prometheus.Registry
	metrics       *publish.Metrics
	waiters       *poll.Waiters
	announcements *publish.Announcements
	broker        *fleettest.Broker
}

func newMeasured(t *testing.T, db *sqlite.DB) *measured {
	t.Helper()
	log, _ := logtest.NewNullLogger()
	m := &measured{reg: prometheus.NewPedanticRegistry(), broker: &fleettest.Broker{Began: time.Now()}}
	m.metrics = publish.NewMetrics(m.reg)
	var err error
	m.DB = db
	plan := fleettest.LoadPlan(t, db)
	if m.Agents, err = registry.Open(
		t.Context(), db, plan,
		registry.Options{InactiveAfter: fleettest.InactiveAfter, Metrics: registry.NewMetrics(m.reg)}, log,
	); err != nil {
		t.Fatal(err)
	}
	m.Publisher = publish.New(db, plan, m.Agents, publish.Options{Tags: db.Tags(), Metrics: m.metrics}, log)
	m.waiters = poll.NewWaiters(m.Publisher.Changed, 1000, 77)
	m.announcements = publish.NewAnnouncements(m.Publisher, m.metrics.Announcing(wire.NATS, m.broker), 10, log)
	m.reg.MustRegister(m.Publisher, m.Agents, m.waiters, m.announcements)
	return m
}

// collectors collects from several collectors.
type collectors []prometheus.Collector

func (c collectors) Describe(to chan<- *prometheus.Desc) {
	for _, one := range c {
		one.Describe(to)
	}
}

func (c collectors) Collect(to chan<- prometheus.Metric) {
	for _, one := range c {
		one.Collect(to)
	}
}

// series returns the samples of a metric by their labels. Of a histogram, it returns the
// count, and the sum as "sum".
func (m *measured) series(t *testing.T, name string) map[string]float64 {
	t.Helper()
	families, err := m.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "fleetconf_controller_"+name {
			continue
		}
		for _, sample := range family.GetMetric() {
			var labels []string
			for _, l := range sample.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got[strings.Join(labels, " ")] = sample.GetCounter().GetValue() + sample.GetGauge().GetValue() + float64(
				sample.GetHistogram().GetSampleCount(),
			)
			if h := sample.GetHistogram(); h != nil {
				got["sum"] = h.GetSampleSum()
			}
		}
	}
	return got
}

func (m *measured) want(t *testing.T, when, name string, want map[string]float64) {
	t.Helper()
	if diff := cmp.Diff(want, m.series(t, name)); diff != "" {
		t.Errorf("%s: %s, -want +got:\n%s", when, name, diff)
	}
}

func TestMetrics_Publishes_ByOutcome(t *testing.T) {
	m := newMeasured(t, fleettest.NewStore(t))
	want := map[string]float64{"changed": 0, "unchanged": 0, "frozen": 0, "precondition": 0, "invalid": 0, "failed": 0}
	m.want(t, "before the first", "publishes_total", want)
	stale := fleettest.Draft("http://b/")
	stale.Allowed = func(string) bool { return false }
	freeze := func() {
		if err := m.Publisher.Freeze(
			t.Context(), models.Freeze{Reason: "r"}, fleettest.ByAdmin, func(*models.Freeze) bool { return true },
		); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		outcome string
		before  func()
		draft   models.Draft
	}{
		{"invalid", nil, models.Draft{}}, // without a URL
		{"changed", nil, fleettest.Draft("http://a/")},
		{"unchanged", nil, fleettest.Draft("http://a/")},
		{"precondition", nil, stale},
		{"frozen", freeze, fleettest.Draft("http://b/")},
		{"failed", func() { _ = m.DB.Close() }, fleettest.Draft("http://b/")},
	} {
		if row.before != nil {
			row.before()
		}
		_, _ = m.Publisher.Publish(t.Context(), row.draft)
		want[row.outcome]++
		m.want(t, "after one that is "+row.outcome, "publishes_total", want)
	}
}

// A publish whose client disconnects before it begins has no outcome.
func TestMetrics_PublishDisconnected_NotCounted(t *testing.T) {
	m := newMeasured(t, fleettest.NewStore(t))
	before := m.series(t, "publishes_total")
	disconnected, disconnect := context.WithCancel(t.Context())
	disconnect()
	if _, err := m.Publisher.Publish(disconnected, fleettest.Draft("http://a/")); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	m.want(t, "after it", "publishes_total", before)
}

func TestMetrics_Rollbacks_Counted(t *testing.T) {
	m := newMeasured(t, fleettest.NewStore(t))
	fleettest.Publish(t, m.Publisher, fleettest.Draft("http://a/"))
	fleettest.Publish(t, m.Publisher, fleettest.Draft("http://b/"))
	if _, err := m.Publisher.Rollback(t.Context(), 1, models.Terms{Origin: fleettest.ByAdmin}); err != nil {
		t.Fatal(err)
	}
	if got := m.series(t, "publishes_total")["changed"]; got != 3 {
		t.Errorf("after two publishes and a rollback: got %v, want 3", got)
	}
}

func TestMetrics_Reports_ByStatus(t *testing.T) {
	m := newMeasured(t, fleettest.NewStore(t))
	live := m.Join(t, 1)[0]
	fleettest.Publish(t, m.Publisher, fleettest.Draft("http://a/"))
	m.want(t, "before the first", "reports_total", map[string]float64{"applying": 0, "applied": 0, "failed": 0})
	for _, status := range []wire.AttemptStatus{
		wire.Applying, wire.Failed, wire.Failed, wire.Applying, wire.Failed, wire.Applied, wire.Applied,
	} {
		fleettest.Report(t, m.Agents, live, wire.Attempt{Version: 1, Status: status, At: models.Now()})
	}
	m.want(t, "with repeated reports", "reports_total", map[string]float64{"applying": 2, "applied": 1, "failed": 2})
}

// A second refusal after a retry is not a repeated report.
func TestMetrics_SecondRefusal_Counted(t *testing.T) {
	m := newMeasured(t, fleettest.NewStore(t))
	live := m.Join(t, 1)[0]
	fleettest.Publish(t, m.Publisher, fleettest.Draft("http://a/"))
	refused := wire.Attempt{Version: 1, Status: wire.Failed, At: models.Now()}
	fleettest.Report(t, m.Agents, live, refused)
	if err := m.Agents.Retry(t.Context(), live.ID(), fleettest.ByAdmin); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second is a repeated report
		fleettest.Report(t, m.Agents, live, refused)
	}
	m.want(t, "refused twice", "reports_total", map[string]float64{"applying": 0, "applied": 0, "failed": 2})
}

func TestMetrics_Propagation_OncePerAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "controller.db")
		db, closeDB := fleettest.OpenStore(t, path)
		m := newMeasured(t, db)
		lives := m.Join(t, 4)
		applies := func(live *registry.Agent, version int64) {
			fleettest.Report(t, m.Agents, live, wire.Attempt{Version: version, Status: wire.Applied, At: models.Now()})
		}
		wants := func(when string, agents, sum float64) {
			t.Helper()
			m.want(t, when, "propagation_seconds", map[string]float64{"": agents, "sum": sum})
		}
		time.Sleep(time.Second)
		fleettest.Publish(t, m.Publisher, fleettest.Draft("http://a/"))
		time.Sleep(250 * time.Millisecond)
		applies(lives[0], 1)
		wants("a report", 1, 0.25)
		applies(lives[0], 1)
		wants("the same one again", 1, 0.25)
		fleettest.Report(t, m.Agents, lives[1], wire.Attempt{Version: 1, Status: wire.Applying, At: models.Now()})
		fleettest.Report(t, m.Agents, lives[2], wire.Attempt{Version: 1, Status: wire.Failed, At: models.Now()})
		wants("other outcomes", 1, 0.25)
		time.Sleep(250 * time.Millisecond)
		m.Agents.Poll(lives[1], models.Poll{At: models.Now(), Interval: time.Minute, Runs: 1})
		wants("a poll before the report", 2, 0.75)
		applies(lives[1], 1)
		wants("the report after that", 2, 0.75)
		id, token := fleettest.Register(t, m.Agents, "late")
		late := fleettest.Login(t, m.Agents, id, token)
		applies(late, 1)
		wants("an agent that registered later", 2, 0.75)

		fleettest.Publish(t, m.Publisher, fleettest.Draft("http://b/"))
		time.Sleep(time.Second)
		applies(lives[2], 1)
		wants("a superseded version", 2, 0.75)
		applies(lives[0], 2)
		applies(late, 2)
		wants("the next version", 4, 2.75)
		applies(lives[0], 1)
		applies(lives[0], 2)
		wants("an agent that ran version 1 in between", 4, 2.75)

		closeDB() // without a flush: reports are durable
		db, _ = fleettest.OpenStore(t, path)
		m = newMeasured(t, db)
		time.Sleep(time.Second)
		m.Agents.Poll(find(t, m, "a0"), models.Poll{At: models.Now(), Interval: time.Minute, Runs: 2})
		applies(find(t, m, "a0"), 2)
		wants("the same again after a restart", 0, 0)
		applies(find(t, m, "a3"), 2)
		wants("another one after a restart", 1, 2)
	})
}

// find re-registers an agent and returns it.
func find(t *testing.T, m *measured, id string) *registry.Agent {
	t.Helper()
	id, token := fleettest.Register(t, m.Agents, id)
	return fleettest.Login(t, m.Agents, id, token)
}

func TestMetrics_Announcements_ByOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeasured(t, fleettest.NewStore(t))
		m.want(t, "before the first", "announcements_total", map[string]float64{"failed nats": 0, "taken nats": 0})
		m.want(t, "before the first", "broker_lost", map[string]float64{"": 0})
		m.broker.Began, m.broker.Down = time.Now(), time.Second
		fleettest.Publish(t, m.Publisher, fleettest.Draft("http://a/"))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = m.announcements.Run(ctx) }()
		synctest.Wait()
		m.want(t, "broker down", "announcements_total", map[string]float64{"failed nats": 1, "taken nats": 0})
		m.want(t, "broker down", "broker_lost", map[string]float64{"": 1})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		m.want(t, "broker back", "announcements_total", map[string]float64{"failed nats": 1, "taken nats": 1})
		m.want(t, "broker back", "broker_lost", map[string]float64{"": 0})
		stop()
		<-done
		err := m.metrics.Announcing(
			wire.NATS, &fleettest.Broker{Began: time.Now(), Hanging: time.Hour},
		).Announce(ctx, models.Announcement{})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want context.Canceled", err)
		}
		m.want(
			t, "a controller that stops", "announcements_total", map[string]float64{"failed nats": 1, "taken nats": 1},
		)
	})
}

func TestMetrics_LastFlush_Set(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := logtest.NewNullLogger()
		store, reg := &fleettest.Batches{}, prometheus.NewRegistry()
		agents, err := registry.Open(
			t.Context(), store, fleettest.NoPlan(),
			registry.Options{InactiveAfter: fleettest.InactiveAfter, Metrics: registry.NewMetrics(reg)}, log,
		)
		if err != nil {
			t.Fatal(err)
		}
		m := &measured{reg: reg}
		wants := func(when string, at time.Time) {
			t.Helper()
			m.want(
				t, when, "last_presence_flush_timestamp_seconds", map[string]float64{"": float64(at.UnixNano()) / 1e9},
			)
		}
		began := time.Now()
		wants("at the start", began)
		id, token := fleettest.Register(t, agents, "a1")
		agents.Poll(fleettest.Login(t, agents, id, token), models.Poll{At: models.Now(), Interval: time.Minute})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = agents.Run(ctx) }()
		store.Fail(true)
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		wants("when it fails", began)
		store.Fail(false)
		time.Sleep(registry.FlushInterval)
		synctest.Wait()
		wants("when it succeeds", began.Add(2*registry.FlushInterval))
		stop()
		<-done
	})
}

// Long help texts of the collectors.
const (
	appliedHelp = "Agents by the version that their worker runs, without the inactive ones: " +
		"the desired version, each of the four others that most run, any other, or none."
	transportHelp = "Agents by how they receive hints of a newer version, without the inactive ones."
)

func TestCollector_Fleet_Counted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeasured(t, fleettest.NewStore(t))
		const empty = `
# HELP fleetconf_controller_agents Agents by status.
# TYPE fleetconf_controller_agents gauge
fleetconf_controller_agents{status="conflict"} 0
fleetconf_controller_agents{status="degraded"} 0
fleetconf_controller_agents{status="failed"} 0
fleetconf_controller_agents{status="inactive"} 0
fleetconf_controller_agents{status="offline"} 0
fleetconf_controller_agents{status="online"} 0
fleetconf_controller_agents{status="stale"} 0
# HELP fleetconf_controller_agents_by_applied_version ` + appliedHelp + `
# TYPE fleetconf_controller_agents_by_applied_version gauge
fleetconf_controller_agents_by_applied_version{version="none"} 0
fleetconf_controller_agents_by_applied_version{version="other"} 0
# HELP fleetconf_controller_agents_by_transport ` + transportHelp + `
# TYPE fleetconf_controller_agents_by_transport gauge
fleetconf_controller_agents_by_transport{transport="longpoll"} 0
fleetconf_controller_agents_by_transport{transport="nats"} 0
fleetconf_controller_agents_by_transport{transport="poll"} 0
fleetconf_controller_agents_by_transport{transport="redis"} 0
fleetconf_controller_agents_by_transport{transport="unknown"} 0
# HELP fleetconf_controller_broker_lost Whether the broker does not take announcements: 1 or 0.
# TYPE fleetconf_controller_broker_lost gauge
fleetconf_controller_broker_lost 0
# HELP fleetconf_controller_conflict Whether agents run later versions than the store's and no admin decided: 1 or 0.
# TYPE fleetconf_controller_conflict gauge
fleetconf_controller_conflict 0
# HELP fleetconf_controller_desired_version The version that agents should run; 0 before the first publish.
# TYPE fleetconf_controller_desired_version gauge
fleetconf_controller_desired_version 0
# HELP fleetconf_controller_frozen Whether publishing is frozen: 1 or 0.
# TYPE fleetconf_controller_frozen gauge
fleetconf_controller_frozen 0
# HELP fleetconf_controller_last_publish_timestamp_seconds When the current version was published; 0 for none.
# TYPE fleetconf_controller_last_publish_timestamp_seconds gauge
fleetconf_controller_last_publish_timestamp_seconds 0
# HELP fleetconf_controller_waiters Long polls in progress.
# TYPE fleetconf_controller_waiters gauge
fleetconf_controller_waiters 0
# HELP fleetconf_controller_waiters_limit The maximum of long polls in progress.
# TYPE fleetconf_controller_waiters_limit gauge
fleetconf_controller_waiters_limit 77
`
		collector := collectors{m.Publisher, m.Agents, m.waiters, m.announcements}
		if err := testutil.CollectAndCompare(collector, strings.NewReader(empty)); err != nil {
			t.Errorf("before anything happened: %v", err)
		}
		fleettest.Register(t, m.Agents, "unseen")
		time.Sleep(fleettest.InactiveAfter + time.Second)
		fleettest.Register(t, m.Agents, "off")
		time.Sleep(10*fleettest.DefaultInterval + time.Second)
		fleettest.Register(t, m.Agents, "slow")
		time.Sleep(3*fleettest.DefaultInterval + time.Second)
		lives := m.Join(t, 6)
		cfg := fleettest.Publish(t, m.Publisher, fleettest.Draft("http://a/"))
		polled := func(live *registry.Agent, runs int64, over wire.Transport) {
			m.Agents.Poll(
				live, models.Poll{At: models.Now(), Interval: fleettest.DefaultInterval, Runs: runs, Transport: over},
			)
		}
		polled(lives[0], 1, wire.LongPoll)
		polled(lives[1], 1, wire.NATS)
		polled(lives[2], 0, wire.Redis)
		polled(lives[3], 0, wire.Polling)
		m.Agents.Poll(
			lives[5], models.Poll{At: models.Now(), Interval: fleettest.DefaultInterval, Degraded: "not reached"},
		)
		fleettest.Report(t, m.Agents, lives[3], wire.Attempt{Version: 1, Status: wire.Failed, At: models.Now()})
		m.want(t, "a fleet", "agents", map[string]float64{
			"online": 4, "degraded": 1, "failed": 1, "stale": 1, "offline": 1, "inactive": 1, "conflict": 0,
		})
		m.want(
			t, "a fleet", "agents_by_transport",
			map[string]float64{"longpoll": 1, "nats": 1, "redis": 1, "poll": 1, "unknown": 4},
		)
		m.want(t, "a fleet", "agents_by_applied_version", map[string]float64{"1": 2, "none": 6, "other": 0})
		m.want(t, "a fleet", "desired_version", map[string]float64{"": 1})
		m.want(
			t, "a fleet", "last_publish_timestamp_seconds",
			map[string]float64{"": float64(cfg.PublishedAt.UnixMicro()) / 1e6},
		)

		m.Publisher.ObserveTag(m.Publisher.Plan(), m.Later(9))
		polled(lives[4], 9, wire.Polling)
		if err := m.Publisher.Freeze(
			t.Context(), models.Freeze{Reason: "r"}, fleettest.ByAdmin, func(*models.Freeze) bool { return true },
		); err != nil {
			t.Fatal(err)
		}
		polls := poll.New(poll.Options{Publisher: m.Publisher, Agents: m.Agents, Waiters: m.waiters})
		header := map[string][]string{"If-None-Match": {cfg.ETag}}
		polls.Begin(poll.Request{Header: header, Wait: time.Minute, OnWake: func() {}, StartedAt: time.Now()})
		m.want(t, "a conflict", "agents", map[string]float64{
			"online": 3, "degraded": 1, "failed": 1, "stale": 1, "offline": 1, "inactive": 1, "conflict": 1,
		})
		m.want(t, "a conflict", "conflict", map[string]float64{"": 1})
		m.want(t, "a freeze", "frozen", map[string]float64{"": 1})
		m.want(t, "a long poll", "waiters", map[string]float64{"": 1})
		time.Sleep(2 * time.Minute)
	})
}

func TestCollector_NoWaiters_Zero(t *testing.T) {
	m := newMeasured(t, fleettest.NewStore(t))
	m.reg = prometheus.NewRegistry()
	m.reg.MustRegister(poll.NewWaiters(m.Publisher.Changed, 1000, 0))
	m.want(t, "without waiters", "waiters", map[string]float64{"": 0})
	m.want(t, "without waiters", "waiters_limit", map[string]float64{"": 0})
}

// many is a store with n agents, whose names and hosts differ, and which run versions 1 to
// 900.
type many struct {
	fleettest.Batches
	n int
}

func (m *many) Agents(context.Context) ([]models.Agent, error) {
	agents, now := make([]models.Agent, m.n), models.Now()
	for i := range agents {
		version := int64(1 + i%1000)
		if i%1000 >= 900 {
			version = 1 // the most frequent
		}
		agents[i] = models.Agent{
			Seq: int64(i + 1), ID: fmt.Sprintf(
				"agent\"}\n%d", i,
			), Hostname: fmt.Sprintf("host{\"%d\"}", i), Metadata: []byte("{}"), RegisteredAt: now,
			Presence: models.Presence{
				LastPoll: now, PollInterval: time.Hour, Applied: version, Transport: wire.Transport(fmt.Sprint("t", i)),
			},
		}
	}
	return agents, nil
}

// collectorOf returns the collector of n agents.
func collectorOf(t testing.TB, n int) prometheus.Collector {
	t.Helper()
	log, _ := logtest.NewNullLogger()
	db := fleettest.NewStore(t)
	plan := fleettest.LoadPlan(t, db)
	agents, err := registry.Open(
		t.Context(), &many{n: n}, plan, registry.Options{InactiveAfter: fleettest.InactiveAfter}, log,
	)
	if err != nil {
		t.Fatal(err)
	}
	publisher := publish.New(db, plan, agents, publish.Options{}, log)
	for i := range 3 {
		if _, err := publisher.Publish(t.Context(), fleettest.Draft(fmt.Sprintf("http://a/%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	return collectors{publisher, agents, publish.NewAnnouncements(publisher, &fleettest.Broker{}, 1, log)}
}

// The number of series depends neither on the number of agents nor on what they run.
func TestCollector_ManyVersions_FewSeries(t *testing.T) {
	var counts []int
	for _, n := range []int{1000, 5000} {
		counts = append(counts, testutil.CollectAndCount(collectorOf(t, n)))
	}
	if counts[0] != counts[1] || counts[0] > 30 {
		t.Errorf("got %d series of 1000 agents and %d of 5000, want as many, and few", counts[0], counts[1])
	}
	const want = `
# HELP fleetconf_controller_agents_by_applied_version ` + appliedHelp + `
# TYPE fleetconf_controller_agents_by_applied_version gauge
fleetconf_controller_agents_by_applied_version{version="1"} 505
fleetconf_controller_agents_by_applied_version{version="3"} 5
fleetconf_controller_agents_by_applied_version{version="898"} 5
fleetconf_controller_agents_by_applied_version{version="899"} 5
fleetconf_controller_agents_by_applied_version{version="900"} 5
fleetconf_controller_agents_by_applied_version{version="none"} 0
fleetconf_controller_agents_by_applied_version{version="other"} 4475
`
	if err := testutil.CollectAndCompare(
		collectorOf(t, 5000), strings.NewReader(want), "fleetconf_controller_agents_by_applied_version",
	); err != nil {
		t.Error(err)
	}
}

// BenchmarkCollector_Of100000 measures a scrape.
func BenchmarkCollector_Of100000(b *testing.B) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectorOf(b, 100_000))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
