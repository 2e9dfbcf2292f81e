package service_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
)

// million is a store with a million agents: nearly all run version 8, some have
// refused it, some are late.
type million struct{ batches }

func (*million) Agents(context.Context) ([]models.Agent, error) {
	const n = 1_000_000
	now := models.Now()
	agents := make([]models.Agent, n)
	for i := range agents {
		a := models.Agent{
			Seq: int64(i + 1), ID: fmt.Sprintf("agent-%07d", i), Hostname: fmt.Sprintf("web-%d", i), Metadata: []byte("{}"), RegisteredAt: now.Add(-time.Hour),
			Presence: models.Presence{
				LastPoll: now, PollInterval: time.Hour, Applied: 8, AppliedAt: now.Add(time.Duration(i) * time.Microsecond),
				Attempt: models.Attempt{Version: 8, Status: models.Applied, At: now},
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

// What an admin asks of a fleet of a million.
func BenchmarkAgents_OfAMillion(b *testing.B) {
	log, _ := logtest.NewNullLogger()
	agents, err := service.OpenAgents(b.Context(), &million{}, service.AgentOptions{InactiveAfter: inactiveAfter}, log)
	if err != nil {
		b.Fatal(err)
	}
	cfg := &models.Config{Version: 8, PublishedAt: time.Now().Add(-time.Minute)}
	for name, ask := range map[string]func(models.Outlook){
		"list":             func(o models.Outlook) { agents.List(service.Query{Limit: 100}, o) },
		"list_failed":      func(o models.Outlook) { agents.List(service.Query{Limit: 100, Status: models.Refused}, o) },
		"list_version":     func(o models.Outlook) { agents.List(service.Query{Limit: 100, Applied: 7}, o) },
		"list_hostname":    func(o models.Outlook) { agents.List(service.Query{Limit: 100, Hostname: "web-999999"}, o) },
		"list_prefix":      func(o models.Outlook) { agents.List(service.Query{Limit: 100, Hostname: "web-99*"}, o) },
		"list_last_page":   func(o models.Outlook) { agents.List(service.Query{Limit: 100, After: 999_900}, o) },
		"summary":          func(o models.Outlook) { agents.Summary(o) },
		"rollout":          func(o models.Outlook) { agents.Figures(cfg, o) },
		"look_of_a_waiter": func(o models.Outlook) { agents.Targets(o) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				ask(asOf(time.Now(), 8))
			}
		})
	}
}
