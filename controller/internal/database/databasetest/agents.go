package databasetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func (d Driver) auditAppendOnly(t *testing.T) {
	store := d.Open(t)
	entry := models.Entry{
		At:     time.Date(2026, 11, 24, 2, 0, 0, 0, time.UTC),
		Origin: models.Origin{Actor: "admin", SourceIP: "192.0.2.1"},
		Action: models.ActionPublish, Version: 1, Detail: "why",
	}
	must(t, store.AppendAudit(t.Context(), entry))
	for _, statement := range []string{`UPDATE audit SET actor = 'another'`, `DELETE FROM audit`} {
		if err := d.Exec(t, store, statement); err == nil {
			t.Errorf("%s: got no error", statement)
		}
	}
	entry.Seq = 1
	store = d.Reopen(t, store)
	if got, err := store.Audit(t.Context(), "", 0, 10); err != nil || !cmp.Equal([]models.Entry{entry}, got) {
		t.Errorf("got %+v, %v, want %+v", got, err, entry)
	}
}

func (d Driver) auditPages(t *testing.T) {
	store := d.Open(t)
	var entries []models.Entry
	for i := range 6 {
		entry := models.Entry{Action: models.ActionPublish, Version: int64(i + 1)}
		if i%3 == 2 {
			entry.Action = models.ActionFreeze
		}
		entries = append(entries, entry)
	}
	must(t, store.AppendAudit(t.Context(), entries[:4]...))
	must(t, store.AppendAudit(t.Context(), entries[4:]...))
	for _, row := range []struct {
		action models.Action
		before int64
		limit  int
		want   []int64 // versions, which are as Seq
	}{
		{"", 0, 10, []int64{6, 5, 4, 3, 2, 1}},
		{"", 0, 2, []int64{6, 5}},
		{"", 5, 2, []int64{4, 3}},
		{"", 1, 10, nil},
		{models.ActionFreeze, 0, 10, []int64{6, 3}},
		{models.ActionFreeze, 6, 1, []int64{3}},
		{models.ActionPublish, 5, 2, []int64{4, 2}},
		{models.ActionReset, 0, 10, nil},
	} {
		page, err := store.Audit(t.Context(), row.action, row.before, row.limit)
		must(t, err)
		var got []int64
		for _, entry := range page {
			if entry.Seq != entry.Version {
				t.Errorf("got seq %d of entry %d", entry.Seq, entry.Version)
			}
			got = append(got, entry.Version)
		}
		equal(t, fmt.Sprintf("up to %d entries %q before %d", row.limit, row.action, row.before), row.want, got)
	}
}

func (d Driver) agents(t *testing.T) {
	store := d.Open(t)
	at := time.Date(2026, 11, 24, 2, 0, 0, 1000, time.UTC)
	a := models.Agent{
		ID: "a1", Hostname: "web-1", Metadata: []byte(`{"os":"linux"}`), RegisteredAt: at, Token: models.TokenHash{1},
		Presence: models.Presence{PollInterval: 30 * time.Second},
	}
	b := a
	b.ID = "b1"
	for _, agent := range []*models.Agent{&a, &b} {
		seq, err := store.SaveAgent(t.Context(), *agent)
		must(t, err)
		agent.Seq = seq
	}
	a.Presence = models.Presence{
		LastPoll: at.Add(time.Minute), PollInterval: 15 * time.Second, Transport: wire.NATS,
		Applied: 7, AppliedAt: at.Add(time.Second),
		Attempt:  wire.Attempt{Version: 8, Status: wire.Failed, Error: "not allowed", At: at.Add(time.Minute)},
		Refused:  models.Refusal{Version: 8, Error: "host not allowed"},
		Degraded: "connection refused",
	}
	presence := database.Presence{Seq: a.Seq, Presence: a.Presence, Reported: true}
	must(t, store.SavePresence(t.Context(), []database.Presence{presence}, models.Entry{Action: models.ActionRetry}))
	a.Hostname, a.Token, a.PreviousToken = "web-2", models.TokenHash{2}, models.TokenHash{1}
	a.Secret, a.Certificate = models.TokenHash{3}, "DNS:web-2"
	again := a
	again.Presence = models.Presence{PollInterval: time.Hour, Applied: 9}
	entry := models.Entry{At: at, Action: models.ActionReregister}
	if seq, err := store.SaveAgent(t.Context(), again, entry); err != nil || seq != a.Seq {
		t.Errorf("saving a known agent: got seq %d, %v, want %d", seq, err, a.Seq)
	}
	for _, action := range []models.Action{models.ActionRetry, models.ActionReregister} {
		if entries, err := store.Audit(t.Context(), action, 0, 10); err != nil || len(entries) != 1 {
			t.Errorf("the audit log: got %v, %v, want the entry %s saved with the agent", entries, err, action)
		}
	}
	store = d.Reopen(t, store)
	got, err := store.Agents(t.Context())
	if diff := cmp.Diff([]models.Agent{a, b}, got); err != nil || diff != "" {
		t.Errorf("agents after a restart (%v), -want +got:\n%s", err, diff)
	}
	removal := models.Entry{At: at, Action: models.ActionDecommission}
	must(t, store.DeleteAgents(t.Context(), []string{"a1", "unknown"}, removal))
	if got, err = store.Agents(t.Context()); err != nil || len(got) != 1 || got[0].ID != "b1" {
		t.Errorf("agents after a removal: got %v, %v", got, err)
	}
	if entries, err := store.Audit(t.Context(), removal.Action, 0, 10); err != nil || len(entries) != 1 {
		t.Errorf("the audit log: got %v, %v, want the entry of the removal", entries, err)
	}
}

func (d Driver) agentSequence(t *testing.T) {
	store := d.Open(t)
	first, second := register(t, store, "a1"), register(t, store, "a2")
	if first != 1 || second != 2 {
		t.Errorf("got seq %d and %d, want 1 and 2", first, second)
	}
	must(t, store.DeleteAgents(t.Context(), []string{"a1", "a2"}, models.Entry{}))
	store = d.Reopen(t, store)
	if seq := register(t, store, "a2"); seq <= second {
		t.Errorf("the next agent: got seq %d, want more than %d", seq, second)
	}
	late := models.Presence{Applied: 7, PollInterval: time.Hour}
	must(t, store.SavePresence(t.Context(), []database.Presence{{Seq: second, Presence: late, Reported: true}}))
	agents, err := store.Agents(t.Context())
	must(t, err)
	want := models.Presence{PollInterval: 30 * time.Second}
	if len(agents) != 1 || agents[0].Presence != want {
		t.Errorf("after a late write for the deleted agent: got %+v, want one agent with %+v", agents, want)
	}
}

func (d Driver) presenceGroups(t *testing.T) {
	store := d.Open(t)
	first, second := register(t, store, "a1"), register(t, store, "a2")
	at := time.Date(2026, 11, 24, 2, 0, 0, 1000, time.UTC)
	presence := func(n int64) models.Presence {
		return models.Presence{
			LastPoll: at.Add(time.Duration(n) * time.Hour), PollInterval: time.Duration(n) * time.Second,
			Transport: wire.Transports[n], Degraded: fmt.Sprint("degraded ", n),
			Applied: n, AppliedAt: at.Add(time.Duration(n) * time.Second),
			Attempt: wire.Attempt{Version: n, Status: wire.Failed, Error: fmt.Sprint("no ", n), At: at},
			Refused: models.Refusal{Version: n, Error: fmt.Sprint("refused ", n)},
		}
	}
	// mixed returns what polls say of one, and what reports say of the other.
	mixed := func(polls, reports models.Presence) models.Presence {
		reports.LastPoll, reports.PollInterval = polls.LastPoll, polls.PollInterval
		reports.Transport, reports.Degraded = polls.Transport, polls.Degraded
		return reports
	}
	check := func(what string, want ...models.Presence) {
		t.Helper()
		agents, err := store.Agents(t.Context())
		must(t, err)
		var got []models.Presence
		for _, agent := range agents {
			got = append(got, agent.Presence)
		}
		equal(t, what, want, got)
	}
	one, two, three := presence(1), presence(2), presence(3)
	must(t, store.SavePresence(t.Context(), []database.Presence{ // in descending order
		{Seq: second, Presence: one, Reported: true}, {Seq: first, Presence: one, Reported: true},
	}))
	check("all that is said", one, one)
	must(t, store.SavePresence(t.Context(), []database.Presence{
		{Seq: first, Presence: two}, {Seq: second, Presence: two, Reported: true},
	}))
	check("polls of the first", mixed(two, one), two)
	must(t, store.SaveReports(t.Context(), []database.Presence{
		{Seq: second, Presence: three}, {Seq: first, Presence: three},
	}))
	check("reports", mixed(two, three), mixed(two, three))
	store = d.Reopen(t, store)
	check("after a restart", mixed(two, three), mixed(two, three))
}

func (d Driver) presenceUnknown(t *testing.T) {
	store := d.Open(t)
	seq := register(t, store, "a1")
	said := models.Presence{LastPoll: time.Date(2026, 11, 24, 2, 0, 0, 0, time.UTC), Applied: 7}
	batch := []database.Presence{
		{Seq: 1000, Presence: said, Reported: true}, {Seq: seq, Presence: said, Reported: true},
	}
	must(t, store.SavePresence(t.Context(), batch, models.Entry{Action: models.ActionRetry}))
	must(t, store.SaveReports(t.Context(), batch))
	must(t, store.SavePresence(t.Context(), nil))
	must(t, store.SaveReports(t.Context(), nil))
	agents, err := store.Agents(t.Context())
	if err != nil || len(agents) != 1 || agents[0].Presence != said {
		t.Errorf("got %+v, %v, want the known agent, with its presence", agents, err)
	}
}
