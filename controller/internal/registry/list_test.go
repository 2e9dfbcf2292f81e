package registry_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func TestList_HostnamesOfAnyLength_Found(t *testing.T) {
	agents := newAgents(t)
	const long = "a-name-that-is-longer-than-its-row.example.com"
	for _, host := range []string{
		"a", "ab", "A-Name-That-Is-Longer-Than", "a-name-that-is-longer-th", long, "münchen", "",
	} {
		if _, _, _, err := agents.Register(
			t.Context(), registry.Registration{Hostname: host, Metadata: []byte("{}"), PollInterval: time.Hour},
		); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, want := range map[string]int{
		"a": 1, "A": 1, "a*": 5, "ab*": 1, "abc*": 0, "a-name-that-is-longer-th": 1, "a-name-that-is-longer-tha": 0,
		"a-name-that-is-longer-th*":   3,
		"a-name-that-is-longer-than*": 2, long: 1, long + "*": 1, long + ".": 0, "A-NAME-THAT-IS-LONGER-THAN-*": 1,
		"münchen": 1, "m*": 1, "*": 7, "a*b": 0,
	} {
		if got := agents.List(
			census.Query{Hostname: pattern, Limit: 10}, fleettest.Newest(0), time.Now(),
		).Total; got != want {
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
			_, token, _, err := agents.Register(t.Context(), registry.Registration{
				ID: host, Hostname: host, Metadata: []byte("{}"), PollInterval: fleettest.DefaultInterval,
			})
			if err != nil {
				t.Fatal(err)
			}
			tokens[host] = token
		}
		time.Sleep(fleettest.InactiveAfter + time.Hour)
		for host, token := range tokens {
			if host != "web-2" {
				agents.Poll(
					fleettest.Login(t, agents, host, token),
					models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: 1, Transport: wire.NATS},
				)
			}
		}
		for name, row := range map[string]struct {
			query census.Query
			want  []string
		}{
			"no filter":           {census.Query{}, []string{"web-1", "Web-10", "db-1"}},
			"inactive":            {census.Query{Status: wire.Inactive}, []string{"web-2"}},
			"all":                 {census.Query{All: true}, []string{"web-1", "web-2", "Web-10", "db-1"}},
			"a host":              {census.Query{Hostname: "WEB-1"}, []string{"web-1"}},
			"some hosts":          {census.Query{Hostname: "web-*"}, []string{"web-1", "Web-10"}},
			"some hosts, all":     {census.Query{Hostname: "web-*", All: true}, []string{"web-1", "web-2", "Web-10"}},
			"no such host":        {census.Query{Hostname: "web"}, nil},
			"a host, by version":  {census.Query{Hostname: "db-1", Applied: 1}, []string{"db-1"}},
			"host, other version": {census.Query{Hostname: "db-1", Applied: 2}, nil},
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
		want := census.Summary{
			Total: 4, ByStatus: map[wire.AgentStatus]int{wire.Online: 3, wire.Inactive: 1},
			ByApplied: map[int64]int{1: 3}, ByTransport: map[wire.Transport]int{wire.NATS: 3},
		}
		if diff := cmp.Diff(want, agents.Summary(fleettest.Newest(1), time.Now())); diff != "" {
			t.Errorf("the summary, -want +got:\n%s", diff)
		}
	})
}

// Removed agents are not listed, and do not disturb concurrent lists.
func TestTable_AgentsAddedAndRemoved_ListedOnce(t *testing.T) {
	store := &fleettest.Batches{}
	agents, _ := fleettest.OpenAgents(t, store)
	stays, token := fleettest.Register(t, agents, "stays")
	live := fleettest.Login(t, agents, stays, token)
	listed := make(chan struct{})
	go func() {
		defer close(listed)
		for range 200 {
			agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Hour, Runs: 1})
			if page := agents.List(
				census.Query{Applied: 1, Limit: 1}, fleettest.Newest(1), time.Now(),
			); page.Total != 1 {
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
	<-listed
	page := agents.List(census.Query{Limit: 100}, fleettest.Newest(1), time.Now())
	if page.Total != 51 || page.Agents[0].ID != "stays" || page.Agents[50].ID != "a4900" {
		t.Errorf("got %d agents, want 51 in the order of registration", page.Total)
	}
	agents.Poll(live, models.Poll{At: time.Now(), Interval: time.Hour, Runs: 2})
	if page := agents.List(census.Query{Applied: 2, Limit: 1}, fleettest.Newest(2), time.Now()); page.Total != 1 {
		t.Errorf("a poll after the removals: got %d agents that run version 2, want one", page.Total)
	}
}

func TestList_AnyLimit_AllPages(t *testing.T) {
	agents := newAgents(t)
	ids := []string{}
	for i := range 7 {
		id, token := fleettest.Register(t, agents, fmt.Sprintf("a%d", i))
		ids = append(ids, id)
		if i%2 == 0 {
			agents.Poll(
				fleettest.Login(t, agents, id, token), models.Poll{At: time.Now(), Interval: time.Minute, Runs: 1},
			)
		}
	}
	if err := agents.Decommission(t.Context(), "a3", fleettest.ByAdmin); err != nil {
		t.Fatal(err)
	}
	ids = append(ids[:3], ids[4:]...)
	for name, row := range map[string]struct {
		query census.Query
		want  []string
	}{
		"all":              {census.Query{}, ids},
		"by version":       {census.Query{Applied: 1}, []string{"a0", "a2", "a4", "a6"}},
		"by status":        {census.Query{Status: wire.Online}, ids},
		"by status, none":  {census.Query{Status: wire.Offline}, nil},
		"by version, none": {census.Query{Applied: 9}, nil},
	} {
		for limit := 1; limit <= 8; limit++ {
			var got []string
			q := row.query
			q.Limit = limit
			for more := true; more; {
				page := agents.List(q, fleettest.Newest(1), time.Now())
				if page.Total != len(row.want) || len(page.Agents) > limit {
					t.Fatalf(
						"%s, %d a page: got %d of %d, want a total of %d", name, limit, len(page.Agents), page.Total,
						len(row.want),
					)
				}
				for _, a := range page.Agents {
					got = append(got, a.ID)
					q.After = a.Seq
				}
				more = page.More
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("%s, %d a page, -want +got:\n%s", name, limit, diff)
			}
		}
	}
}
