package sqlite_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fleetconf/fleetconf/controller/internal/database/databasetest"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const (
	insertConfig = `INSERT INTO configs
		(version, url, poll_interval_seconds, etag, message, published_by, published_at, source_ip) VALUES `
	insertAgent = `INSERT INTO agents
		(seq, id, hostname, metadata, registered_at, token, previous_token, poll_interval_seconds) VALUES `
)

// A store of a build without keyed hashes gets a key once, and accepts its ETags of
// before.
func TestOpen_ETagsWithoutKey_Accepted(t *testing.T) {
	path := newPath(t)
	sqlite.MakeAtSchema(t, path, 3, `INSERT INTO store (only_row, epoch) VALUES (1, 'e')`,
		insertConfig+`(1, 'http://a/', 30, '"1-AAAAAAAAAAAAAAAAAAAAAA"', '', 'admin', 1, '')`,
		insertConfig+`(2, 'http://b/', 30, '"2-AAAAAAAAAAAAAAAAAAAAAA"', '', 'admin', 1, '')`)
	db := open(t, path)
	first := db.Tags()
	if first.Epoch != "e" || len(first.Key) != models.KeyBytes || first.UnkeyedUpTo != 2 {
		t.Errorf("got %+v, want the epoch e, a key, and 2", first)
	}
	newest, err := databasetest.Newest(t.Context(), db)
	if err != nil || newest.ETag != `"2-AAAAAAAAAAAAAAAAAAAAAA"` {
		t.Errorf("newest version: got %+v, %v, want it with its ETag", newest, err)
	}
	if err := databasetest.Publish(db, "http://c/"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, open(t, path).Tags()); diff != "" {
		t.Errorf("after a restart, -want +got:\n%s", diff)
	}
}

// Agents of a build without secrets keep their ids, tokens and versions, and can register
// once without a secret.
func TestOpen_SchemaThree_KeepsAgents(t *testing.T) {
	path := newPath(t)
	sqlite.MakeAtSchema(t, path, 3, `INSERT INTO agents
		(id, hostname, metadata, registered_at, token, previous_token, poll_interval_seconds, applied_version)
		VALUES ('a1', 'web-1', '{}', 1, X'`+strings.Repeat("01", 32)+`', X'`+strings.Repeat("00", 32)+`', 30, 7)`)
	got, err := open(t, path).Agents(t.Context())
	want := models.Agent{
		Seq: 1, ID: "a1", Hostname: "web-1", Metadata: []byte("{}"), RegisteredAt: time.UnixMicro(1).UTC(),
		Token:    models.TokenHash([]byte(strings.Repeat("\x01", 32))),
		Presence: models.Presence{PollInterval: 30 * time.Second, Applied: 7},
	}
	if diff := cmp.Diff([]models.Agent{want}, got); err != nil || diff != "" {
		t.Errorf("agents (%v), -want +got:\n%s", err, diff)
	}
}

// Stores of builds without a table for presence.
func TestOpen_PresenceAmongAgents_KeepsAgents(t *testing.T) {
	for schema := int64(7); schema <= 8; schema++ {
		t.Run(fmt.Sprint("schema ", schema), func(t *testing.T) {
			path := newPath(t)
			sqlite.MakeAtSchema(t, path, schema,
				insertAgent+`(3, 'a3', 'web-3', '{}', 1, zeroblob(32), zeroblob(32), 30)`,
				`INSERT INTO agents VALUES (5, 'a5', 'web-5', '{"os":"linux"}', 1, X'`+
					strings.Repeat("01", 32)+`', X'`+strings.Repeat("02", 32)+
					`', 2, 15, 7, 8, 'FAILED', 'no', 3, 8, 4, 'no room', 'longpoll', X'`+
					strings.Repeat("03", 32)+`', 'DNS:web-5', 'connection refused')`,
				insertAgent+`(9, 'a9', 'web-9', '{}', 1, zeroblob(32), zeroblob(32), 30)`,
				`DELETE FROM agents WHERE id = 'a9'`)
			at := func(us int64) time.Time { return time.UnixMicro(us).UTC() }
			hash := func(b byte) models.TokenHash { return models.TokenHash(bytes.Repeat([]byte{b}, 32)) }
			want := []models.Agent{
				{
					Seq: 3, ID: "a3", Hostname: "web-3", Metadata: []byte("{}"), RegisteredAt: at(1),
					Presence: models.Presence{PollInterval: 30 * time.Second},
				},
				{
					Seq: 5, ID: "a5", Hostname: "web-5", Metadata: []byte(`{"os":"linux"}`), RegisteredAt: at(1),
					Token: hash(1), PreviousToken: hash(2), Secret: hash(3), Certificate: "DNS:web-5",
					Presence: models.Presence{
						LastPoll: at(2), PollInterval: 15 * time.Second, Transport: wire.LongPoll,
						Applied: 7, AppliedAt: at(4),
						Attempt:  wire.Attempt{Version: 8, Status: wire.Failed, Error: "no", At: at(3)},
						Refused:  models.Refusal{Version: 8, Error: "no room"},
						Degraded: "connection refused",
					},
				},
			}
			db := open(t, path)
			got, err := db.Agents(t.Context())
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("agents (%v), -want +got:\n%s", err, diff)
			}
			seq, err := db.SaveAgent(t.Context(), models.Agent{ID: "b", Metadata: []byte("{}")})
			if err != nil || seq != 10 {
				t.Errorf("the next agent: got seq %d, %v, want 10, above that of the deleted agent", seq, err)
			}
		})
	}
}

// Stores of builds that stored figures under the names of Go fields, the first of them
// without Degraded.
func TestOpen_FiguresUnderFieldNames_Kept(t *testing.T) {
	for schema := int64(7); schema <= 9; schema++ {
		t.Run(fmt.Sprint("schema ", schema), func(t *testing.T) {
			path := newPath(t)
			sqlite.MakeAtSchema(t, path, schema,
				`INSERT INTO store (only_row, epoch) VALUES (1, 'e')`,
				insertConfig+`(1, 'http://a/', 30, '"1"', '', 'admin', 1, '')`,
				insertConfig+`(2, 'http://b/', 30, '"2"', '', 'admin', 1, '')`,
				insertConfig+`(3, 'http://c/', 30, '"3"', '', 'admin', 1, '')`,
				`INSERT INTO rollouts VALUES (1, 2, '{"Targets":9,"Applied":4,"Failed":2,"Pending":2,"Offline":1,'||
					'"Degraded":3,"FirstAppliedAt":"2026-11-24T02:00:00.123456Z",'||
					'"Latency":{"Agents":4,"P50":1,"P90":2,"P99":3,"Max":4000000000},"Failures":['||
					'{"Error":"no \"room\" ✓\n","Count":2,"Samples":["a1","a2"]},'||
					'{"Error":"b","Count":1,"Samples":null}],"Stragglers":['||
					'{"ID":"a3","Hostname":"web","Status":"online","Applied":7,"LastPoll":"2026-11-24T02:00:01Z"},'||
					'{"ID":"a4","Hostname":"web","Status":"offline","Applied":0,'||
					'"LastPoll":"0001-01-01T00:00:00Z"}]}')`,
				`INSERT INTO rollouts VALUES (2, 3, '{"Targets":1,"Applied":0,"Failed":0,"Pending":1,"Offline":0,'||
					'"FirstAppliedAt":"0001-01-01T00:00:00Z","Latency":{"Agents":0,"P50":0,"P90":0,"P99":0,"Max":0},'||
					'"Failures":null,"Stragglers":null}')`)
			at := time.Date(2026, 11, 24, 2, 0, 0, 0, time.UTC)
			want := []models.Figures{
				{
					Targets: 9, Applied: 4, Failed: 2, Pending: 2, Offline: 1, Degraded: 3,
					FirstAppliedAt: at.Add(123456 * time.Microsecond),
					Latency:        models.Latency{Agents: 4, P50: 1, P90: 2, P99: 3, Max: 4 * time.Second},
					Failures: []wire.RolloutFailure{
						{Error: "no \"room\" ✓\n", Count: 2, SampleAgents: []string{"a1", "a2"}},
						{Error: "b", Count: 1},
					},
					Stragglers: []models.Straggler{
						{ID: "a3", Hostname: "web", Status: wire.Online, Applied: 7, LastPoll: at.Add(time.Second)},
						{ID: "a4", Hostname: "web", Status: wire.Offline},
					},
				},
				{Targets: 1, Pending: 1},
			}
			db := open(t, path)
			for i, want := range want {
				got, by, err := db.Figures(t.Context(), int64(i+1))
				if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" || by != int64(i+2) {
					t.Errorf("version %d: got it superseded by %d (%v), -want +got:\n%s", i+1, by, err, diff)
				}
			}
		})
	}
}
