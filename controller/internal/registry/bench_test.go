package registry_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// million is a store with a million agents. Nearly all run version 8; some refused it, and
// some run version 7.
type million struct{ fleettest.Batches }

func (*million) Agents(context.Context) ([]models.Agent, error) {
	const n = 1_000_000
	now := models.Now()
	agents := make([]models.Agent, n)
	for i := range agents {
		a := models.Agent{
			Seq: int64(i + 1), ID: fmt.Sprintf("agent-%07d", i), Hostname: fmt.Sprintf("web-%d", i),
			Metadata: []byte("{}"), RegisteredAt: now.Add(-time.Hour),
			Presence: models.Presence{
				LastPoll: now, PollInterval: time.Hour, Applied: 8,
				AppliedAt: now.Add(time.Duration(i) * time.Microsecond),
				Attempt:   wire.Attempt{Version: 8, Status: wire.Applied, At: now},
			},
		}
		switch {
		case i%1000 == 1:
			a.Applied, a.Refused = 7, models.Refusal{Version: 8, Error: fmt.Sprint("host not allowed ", i%3000)}
		case i%100 == 2:
			a.Applied = 7
		}
		agents[i] = a
	}
	return agents, nil
}

// BenchmarkAgents_OfAMillion measures the requests of an admin with a million agents.
func BenchmarkAgents_OfAMillion(b *testing.B) {
	log, _ := logtest.NewNullLogger()
	var plan atomic.Pointer[models.Plan]
	plan.Store(&models.Plan{
		Newest: &models.Release{Config: &models.Config{Version: 8, PublishedAt: time.Now().Add(-time.Minute)}},
	})
	agents, err := registry.Open(
		b.Context(), &million{}, &plan, registry.Options{InactiveAfter: fleettest.InactiveAfter}, log,
	)
	if err != nil {
		b.Fatal(err)
	}
	for name, ask := range map[string]func(time.Time){
		"list": func(now time.Time) { agents.List(census.Query{Limit: 100}, plan.Load(), now) },
		"list_failed": func(now time.Time) {
			agents.List(census.Query{Limit: 100, Status: wire.Refused}, plan.Load(), now)
		},
		"list_version": func(now time.Time) {
			agents.List(census.Query{Limit: 100, Applied: 7}, plan.Load(), now)
		},
		"list_hostname": func(now time.Time) {
			agents.List(census.Query{Limit: 100, Hostname: "web-999999"}, plan.Load(), now)
		},
		"list_prefix": func(now time.Time) {
			agents.List(census.Query{Limit: 100, Hostname: "web-99*"}, plan.Load(), now)
		},
		"list_last_page": func(now time.Time) {
			agents.List(census.Query{Limit: 100, After: 999_900}, plan.Load(), now)
		},
		"summary": func(now time.Time) { agents.Summary(plan.Load(), now) },
		"rollout": func(now time.Time) { agents.Figures(plan.Load(), now) },
		"targets": func(now time.Time) { agents.Targets(now) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				ask(time.Now())
			}
		})
	}
}

// BenchmarkPublish_MillionToNone measures publishes with a million agents and with none,
// alternately, and reports the ratio of their times.
func BenchmarkPublish_MillionToNone(b *testing.B) {
	log, _ := logtest.NewNullLogger()
	open := func(agents database.Store) *publish.Publisher {
		db, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "controller.db"))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = db.Close() })
		plan := fleettest.LoadPlan(b, db)
		fleet, err := registry.Open(
			b.Context(), agents, plan, registry.Options{InactiveAfter: fleettest.InactiveAfter}, log,
		)
		if err != nil {
			b.Fatal(err)
		}
		return publish.New(db, plan, fleet, publish.Options{Tags: db.Tags(), Pace: 1000}, log)
	}
	publishers := [2]*publish.Publisher{open(&fleettest.Batches{}), open(&million{})}
	var took [2]time.Duration
	for n := 0; b.Loop(); n++ {
		for i, publisher := range publishers {
			began := time.Now()
			if _, err := publisher.Publish(
				b.Context(), fleettest.Draft(fmt.Sprintf("http://target/%d", n)),
			); err != nil {
				b.Fatal(err)
			}
			took[i] += time.Since(began)
		}
	}
	b.ReportMetric(float64(took[1])/float64(took[0]), "million/none")
}
