package registry_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// The maintained counts equal those of a walk over all agents, after any history.
func TestCounts_AnyHistory_EqualAWalkOverAllAgents(t *testing.T) {
	rapid.Check(t, func(h *rapid.T) {
		inBubble(t, func() {
			t, ctx := h, context.Background() // h.Context() is from outside the bubble
			plan := fleettest.NoPlan()
			agents, err := openCounted(&fleettest.Batches{}, plan)
			if err != nil {
				t.Fatal(err)
			}
			lives := map[string]*registry.Agent{}
			some := func() *registry.Agent {
				if len(lives) == 0 {
					return nil
				}
				return lives[rapid.SampledFrom(keys(lives)).Draw(t, "agent")]
			}
			last := map[string]models.Poll{} // the last poll, by agent
			n := 0
			t.Repeat(map[string]func(*rapid.T){
				"register": func(t *rapid.T) {
					n++
					interval := time.Duration(rapid.SampledFrom([]int{1, 5, 30, 3600}).Draw(
						t, "interval",
					)) * time.Second
					id, token, _, err := agents.Register(ctx, registry.Registration{
						ID: fmt.Sprint("a", n), Hostname: "h", Metadata: []byte("{}"), PollInterval: interval,
					})
					if err != nil {
						t.Fatal(err)
					}
					lives[id] = agents.Authenticate([]byte(id), []byte(token))
				},
				"poll": func(t *rapid.T) {
					live := some()
					if live == nil {
						return
					}
					poll := models.Poll{
						At: time.Now(), Newest: plan.Load().Version(), Runs: rapid.Int64Range(0, 4).Draw(t, "runs"),
						Interval: time.Duration(rapid.SampledFrom([]int{1, 5, 30, 3600}).Draw(
							t, "interval",
						)) * time.Second,
						Transport: rapid.SampledFrom(wire.Transports).Draw(t, "transport"),
						Degraded:  rapid.SampledFrom([]string{"", "why"}).Draw(t, "degraded"),
						Mismatch:  rapid.Bool().Draw(t, "mismatch"),
					}
					poll.Foreign = poll.Runs > poll.Newest && rapid.Bool().Draw(t, "foreign")
					agents.Poll(live, poll)
					last[live.ID()] = poll
				},
				"poll with another interval": func(t *rapid.T) {
					live := some()
					if live == nil {
						return
					}
					poll := last[live.ID()]
					poll.At, poll.Interval = time.Now(), time.Duration(rapid.IntRange(
						1, 60,
					).Draw(t, "interval"))*time.Second
					agents.Poll(live, poll)
				},
				"report": func(t *rapid.T) {
					live := some()
					if live == nil {
						return
					}
					attempt := wire.Attempt{
						Version: rapid.Int64Range(1, 4).Draw(t, "version"), At: time.Now(),
						Status: rapid.SampledFrom([]wire.AttemptStatus{wire.Applying, wire.Applied, wire.Failed}).Draw(
							t, "status",
						),
						Error: rapid.SampledFrom([]string{"one", "another"}).Draw(t, "error"),
					}
					if _, err := agents.Report(ctx, live, attempt); err != nil {
						t.Fatal(err)
					}
				},
				"remove": func(t *rapid.T) {
					live := some()
					if live == nil {
						return
					}
					if err := agents.Decommission(ctx, live.ID(), fleettest.ByAdmin); err != nil {
						t.Fatal(err)
					}
					delete(lives, live.ID())
				},
				"release": func(*rapid.T) { agents.Release() },
				"publish": func(t *rapid.T) {
					plan.Store(fleettest.Newest(rapid.Int64Range(
						0, 4,
					).Draw(t, "newest")).Observe(rapid.Int64Range(0, 4).Draw(t, "observed")))
				},
				"time passes": func(t *rapid.T) {
					time.Sleep(rapid.SampledFrom([]time.Duration{
						time.Millisecond, 999 * time.Millisecond, time.Second, 7 * time.Second, time.Hour,
						fleettest.InactiveAfter,
					}).Draw(t, "time"))
				},
				"": func(t *rapid.T) { checkCounts(t, agents, plan.Load()) },
			})
		})
	})
}

// inBubble calls f in fake time. It passes a panic on, because rapid ends a history so.
func inBubble(t *testing.T, f func()) {
	var failure any
	synctest.Test(t, func(*testing.T) {
		defer func() { failure = recover() }()
		f()
	})
	if failure != nil {
		panic(failure)
	}
}

func keys(m map[string]*registry.Agent) (keys []string) {
	for i := range 1000 {
		if id := fmt.Sprint("a", i); m[id] != nil {
			keys = append(keys, id)
		}
	}
	return keys
}

// checkCounts compares the counts with those of a walk over all agents.
func checkCounts(t *rapid.T, agents *registry.Registry, plan *models.Plan) {
	now := time.Now()
	all := agents.List(census.Query{All: true, Limit: 1000}, plan, now)
	want := census.Summary{
		ByStatus: map[wire.AgentStatus]int{}, ByApplied: map[int64]int{}, ByTransport: map[wire.Transport]int{},
	}
	var figures models.Figures
	held := 0
	for _, a := range all.Agents {
		status := fleettest.StatusOf(&a, plan, now.Truncate(time.Microsecond))
		want.Total++
		want.ByStatus[status]++
		if a.Held > plan.Version() {
			held++
		}
		if status == wire.Inactive {
			continue
		}
		want.ByApplied[a.Applied]++
		want.ByTransport[a.Transport]++
		figures.Targets++
		switch version := plan.Version(); {
		case a.Applied == version && !a.Mismatch:
			figures.Applied++
		case a.Refused.Version == version:
			figures.Failed++
		case status == wire.Offline:
			figures.Offline++
		default:
			figures.Pending++
		}
	}
	if diff := cmp.Diff(want, agents.Summary(plan, now)); diff != "" || all.Total != want.Total {
		t.Fatalf("%d agents listed; the summary, -walk +counted:\n%s", all.Total, diff)
	}
	got := agents.Figures(plan, now)
	if got.Targets != figures.Targets || got.Applied != figures.Applied || got.Failed != figures.Failed ||
		got.Offline != figures.Offline || got.Pending != figures.Pending || agents.Targets(now) != figures.Targets {
		t.Fatalf("the figures: got %+v, want %+v", got, figures)
	}
	if got := agents.Held(plan.Version(), now); got != held {
		t.Fatalf("got %d held, want %d", got, held)
	}
	for _, status := range wire.AgentStatuses {
		if page := agents.List(
			census.Query{Status: status, Limit: 1}, plan, now,
		); page.Total != want.ByStatus[status] {
			t.Fatalf("%s: got %d in the list, want %d", status, page.Total, want.ByStatus[status])
		}
	}
}

// Error messages that differ from agent to agent make no group for each of them.
func TestFigures_EveryErrorMessageDifferent_FewGroups(t *testing.T) {
	f := fleettest.Open(t)
	lives := f.Join(t, 300)
	fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
	for i, live := range lives {
		fleettest.Report(t, f.Agents, live, wire.Attempt{
			Version: 1, Status: wire.Failed, Error: fmt.Sprint("port ", i), At: models.Now(),
		})
	}
	got := f.Figures(t, 1)
	if got.Failed != 300 || len(got.Failures) != 20 || got.Failures[0].Error != "other errors" ||
		got.Failures[0].Count != 200 || len(got.Failures[0].SampleAgents) != 5 {
		t.Errorf("got %d failed, %d messages, %+v first, want 300, 20, and 200 other errors first",
			got.Failed, len(got.Failures), got.Failures[0])
	}
	for _, live := range lives {
		f.Agents.Poll(live, models.Poll{At: models.Now(), Interval: time.Minute, Runs: 1})
	}
	if got := f.Figures(t, 1); got.Failed != 0 || got.Applied != 300 {
		t.Errorf("after all applied it: got %+v, want no failures", got.Figures)
	}
}

// A clock that was ahead, and is set right, ages nobody for as long as it was ahead.
func TestSummary_ClockSetBack_AgesAgain(t *testing.T) {
	f := fleettest.Open(t)
	f.Join(t, 3)
	plan, now := f.Publisher.Plan(), time.Now()
	online := func(now time.Time) int { return f.Agents.Summary(plan, now).ByStatus[wire.Online] }
	if ahead, back := online(now.Add(time.Hour)), online(now); ahead != 0 || back != 3 {
		t.Errorf("got %d online an hour ahead and %d after it, want 0 and 3", ahead, back)
	}
	if later := online(now.Add(10 * fleettest.DefaultInterval)); later != 0 {
		t.Errorf("got %d online after ten intervals, want 0", later)
	}
}
