package models_test

import (
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func TestStatus_ByAppliedVersion(t *testing.T) {
	for name, row := range map[string]struct {
		unseen, interval time.Duration
		applied, refused int64
		conflict         bool
		want             wire.AgentStatus
	}{
		"runs the desired version":           {0, time.Second, 5, 0, false, wire.Online},
		"refused the desired version":        {0, time.Second, 4, 5, false, wire.Refused},
		"refused another version":            {0, time.Second, 5, 4, false, wire.Online},
		"refused, and stale":                 {5 * time.Second, time.Second, 4, 5, false, wire.Refused},
		"refused, and offline":               {time.Minute, time.Second, 4, 5, false, wire.Offline},
		"runs a later version":               {0, time.Second, 9, 0, true, wire.Conflict},
		"runs a later version, no conflict":  {0, time.Second, 9, 0, false, wire.Online},
		"runs the desired version, conflict": {0, time.Second, 5, 0, true, wire.Online},
		"unseen for a week":                  {fleettest.InactiveAfter, time.Second, 5, 0, false, wire.Offline},
		"unseen for longer":                  {fleettest.InactiveAfter + 1, time.Second, 5, 0, false, wire.Inactive},
		"long interval, polls in time": {
			3 * fleettest.InactiveAfter / 2, fleettest.InactiveAfter / 2, 5, 0, false, wire.Online,
		},
	} {
		plan := fleettest.Newest(5)
		if row.conflict {
			plan = plan.Observe(9)
		}
		h := models.Health{
			Age:     models.AgeOf(row.unseen, row.interval, fleettest.InactiveAfter),
			Applied: row.applied, Refused: models.Refusal{Version: row.refused},
		}
		if got := plan.Status(h); got != row.want {
			t.Errorf("%s: got %s, want %s", name, got, row.want)
		}
	}
	if got := fleettest.Newest(0).Status(models.Health{}); got != wire.Online {
		t.Errorf("before the first publish: got %s, want online", got)
	}
}

func TestStatus_AgentUnseen_ByMissedIntervals(t *testing.T) {
	registered := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	const interval = 10 * time.Second
	for name, row := range map[string]struct {
		lastPoll, now time.Duration // since registration; lastPoll 0 is never
		want          wire.AgentStatus
	}{
		"registered a second ago":   {0, time.Second, wire.Online},
		"never polled, 31 s":        {0, 31 * time.Second, wire.Stale},
		"never polled, 101 s":       {0, 101 * time.Second, wire.Offline},
		"three intervals ago":       {time.Hour, time.Hour + 30*time.Second, wire.Online},
		"more than three intervals": {time.Hour, time.Hour + 31*time.Second, wire.Stale},
		"ten intervals ago":         {time.Hour, time.Hour + 100*time.Second, wire.Stale},
		"more than ten intervals":   {time.Hour, time.Hour + 101*time.Second, wire.Offline},
		"the clock was set back":    {time.Hour, 0, wire.Online},
	} {
		t.Run(name, func(t *testing.T) {
			a := models.Agent{RegisteredAt: registered, Presence: models.Presence{PollInterval: interval}}
			if row.lastPoll != 0 {
				a.LastPoll = registered.Add(row.lastPoll)
			}
			if got := fleettest.StatusOf(&a, fleettest.Newest(1), registered.Add(row.now)); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestStatus_Degraded_Precedence(t *testing.T) {
	now := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	for name, row := range map[string]struct {
		unseen         time.Duration
		applied, fails int64
		want           wire.AgentStatus
	}{
		"seen":                        {0, 1, 0, wire.Degraded},
		"stale":                       {31 * time.Second, 1, 0, wire.Stale},
		"offline":                     {101 * time.Second, 1, 0, wire.Offline},
		"refused the desired version": {0, 1, 2, wire.Refused},
		"refused an older version":    {0, 2, 1, wire.Degraded},
		"in conflict":                 {0, 3, 0, wire.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			a := models.Agent{Presence: models.Presence{
				LastPoll: now.Add(-row.unseen), PollInterval: 10 * time.Second, Applied: row.applied,
				Refused: models.Refusal{Version: row.fails}, Degraded: "connection refused",
			}}
			plan := fleettest.Newest(2).Observe(3)
			if got := fleettest.StatusOf(&a, plan, now); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}
