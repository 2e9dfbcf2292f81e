package registry_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func TestStatus_AgentSeen_ByWhatItRuns(t *testing.T) {
	for name, row := range map[string]struct {
		unseen, interval time.Duration
		applied, refused int64
		conflict         bool
		want             wire.AgentStatus
	}{
		"runs what it should":                    {0, time.Second, 5, 0, false, wire.Online},
		"refused what it should run":             {0, time.Second, 4, 5, false, wire.Refused},
		"refused another":                        {0, time.Second, 5, 4, false, wire.Online},
		"refused, and is late":                   {5 * time.Second, time.Second, 4, 5, false, wire.Refused},
		"refused, and is gone":                   {time.Minute, time.Second, 4, 5, false, wire.Offline},
		"runs a later one":                       {0, time.Second, 9, 0, true, wire.Conflict},
		"runs a later one, and that is settled":  {0, time.Second, 9, 0, false, wire.Online},
		"runs what it should in a conflict":      {0, time.Second, 5, 0, true, wire.Online},
		"unseen for a week":                      {fleettest.InactiveAfter, time.Second, 5, 0, false, wire.Offline},
		"unseen for longer":                      {fleettest.InactiveAfter + 1, time.Second, 5, 0, false, wire.Inactive},
		"polls every three days, and is on time": {3 * fleettest.InactiveAfter / 2, fleettest.InactiveAfter / 2, 5, 0, false, wire.Online},
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
		t.Errorf("while nothing was published: got %s, want online", got)
	}
}

func TestList_HostnamesOfAnyLength_Found(t *testing.T) {
	agents := newAgents(t)
	const long = "a-name-that-is-longer-than-its-row.example.com"
	for _, host := range []string{"a", "ab", "A-Name-That-Is-Longer-Than", "a-name-that-is-longer-th", long, "münchen", ""} {
		if _, _, _, err := agents.Register(t.Context(), registry.Registration{Hostname: host, Metadata: []byte("{}"), PollInterval: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, want := range map[string]int{
		"a": 1, "A": 1, "a*": 5, "ab*": 1, "abc*": 0, "a-name-that-is-longer-th": 1, "a-name-that-is-longer-tha": 0, "a-name-that-is-longer-th*": 3,
		"a-name-that-is-longer-than*": 2, long: 1, long + "*": 1, long + ".": 0, "A-NAME-THAT-IS-LONGER-THAN-*": 1, "münchen": 1, "m*": 1, "*": 7, "a*b": 0,
	} {
		if got := agents.List(registry.Query{Hostname: pattern, Limit: 10}, fleettest.Newest(0), time.Now()).Total; got != want {
			t.Errorf("%s: got %d, want %d", pattern, got, want)
		}
	}
}

func TestList_InactiveHidden_HostsFound(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		agents, _ := fleettest.OpenAgents(t, db)
		tokens := map[string]string{}
		for _, host := range []string{"web-1", "web-2", "Web-10", "db-1"} {
			_, token, _, err := agents.Register(t.Context(), registry.Registration{ID: host, Hostname: host, Metadata: []byte("{}"), PollInterval: fleettest.DefaultInterval})
			if err != nil {
				t.Fatal(err)
			}
			tokens[host] = token
		}
		time.Sleep(fleettest.InactiveAfter + time.Hour)
		for host, token := range tokens {
			if host != "web-2" {
				agents.Poll(fleettest.Login(t, agents, host, token), models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 1, Transport: wire.NATS})
			}
		}
		for name, row := range map[string]struct {
			query registry.Query
			want  []string
		}{
			"nothing asked":       {registry.Query{}, []string{"web-1", "Web-10", "db-1"}},
			"the inactive ones":   {registry.Query{Status: wire.Inactive}, []string{"web-2"}},
			"all":                 {registry.Query{All: true}, []string{"web-1", "web-2", "Web-10", "db-1"}},
			"a host":              {registry.Query{Hostname: "WEB-1"}, []string{"web-1"}},
			"some hosts":          {registry.Query{Hostname: "web-*"}, []string{"web-1", "Web-10"}},
			"some hosts, all":     {registry.Query{Hostname: "web-*", All: true}, []string{"web-1", "web-2", "Web-10"}},
			"no such host":        {registry.Query{Hostname: "web"}, nil},
			"a host, by version":  {registry.Query{Hostname: "db-1", Applied: 1}, []string{"db-1"}},
			"a host, not by that": {registry.Query{Hostname: "db-1", Applied: 2}, nil},
		} {
			row.query.Limit = 10
			page := agents.List(row.query, fleettest.Newest(1), time.Now())
			var got []string
			for _, a := range page.Agents {
				got = append(got, a.ID)
			}
			if diff := cmp.Diff(row.want, got); diff != "" || page.Total != len(row.want) {
				t.Errorf("%s: %d in total, -want +got:\n%s", name, page.Total, diff)
			}
		}
		want := registry.Summary{
			Total: 4, ByStatus: map[wire.AgentStatus]int{wire.Online: 3, wire.Inactive: 1}, ByApplied: map[int64]int{1: 3}, ByTransport: map[wire.Transport]int{wire.NATS: 3},
		}
		if diff := cmp.Diff(want, agents.Summary(fleettest.Newest(1), time.Now())); diff != "" {
			t.Errorf("the summary, -want +got:\n%s", diff)
		}
	})
}

// Agents that come and go leave nothing behind, and disturb nobody who looks.
func TestTable_AgentsAddedAndRemoved_ListedOnce(t *testing.T) {
	store := &fleettest.Batches{}
	agents, _ := fleettest.OpenAgents(t, store)
	stays, token := fleettest.Register(t, agents, "stays")
	live := fleettest.Login(t, agents, stays, token)
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for range 200 {
			agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Hour, Runs: 1})
			if page := agents.List(registry.Query{Applied: 1, Limit: 1}, fleettest.Newest(1), time.Now()); page.Total != 1 {
				t.Errorf("got %d agents that run version 1, want one", page.Total)
			}
		}
	}()
	for i := range 5000 {
		id, _ := fleettest.Register(t, agents, fmt.Sprint("a", i))
		if i%100 == 0 {
			continue
		}
		if err := agents.Decommission(t.Context(), id, fleettest.ByAdmin); err != nil {
			t.Fatal(err)
		}
	}
	<-looked
	page := agents.List(registry.Query{Limit: 100}, fleettest.Newest(1), time.Now())
	if page.Total != 51 || page.Agents[0].ID != "stays" || page.Agents[50].ID != "a4900" {
		t.Errorf("got %d agents, want 51 in the order of registration", page.Total)
	}
	agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Hour, Runs: 2})
	if page := agents.List(registry.Query{Applied: 2, Limit: 1}, fleettest.Newest(2), time.Now()); page.Total != 1 {
		t.Errorf("a poll after it all: got %d agents that run version 2, want one", page.Total)
	}
}

func TestRun_AgentUnseenForPruneAfter_Removed(t *testing.T) {
	const pruneAfter = 24 * time.Hour
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		before, _ := fleettest.OpenAgents(t, db)
		fleettest.Register(t, before, "gone")
		time.Sleep(3 * pruneAfter) // the controller is away: nobody is to blame
		log, _ := logtest.NewNullLogger()
		agents, err := registry.Open(t.Context(), db, fleettest.NoPlan(), registry.Options{InactiveAfter: fleettest.InactiveAfter, PruneAfter: pruneAfter}, log)
		if err != nil {
			t.Fatal(err)
		}
		id, token := fleettest.Register(t, agents, "stays")
		live := fleettest.Login(t, agents, id, token)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- agents.Run(ctx) }()
		time.Sleep(pruneAfter - time.Minute)
		agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Minute, Runs: 1})
		if _, err := agents.Agent("gone"); err != nil {
			t.Errorf("before its time: %v", err)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if _, err := agents.Agent("gone"); err == nil {
			t.Error("after its time it is still there")
		}
		if _, err := agents.Agent("stays"); err != nil {
			t.Errorf("the one that was seen: %v", err)
		}
		stop()
		<-done
		entries, err := db.Audit(t.Context(), models.ActionDecommission, 0, 10)
		if err != nil || len(entries) != 1 || !strings.Contains(entries[0].Detail, "gone") || entries[0].Actor != "controller" {
			t.Errorf("the audit trail: got %+v, %v", entries, err)
		}
	})
}

// A controller that is restarted often removes agents all the same.
func TestAgents_PruneAcrossRestarts(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		log, _ := logtest.NewNullLogger()
		open := func() *registry.Registry {
			agents, err := registry.Open(t.Context(), db, fleettest.NoPlan(), registry.Options{InactiveAfter: fleettest.InactiveAfter, PruneAfter: 10 * day}, log)
			if err != nil {
				t.Fatal(err)
			}
			return agents
		}
		agents := open()
		fleettest.Register(t, agents, "gone")
		id, token := fleettest.Register(t, agents, "stays")
		run := func(d time.Duration) {
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- agents.Run(ctx) }()
			for range d / time.Hour {
				agents.Poll(fleettest.Login(t, agents, id, token), models.Poll{At: time.Now(), Interval: time.Hour, Runs: 1})
				time.Sleep(time.Hour)
			}
			stop()
			<-done
		}
		wantGone := func(want bool) {
			t.Helper()
			if _, err := agents.Agent("gone"); (err != nil) != want {
				t.Errorf("the agent that is unseen: got %v, want it removed: %v", err, want)
			}
			if _, err := agents.Agent(id); err != nil {
				t.Errorf("the agent that polls: %v", err)
			}
		}
		for range 9 { // a restart each day
			run(day)
			agents = open()
		}
		wantGone(false)
		time.Sleep(30 * day) // the controller is away
		agents = open()
		run(time.Hour)
		wantGone(false)
		run(2 * day)
		wantGone(true)
	})
}
