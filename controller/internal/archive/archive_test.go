package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/archive"
	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/databasetest"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func open(t *testing.T, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// full creates a store with some of everything, and a gap between its versions. It
// stays open, as a controller keeps it.
func full(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "controller.db")
	db := open(t, path)
	at := time.Date(2026, 11, 24, 2, 0, 0, 123456000, time.UTC)
	for _, version := range []int64{1, 2, 10} {
		err := databasetest.Append(t.Context(), db, func(plan *models.Plan) (*models.Change, error) {
			content := models.Content{
				URL: fmt.Sprint("http://target/", version), PollInterval: 5 * time.Second, Probe: version == 2,
			}
			c := &models.Change{Config: &models.Config{
				Content: content, Version: version, ETag: models.Tags{Epoch: "e"}.Of(version, content),
				Message: "why ✓", PublishedBy: "admin", PublishedAt: at, SourceIP: "192.0.2.1",
			}}
			if version == 10 {
				c.Observed, c.Config.RestoredFrom = &models.Observed{Highest: 9}, 1
			}
			if plan.Newest != nil {
				c.Figures = &models.Figures{
					Targets: 2, Applied: 1, Failed: 1, FirstAppliedAt: at,
					Latency: models.Latency{
						Agents: 1, P50: time.Second, P90: time.Second, P99: time.Second, Max: time.Second,
					},
					Failures: []wire.RolloutFailure{{Error: "no", Count: 1, SampleAgents: []string{"a1"}}},
				}
			}
			c.Audit = []models.Entry{{
				At: at, Origin: models.Origin{Actor: "admin", SourceIP: "192.0.2.1"},
				Action: models.ActionPublish, Version: version, Detail: "why",
			}}
			return c, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	freeze := &models.Change{
		Freeze: &models.Freeze{Reason: "sale", Until: at.Add(time.Hour), By: "admin", At: at},
		Audit:  []models.Entry{{At: at, Action: models.ActionFreeze}},
	}
	err := databasetest.Append(t.Context(), db, func(*models.Plan) (*models.Change, error) { return freeze, nil })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		a := models.Agent{
			ID: fmt.Sprint("a", i), Hostname: "web", Metadata: []byte(`{"os":"linux"}`), RegisteredAt: at,
			Token: models.TokenHash{1, 2, 3}, Secret: models.TokenHash{4, 5, 6}, Certificate: "DNS:a",
		}
		a.PollInterval = 5 * time.Second
		if _, err := db.SaveAgent(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	err = db.SavePresence(t.Context(), []database.Presence{{Seq: 2, Reported: true, Presence: models.Presence{
		LastPoll: at, PollInterval: 5 * time.Second, Applied: 2, AppliedAt: at,
		Attempt: wire.Attempt{Version: 10, Status: wire.Failed, Error: "no", At: at},
		Refused: models.Refusal{Version: 10, Error: "no"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func export(t *testing.T, path string) string {
	t.Helper()
	snapshot, err := sqlite.OpenSnapshot(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = snapshot.Close() }()
	var out bytes.Buffer
	if _, err := archive.Write(t.Context(), snapshot, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func fill(t *testing.T, db *sqlite.DB, text string) (counts archive.Counts, err error) {
	t.Helper()
	err = db.Fill(t.Context(), func(f *sqlite.Filling) (err error) {
		counts, err = archive.Read(t.Context(), strings.NewReader(text), f)
		return err
	})
	return counts, err
}

func TestArchive_ExportImport_RoundTrip(t *testing.T) {
	text := export(t, full(t))
	if strings.Contains(text, "token") || strings.Contains(text, "secret") || strings.Contains(text, "\x01") {
		t.Errorf("got secrets in\n%s", text)
	}
	path := filepath.Join(t.TempDir(), "new.db")
	db := open(t, path)
	counts, err := fill(t, db, text)
	if want := (archive.Counts{Configs: 3, Entries: 4, Agents: 3}); err != nil || counts != want {
		t.Fatalf("got %+v, %v, want %+v", counts, err, want)
	}
	if diff := cmp.Diff(text, export(t, path)); diff != "" {
		t.Errorf("exported again, -want +got:\n%s", diff)
	}
	if key := `"etag_key":"`; !strings.Contains(text, key) {
		t.Errorf("got no %s in\n%s", key, text)
	}
	if _, err := fill(t, db, text); !errors.Is(err, sqlite.ErrNotEmpty) {
		t.Errorf("once more: got %v, want ErrNotEmpty", err)
	}
	agents, err := db.Agents(t.Context())
	none := models.TokenHash{}
	if err != nil || len(agents) != 3 || agents[1].Token != none || agents[1].Secret != none ||
		agents[1].Certificate != "" || !agents[1].Refuses(10) {
		t.Errorf("agents: got %+v, %v, want them without tokens, secrets and certificates", agents, err)
	}
}

// Nothing is stored of an archive that is rejected.
func TestRead_NotAnArchive_Rejected(t *testing.T) {
	lines := strings.SplitAfter(strings.TrimSuffix(export(t, full(t)), "\n"), "\n")
	lines[len(lines)-1] += "\n"
	with := func(at int, old, with string) string {
		changed := append([]string(nil), lines...)
		if changed[at] = strings.Replace(changed[at], old, with, 1); changed[at] == lines[at] {
			t.Fatalf("line %d has no %s: %s", at+1, old, lines[at])
		}
		return strings.Join(changed, "")
	}
	without := func(at int) string {
		return strings.Join(append(append([]string(nil), lines[:at]...), lines[at+1:]...), "")
	}
	const firstConfig, firstAgent = 1, 11
	twice := func(at int) string { return strings.Join(lines[:at+1], "") + strings.Join(lines[at:], "") }
	for name, row := range map[string]struct{ text, want string }{
		"nothing":                {"", "line 1"},
		"a page":                 {"<html>", "line 1: it is no JSON object"},
		"no beginning":           {without(0), `line 1: it is of kind "config"`},
		"no end":                 {without(len(lines) - 1), "cut off"},
		"a line that is missing": {without(firstAgent), "lines"},
		"a line after the end":   {strings.Join(lines, "") + lines[1], "after the end"},
		"a later format":         {with(0, `"format":3`, `"format":4`), "newer controller"},
		"a short key":            {with(0, `"etag_key":"`, `"etag_key":"AAAA`), "line 1: etag_key"},
		"a key before there was": {with(0, `"format":3`, `"format":1`), "line 1: etag_key"},
		"an unknown kind":        {with(firstConfig, `"kind":"config"`, `"kind":"secret"`), "line 2"},
		"an unknown field":       {with(firstConfig, `"message"`, `"massage"`), "line 2: massage"},
		"a wrong type":           {with(firstConfig, `"version":1`, `"version":"1"`), "line 2: version"},
		"a bad URL":              {with(firstConfig, "http://target/1", "ftp://target/1"), "line 2: data.url"},
		"a version twice":        {twice(firstConfig), "line 3: version"},
		"a bad agent":            {with(firstAgent, `"hostname":"web"`, `"hostname":""`), "hostname"},
		"an agent twice":         {twice(firstAgent), "line"},
		"half a line":            {strings.Join(lines[:3], "")[:300], "line"},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, filepath.Join(t.TempDir(), "new.db"))
			if _, err := fill(t, db, row.text); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
			if _, err := databasetest.Newest(t.Context(), db); !errors.Is(err, models.ErrNotFound) {
				t.Errorf("the newest version: got %v, want ErrNotFound", err)
			}
			if agents, err := db.Agents(t.Context()); err != nil || len(agents) != 0 {
				t.Errorf("agents were stored: %v, %v", agents, err)
			}
		})
	}
}

// Earlier builds stored metadata of up to 8 KiB and any depth, instead of 4 KiB and 16
// levels.
func TestRead_MetadataOfEarlierBuild_BoundedTo8KiB(t *testing.T) {
	text, small := export(t, full(t)), `"metadata":{"os":"linux"}`
	if !strings.Contains(text, small) {
		t.Fatalf("no agent has %s:\n%s", small, text)
	}
	object := func(length int) string { return `{"k":"` + strings.Repeat("x", length-len(`{"k":""}`)) + `"}` }
	for name, row := range map[string]struct {
		metadata string
		accepted bool
	}{
		"longest":  {object(8 << 10), true},
		"nested":   {strings.Repeat(`{"k":`, 100) + "1" + strings.Repeat("}", 100), true},
		"too long": {object(8<<10 + 1), false},
		"an array": {"[]", false},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, filepath.Join(t.TempDir(), "new.db"))
			_, err := fill(t, db, strings.ReplaceAll(text, small, `"metadata":`+row.metadata))
			switch {
			case !row.accepted && (err == nil || !strings.Contains(err.Error(), "metadata")):
				t.Errorf("got %v, want metadata rejected", err)
			case row.accepted && err != nil:
				t.Error(err)
			case row.accepted:
				agents, err := db.Agents(t.Context())
				if err != nil || len(agents) != 3 || string(agents[0].Metadata) != row.metadata {
					t.Errorf("got %+v, %v, want 3 agents with their metadata", agents, err)
				}
			}
		})
	}
}

// inFormat returns an archive as a build with that format wrote it.
func inFormat(format int, text string) string {
	const figures = `"figures":{"Targets":2,"Applied":1,"Failed":1,"Pending":0,"Offline":0,"Degraded":1,` +
		`"FirstAppliedAt":"2026-11-24T02:00:00.123456Z","Latency":{"Agents":1,"P50":1,"P90":2,"P99":3,"Max":4},` +
		`"Failures":[{"Error":"no","Count":1,"Samples":["a1"]}],"Stragglers":[{"ID":"a2","Hostname":"web",` +
		`"Status":"stale","Applied":7,"LastPoll":"2026-11-24T02:00:00.123456Z"}]}}`
	text = strings.Replace(text, `"format":3`, fmt.Sprint(`"format":`, format), 1)
	text = regexp.MustCompile(`"figures":.*}`).ReplaceAllString(text, figures)
	if format < 2 {
		text = regexp.MustCompile(`"etag_key":"[^"]*",`).ReplaceAllString(text, "")
	}
	return text
}

// An archive of a build whose ETags had no keyed hash.
func TestRead_FormatWithoutKey_Accepted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.db")
	db := open(t, path)
	if _, err := fill(t, db, inFormat(1, export(t, full(t)))); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if tags := open(t, path).Tags(); tags.Epoch == "" || len(tags.Key) != models.KeyBytes || tags.UnkeyedUpTo != 10 {
		t.Errorf("got %+v, want a key, and ETags without keyed hash accepted up to version 10", tags)
	}
}

// An archive of a build that wrote figures under the names of Go fields.
func TestRead_FiguresUnderFieldNames_Accepted(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "new.db"))
	text := inFormat(2, export(t, full(t)))
	if _, err := fill(t, db, strings.Replace(text, `"Targets"`, `"targets_of"`, 1)); err == nil ||
		!strings.Contains(err.Error(), "line 5: figures") {
		t.Errorf("with an unknown name: got %v, want it rejected", err)
	}
	if _, err := fill(t, db, text); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 24, 2, 0, 0, 123456000, time.UTC)
	want := models.Figures{
		Targets: 2, Applied: 1, Failed: 1, Degraded: 1, FirstAppliedAt: at,
		Latency:    models.Latency{Agents: 1, P50: 1, P90: 2, P99: 3, Max: 4},
		Failures:   []wire.RolloutFailure{{Error: "no", Count: 1, SampleAgents: []string{"a1"}}},
		Stragglers: []models.Straggler{{ID: "a2", Hostname: "web", Status: wire.Stale, Applied: 7, LastPoll: at}},
	}
	for version, supersededBy := range map[int64]int64{1: 2, 2: 10} {
		got, by, err := db.Figures(t.Context(), version)
		if diff := cmp.Diff(want, got); err != nil || diff != "" || by != supersededBy {
			t.Errorf("version %d: got it superseded by %d (%v), -want +got:\n%s", version, by, err, diff)
		}
	}
}

// The first registration of an imported agent is accepted with any secret, and keeps its
// id.
func TestArchive_ImportedAgentRegisters_KeepsItsID(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "new.db"))
	if _, err := fill(t, db, export(t, full(t))); err != nil {
		t.Fatal(err)
	}
	log, _ := logtest.NewNullLogger()
	plan, err := publish.Load(t.Context(), db, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	agents, err := registry.Open(t.Context(), db, plan, registry.Options{}, log)
	if err != nil {
		t.Fatal(err)
	}
	again := registry.Registration{ID: "a1", Hostname: "web", Metadata: []byte("{}"), Secret: strings.Repeat("s", 43)}
	for range 2 {
		if id, _, isNew, err := agents.Register(t.Context(), again); err != nil || isNew || id != "a1" {
			t.Errorf("got %q, new %v, %v, want the imported agent", id, isNew, err)
		}
	}
	again.Secret = strings.Repeat("t", 43)
	if _, _, _, err := agents.Register(t.Context(), again); !errors.Is(err, models.ErrSecret) {
		t.Errorf("with another secret: got %v, want ErrSecret", err)
	}
	if page := agents.List(census.Query{All: true, Limit: 10}, plan.Load(), time.Now()); page.Total != 3 {
		t.Errorf("got %d agents, want the three imported ones", page.Total)
	}
}
