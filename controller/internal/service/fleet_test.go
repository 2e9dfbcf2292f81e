package service_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
)

func TestStatus_AgentSeen_ByWhatItRuns(t *testing.T) {
	for name, row := range map[string]struct {
		unseen, interval time.Duration
		applied, refused int64
		conflict         bool
		want             models.Status
	}{
		"runs what it should":                    {0, time.Second, 5, 0, false, models.Online},
		"refused what it should run":             {0, time.Second, 4, 5, false, models.Refused},
		"refused another":                        {0, time.Second, 5, 4, false, models.Online},
		"refused, and is late":                   {5 * time.Second, time.Second, 4, 5, false, models.Refused},
		"refused, and is gone":                   {time.Minute, time.Second, 4, 5, false, models.Offline},
		"runs a later one":                       {0, time.Second, 9, 0, true, models.Ahead},
		"runs a later one, and that is settled":  {0, time.Second, 9, 0, false, models.Online},
		"runs what it should in a conflict":      {0, time.Second, 5, 0, true, models.Online},
		"unseen for a week":                      {inactiveAfter, time.Second, 5, 0, false, models.Offline},
		"unseen for longer":                      {inactiveAfter + 1, time.Second, 5, 0, false, models.Inactive},
		"polls every three days, and is on time": {3 * inactiveAfter / 2, inactiveAfter / 2, 5, 0, false, models.Online},
	} {
		plan := newest(5)
		if row.conflict {
			plan = plan.Observe(9)
		}
		h := models.Health{
			Age:     models.AgeOf(row.unseen, row.interval, inactiveAfter),
			Applied: row.applied, Refused: models.Refusal{Version: row.refused},
		}
		if got := plan.Status(h); got != row.want {
			t.Errorf("%s: got %s, want %s", name, got, row.want)
		}
	}
	if got := newest(0).Status(models.Health{}); got != models.Online {
		t.Errorf("while nothing was published: got %s, want online", got)
	}
}

func TestList_HostnamesOfAnyLength_Found(t *testing.T) {
	agents := newAgents(t)
	const long = "a-name-that-is-longer-than-its-row.example.com"
	for _, host := range []string{"a", "ab", "A-Name-That-Is-Longer-Than", "a-name-that-is-longer-th", long, "münchen", ""} {
		if _, _, _, err := agents.Register(t.Context(), service.Registration{Hostname: host, Metadata: []byte("{}"), PollInterval: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, want := range map[string]int{
		"a": 1, "A": 1, "a*": 5, "ab*": 1, "abc*": 0, "a-name-that-is-longer-th": 1, "a-name-that-is-longer-tha": 0, "a-name-that-is-longer-th*": 3,
		"a-name-that-is-longer-than*": 2, long: 1, long + "*": 1, long + ".": 0, "A-NAME-THAT-IS-LONGER-THAN-*": 1, "münchen": 1, "m*": 1, "*": 7, "a*b": 0,
	} {
		if got := agents.List(service.Query{Hostname: pattern, Limit: 10}, newest(0), time.Now()).Total; got != want {
			t.Errorf("%s: got %d, want %d", pattern, got, want)
		}
	}
}

func TestList_InactiveHidden_HostsFound(t *testing.T) {
	db := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		agents, _ := openAgents(t, db)
		tokens := map[string]string{}
		for _, host := range []string{"web-1", "web-2", "Web-10", "db-1"} {
			_, token, _, err := agents.Register(t.Context(), service.Registration{ID: host, Hostname: host, Metadata: []byte("{}"), PollInterval: defaultInterval})
			if err != nil {
				t.Fatal(err)
			}
			tokens[host] = token
		}
		time.Sleep(inactiveAfter + time.Hour)
		for host, token := range tokens {
			if host != "web-2" {
				agents.Poll(login(t, agents, host, token), models.Poll{At: time.Now(), Interval: defaultInterval, Runs: 1, Transport: models.NATS})
			}
		}
		for name, row := range map[string]struct {
			query service.Query
			want  []string
		}{
			"nothing asked":       {service.Query{}, []string{"web-1", "Web-10", "db-1"}},
			"the inactive ones":   {service.Query{Status: models.Inactive}, []string{"web-2"}},
			"all":                 {service.Query{All: true}, []string{"web-1", "web-2", "Web-10", "db-1"}},
			"a host":              {service.Query{Hostname: "WEB-1"}, []string{"web-1"}},
			"some hosts":          {service.Query{Hostname: "web-*"}, []string{"web-1", "Web-10"}},
			"some hosts, all":     {service.Query{Hostname: "web-*", All: true}, []string{"web-1", "web-2", "Web-10"}},
			"no such host":        {service.Query{Hostname: "web"}, nil},
			"a host, by version":  {service.Query{Hostname: "db-1", Applied: 1}, []string{"db-1"}},
			"a host, not by that": {service.Query{Hostname: "db-1", Applied: 2}, nil},
		} {
			row.query.Limit = 10
			page := agents.List(row.query, newest(1), time.Now())
			var got []string
			for _, a := range page.Agents {
				got = append(got, a.ID)
			}
			if diff := cmp.Diff(row.want, got); diff != "" || page.Total != len(row.want) {
				t.Errorf("%s: %d in total, -want +got:\n%s", name, page.Total, diff)
			}
		}
		want := service.Summary{
			Total: 4, ByStatus: map[models.Status]int{models.Online: 3, models.Inactive: 1}, ByApplied: map[int64]int{1: 3}, ByTransport: map[models.Transport]int{models.NATS: 3},
		}
		if diff := cmp.Diff(want, agents.Summary(newest(1), time.Now())); diff != "" {
			t.Errorf("the summary, -want +got:\n%s", diff)
		}
	})
}

// Agents that come and go leave nothing behind, and disturb nobody who looks.
func TestTable_AgentsAddedAndRemoved_ListedOnce(t *testing.T) {
	store := &batches{}
	agents, _ := openAgents(t, store)
	stays, token := register(t, agents, "stays")
	live := login(t, agents, stays, token)
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for range 200 {
			agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Hour, Runs: 1})
			if page := agents.List(service.Query{Applied: 1, Limit: 1}, newest(1), time.Now()); page.Total != 1 {
				t.Errorf("got %d agents that run version 1, want one", page.Total)
			}
		}
	}()
	for i := range 5000 {
		id, _ := register(t, agents, fmt.Sprint("a", i))
		if i%100 == 0 {
			continue
		}
		if err := agents.Decommission(t.Context(), id, byAdmin); err != nil {
			t.Fatal(err)
		}
	}
	<-looked
	page := agents.List(service.Query{Limit: 100}, newest(1), time.Now())
	if page.Total != 51 || page.Agents[0].ID != "stays" || page.Agents[50].ID != "a4900" {
		t.Errorf("got %d agents, want 51 in the order of registration", page.Total)
	}
	agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Hour, Runs: 2})
	if page := agents.List(service.Query{Applied: 2, Limit: 1}, newest(2), time.Now()); page.Total != 1 {
		t.Errorf("a poll after it all: got %d agents that run version 2, want one", page.Total)
	}
}

func TestRun_AgentUnseenForPruneAfter_Removed(t *testing.T) {
	const pruneAfter = 24 * time.Hour
	db := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		before, _ := openAgents(t, db)
		register(t, before, "gone")
		time.Sleep(3 * pruneAfter) // the controller is away: nobody is to blame
		log, _ := logtest.NewNullLogger()
		agents, err := service.OpenAgents(t.Context(), db, noPlan(), service.AgentOptions{InactiveAfter: inactiveAfter, PruneAfter: pruneAfter}, log)
		if err != nil {
			t.Fatal(err)
		}
		id, token := register(t, agents, "stays")
		live := login(t, agents, id, token)
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

func TestAudit_RefusedLogins_Counted(t *testing.T) {
	db := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		log, _ := logtest.NewNullLogger()
		trail := service.NewTrail(db, log)
		for range 3 {
			trail.LoginFailed(byAdmin, "POST /api/v1/config")
		}
		entries, err := trail.Entries(t.Context(), "", 0, 10) // at once, for who looks
		if err != nil || len(entries) != 1 || entries[0].Origin != byAdmin || entries[0].Detail != "3 times, first on POST /api/v1/config" {
			t.Errorf("got %+v, %v, want one entry", entries, err)
		}
		for i := range 1000 { // somebody guesses, from everywhere
			trail.LoginFailed(models.Origin{Actor: "unknown", SourceIP: fmt.Sprint("192.0.2.", i)}, "GET /api/v1/agents")
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- trail.Run(ctx) }()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if entries, err = db.Audit(t.Context(), models.ActionLoginFailed, 1, 1000); err != nil || len(entries) != 0 {
			t.Errorf("before the first: got %v, %v", entries, err)
		}
		if entries, err = db.Audit(t.Context(), models.ActionLoginFailed, 0, 1000); err != nil || len(entries) != 34 || entries[0].Detail != "968 times from other addresses" {
			t.Errorf("got %d entries, %v, want 1, 32, and one for all others", len(entries), err)
		}
		trail.LoginFailed(byAdmin, "GET /api/v1/agents")
		stop()
		<-done
		if entries, err = db.Audit(t.Context(), "", 0, 1000); err != nil || len(entries) != 35 {
			t.Errorf("at the end: got %d entries, %v, want 35", len(entries), err)
		}
	})
}

// A controller that is restarted often removes agents all the same.
func TestAgents_PruneAcrossRestarts(t *testing.T) {
	db := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		log, _ := logtest.NewNullLogger()
		open := func() *service.Agents {
			agents, err := service.OpenAgents(t.Context(), db, noPlan(), service.AgentOptions{InactiveAfter: inactiveAfter, PruneAfter: 10 * day}, log)
			if err != nil {
				t.Fatal(err)
			}
			return agents
		}
		agents := open()
		register(t, agents, "gone")
		id, token := register(t, agents, "stays")
		run := func(d time.Duration) {
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- agents.Run(ctx) }()
			for range d / time.Hour {
				agents.Poll(login(t, agents, id, token), models.Poll{At: time.Now(), Interval: time.Hour, Runs: 1})
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
