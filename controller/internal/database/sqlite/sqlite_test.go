package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/databasetest"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// A store of a build without keyed hashes gets a key once, and accepts the ETags that
// it had made by then.
func TestOpen_MigratesToKeyedETags(t *testing.T) {
	path := newPath(t)
	sqlite.MakeAtSchema(t, path, 3, `INSERT INTO store (only_row, epoch) VALUES (1, 'e')`,
		`INSERT INTO configs (version, url, poll_interval_seconds, etag, message, published_by, published_at, source_ip)
			VALUES (1, 'http://a/', 30, '"1-AAAAAAAAAAAAAAAAAAAAAA"', '', 'admin', 1, ''), (2, 'http://b/', 30, '"2-AAAAAAAAAAAAAAAAAAAAAA"', '', 'admin', 1, '')`)
	db := open(t, path)
	first := db.Tags()
	if first.Epoch != "e" || len(first.Key) != models.KeyBytes || first.UnkeyedUpTo != 2 {
		t.Errorf("got %+v, want the epoch e, a key, and 2", first)
	}
	newest, err := databasetest.Newest(t.Context(), db)
	if err != nil || newest.ETag != `"2-AAAAAAAAAAAAAAAAAAAAAA"` {
		t.Errorf("the newest: got %+v, %v, want it with its ETag", newest, err)
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

func TestOpen_IsDurable(t *testing.T) {
	path := newPath(t)
	open(t, path)
	raw := outside(t, path)
	var mode string
	if err := raw.QueryRow(`PRAGMA journal_mode`).Scan(&mode); err != nil || mode != "wal" {
		t.Errorf("journal_mode: got %q, %v, want wal", mode, err)
	}
	rows, err := raw.Query(`SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND strict = 0
		AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose_%'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		_ = rows.Scan(&name)
		t.Errorf("table %s is not STRICT", name)
	}
}

// A commit that finds the disk full is not in doubt, unlike any other that fails.
func TestCommitError_FullDisk_NotInDoubt(t *testing.T) {
	full := sqlite3.Error{Code: sqlite3.ErrFull}
	if got := sqlite.CommitError(full); !errors.Is(got, full) || errors.Is(got, database.ErrInDoubt) {
		t.Errorf("on a full disk: got %v, want that error alone", got)
	}
}

func TestOpen_Refuses(t *testing.T) {
	for name, row := range map[string]struct {
		prepare func(t *testing.T, path string)
		want    string
	}{
		"a file that is no database": {
			func(t *testing.T, path string) { write(t, path, strings.Repeat("not a database ", 100)) },
			"damaged or is no SQLite database",
		},
		"a damaged database": {
			func(t *testing.T, path string) {
				db := open(t, path)
				for range 200 {
					if err := databasetest.Publish(db, "http://a/"+strings.Repeat("a", 500)); err != nil {
						t.Fatal(err)
					}
				}
				_ = db.Close()
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				copy(b[len(b)/2:], strings.Repeat("\xff", 3*4096))
				write(t, path, string(b))
			},
			"damaged or is no SQLite database",
		},
		"a database of a newer build": {
			func(t *testing.T, path string) {
				_ = open(t, path).Close()
				exec(t, outside(t, path), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
			},
			"a newer controller has written it",
		},
		"another program's database": {
			func(t *testing.T, path string) {
				raw := outside(t, path)
				exec(t, raw, `CREATE TABLE agents (name TEXT)`)
				_ = raw.Close()
			},
			"the database of another program",
		},
		"a link to a database that is open": {
			func(t *testing.T, path string) {
				held := newPath(t)
				open(t, held)
				if err := os.Symlink(held, path); err != nil {
					t.Fatal(err)
				}
			},
			"another controller has it open",
		},
		"a database that is open": {
			func(t *testing.T, path string) { open(t, path) },
			"another controller has it open",
		},
		"a folder that is not there": {
			func(t *testing.T, path string) {
				if err := os.Remove(filepath.Dir(path)); err != nil {
					t.Fatal(err)
				}
			},
			"in a folder that is there",
		},
		"a lock file that is a pipe": {
			func(t *testing.T, path string) {
				if err := syscall.Mkfifo(path+".lock", 0o600); err != nil {
					t.Fatal(err)
				}
			},
			".lock is a named pipe",
		},
		"a lock file that is a link": {
			func(t *testing.T, path string) {
				if err := os.Symlink(path+".elsewhere", path+".lock"); err != nil {
					t.Fatal(err)
				}
			},
			".lock is a link",
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			row.prepare(t, path)
			before, _ := os.ReadFile(path)
			opened := make(chan error, 1)
			go func() { _, err := sqlite.Open(t.Context(), path); opened <- err }()
			var err error
			select {
			case err = <-opened:
			case <-time.After(time.Minute):
				t.Fatal("Open does not return")
			}
			if _, made := os.Lstat(path + ".elsewhere"); made == nil {
				t.Error("the target of a link was made")
			}
			if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error that says %q and names the file", err, row.want)
			}
			if after, _ := os.ReadFile(path); string(before) != string(after) {
				t.Error("the file was changed")
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpen_NewFile_Mode0600(t *testing.T) {
	path := newPath(t)
	open(t, path)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(path + suffix); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want mode 0600", path+suffix, info.Mode(), err)
		}
	}
}

func TestPing_Failure_SaysWhy(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("when all is well: %v", err)
	}
	restore := sqlite.LimitPages(t, db)
	if err := databasetest.Publish(db, "http://a/"+strings.Repeat("a", 20_000)); !errors.Is(err, database.ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	for range 2 {
		if err := db.Ping(t.Context()); !errors.Is(err, database.ErrFull) {
			t.Errorf("while publishes fail: got %v, want ErrFull", err)
		}
		sqlite.ForgetProbe(db)
	}
	restore()
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("when there is room again, and nobody writes: %v", err)
	}
	tx, err := outside(t, path).BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sqlite.ShortenBusyTimeout(t, db)
	if err := databasetest.Publish(db, "http://a/"); !errors.Is(err, database.ErrBusy) {
		t.Fatalf("got %v, want ErrBusy", err)
	}
	if err := db.Ping(t.Context()); !errors.Is(err, database.ErrBusy) {
		t.Errorf("while it is locked: got %v, want ErrBusy", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	sqlite.ForgetProbe(db)
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("with the lock free again: %v", err)
	}
	if err := os.Rename(path, path+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := db.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "removed or replaced") {
		t.Errorf("when its file is gone: got %v", err)
	}
}

func TestOpen_OddFileNames_Opened(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{"a b?c=d#e%20f.db", ":memory:", "//" + dir + "/slashes.db"} {
		db := open(t, name)
		if err := databasetest.Publish(db, "http://a/"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A database of the build before agents had secrets: its agents keep their ids,
// tokens and what they run, and may register once without a secret.
func TestOpen_SchemaThree_KeepsAgents(t *testing.T) {
	path := newPath(t)
	raw := outside(t, path)
	provider, err := goose.NewProvider(goose.DialectSQLite3, raw, os.DirFS("migrations"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.UpTo(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	exec(t, raw, `INSERT INTO agents
		(id, hostname, metadata, registered_at, token, previous_token, poll_interval_seconds, applied_version)
		VALUES ('a1', 'web-1', '{}', 1, X'`+strings.Repeat("01", 32)+`', X'`+strings.Repeat("00", 32)+`', 30, 7)`)
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
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

// Databases of the builds before presence had a table of its own.
func TestOpen_PresenceAmongAgents_KeepsAgents(t *testing.T) {
	for schema := int64(7); schema <= 8; schema++ {
		t.Run(fmt.Sprint("schema ", schema), func(t *testing.T) {
			path := newPath(t)
			sqlite.MakeAtSchema(t, path, schema,
				`INSERT INTO agents (seq, id, hostname, metadata, registered_at, token, previous_token, poll_interval_seconds)
					VALUES (3, 'a3', 'web-3', '{}', 1, zeroblob(32), zeroblob(32), 30)`,
				`INSERT INTO agents VALUES (5, 'a5', 'web-5', '{"os":"linux"}', 1, X'`+strings.Repeat("01", 32)+`', X'`+
					strings.Repeat("02", 32)+`', 2, 15, 7, 8, 'FAILED', 'no', 3, 8, 4, 'no room', 'longpoll', X'`+
					strings.Repeat("03", 32)+`', 'DNS:web-5', 'connection refused')`,
				`INSERT INTO agents (seq, id, hostname, metadata, registered_at, token, previous_token, poll_interval_seconds)
					VALUES (9, 'a9', 'web-9', '{}', 1, zeroblob(32), zeroblob(32), 30)`,
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
						LastPoll: at(2), PollInterval: 15 * time.Second, Transport: wire.LongPoll, Applied: 7, AppliedAt: at(4),
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
				t.Errorf("the next agent: got seq %d, %v, want 10: that of a deleted agent is not used again", seq, err)
			}
		})
	}
}

// The figures of builds that stored them under the names of Go fields; the first such
// build knew no Degraded.
func TestOpen_FiguresUnderFieldNames_Kept(t *testing.T) {
	for schema := int64(7); schema <= 9; schema++ {
		t.Run(fmt.Sprint("schema ", schema), func(t *testing.T) {
			path := newPath(t)
			sqlite.MakeAtSchema(t, path, schema,
				`INSERT INTO store (only_row, epoch) VALUES (1, 'e')`,
				`INSERT INTO configs (version, url, poll_interval_seconds, etag, message, published_by, published_at, source_ip)
					VALUES (1, 'http://a/', 30, '"1"', '', 'admin', 1, '')`,
				`INSERT INTO configs (version, url, poll_interval_seconds, etag, message, published_by, published_at, source_ip)
					VALUES (2, 'http://b/', 30, '"2"', '', 'admin', 1, '')`,
				`INSERT INTO configs (version, url, poll_interval_seconds, etag, message, published_by, published_at, source_ip)
					VALUES (3, 'http://c/', 30, '"3"', '', 'admin', 1, '')`,
				`INSERT INTO rollouts VALUES (1, 2, '{"Targets":9,"Applied":4,"Failed":2,"Pending":2,"Offline":1,"Degraded":3,'||
					'"FirstAppliedAt":"2026-11-24T02:00:00.123456Z","Latency":{"Agents":4,"P50":1,"P90":2,"P99":3,"Max":4000000000},'||
					'"Failures":[{"Error":"no \"room\" ✓\n","Count":2,"Samples":["a1","a2"]},{"Error":"b","Count":1,"Samples":null}],'||
					'"Stragglers":[{"ID":"a3","Hostname":"web","Status":"online","Applied":7,"LastPoll":"2026-11-24T02:00:01Z"},'||
					'{"ID":"a4","Hostname":"web","Status":"offline","Applied":0,"LastPoll":"0001-01-01T00:00:00Z"}]}')`,
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
						{Error: "no \"room\" ✓\n", Count: 2, SampleAgents: []string{"a1", "a2"}}, {Error: "b", Count: 1},
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

// Only a write that reaches the disk shows that the store can be written again.
func TestPing_AfterAFailedWrite(t *testing.T) {
	nothing := func(*models.Plan) (*models.Change, error) { return nil, nil }
	for name, row := range map[string]struct {
		write func(*sqlite.DB) error
		ready bool
	}{
		"a publish that changes nothing":  {func(db *sqlite.DB) error { return databasetest.Append(t.Context(), db, nothing) }, false},
		"a flush of agents that are gone": {func(db *sqlite.DB) error { return flush(t, db, 2) }, false},
		"a flush that changes an agent":   {func(db *sqlite.DB) error { return flush(t, db, 1) }, true},
		"a publish":                       {func(db *sqlite.DB) error { return databasetest.Publish(db, "http://b/") }, true},
		"a row that a trigger refuses":    {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			db := open(t, path)
			if _, err := db.SaveAgent(t.Context(), models.Agent{ID: "a1", Metadata: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
			tx, err := outside(t, path).BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			sqlite.ShortenBusyTimeout(t, db)
			if err := databasetest.Publish(db, "http://a/"); !errors.Is(err, database.ErrBusy) {
				t.Fatalf("got %v, want ErrBusy", err)
			}
			if err := db.Ping(t.Context()); !errors.Is(err, database.ErrBusy) { // and no probe for the next second
				t.Errorf("got %v, want ErrBusy", err)
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			if row.write != nil {
				if err := row.write(db); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Ping(t.Context()); (err == nil) != row.ready {
				t.Errorf("after it: got %v, want it ready: %v", err, row.ready)
			}
		})
	}
}

func flush(t *testing.T, db *sqlite.DB, seq int64) error {
	t.Helper()
	presence := models.Presence{LastPoll: models.Now()}
	return db.SavePresence(t.Context(), []database.Presence{{Seq: seq, Presence: presence}})
}

// What a caller or a rule of the schema breaks off is no failure of the store.
func TestPing_AfterARefusedWrite(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	gap := func(*models.Plan) (*models.Change, error) {
		return &models.Change{Config: databasetest.Config(7, "http://a/")}, nil
	}
	if err := databasetest.Append(t.Context(), db, gap); err == nil {
		t.Error("a gap was stored")
	}
	// An insert that never ends by itself:
	raw := outside(t, path)
	exec(t, raw, `CREATE VIEW endless AS
		WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n`)
	exec(t, raw, `CREATE TRIGGER hangs BEFORE INSERT ON configs BEGIN SELECT count(*) FROM endless; END`)
	for _, after := range []time.Duration{0, 50 * time.Millisecond} {
		ctx, cancel := context.WithCancel(t.Context())
		err := databasetest.Append(ctx, db, func(*models.Plan) (*models.Change, error) {
			if after == 0 {
				cancel()
			} else {
				time.AfterFunc(after, cancel) // in the middle of the statement
			}
			return &models.Change{Config: databasetest.Config(1, "http://a/")}, nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a write whose caller disconnected: got %v, want that error alone", err)
		}
	}
	sqlite.ShortenBusyTimeout(t, db)
	tx, err := raw.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("while no probe could write: got %v, want it ready without one", err)
	}
}

func TestPing_ProbeLeavesNothing(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	restore := sqlite.LimitPages(t, db)
	_ = databasetest.Publish(db, "http://a/"+strings.Repeat("a", 20_000))
	restore()
	before := size(t, path+"-wal")
	if err := db.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if grown := size(t, path+"-wal") - before; grown < 64<<10 {
		t.Errorf("the probe wrote %d bytes, want more than a publish needs", grown)
	}
	var rows int
	if err := outside(t, path).QueryRow(`SELECT count(*) FROM probe`).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("got %d rows, %v, want none", rows, err)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Nothing is acknowledged that a restart would not find.
func TestWrite_FileMoved_IsNotAcknowledged(t *testing.T) {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		t.Run("the database"+suffix, func(t *testing.T) {
			path := newPath(t)
			db := open(t, path)
			if err := databasetest.Publish(db, "http://a/"); err != nil {
				t.Fatal(err)
			}
			away := func() {
				if err := os.Rename(path+suffix, path+suffix+".away"); err != nil {
					t.Fatal(err)
				}
			}
			away()
			if err := databasetest.Publish(db, "http://b/"); !errors.Is(err, database.ErrMoved) || errors.Is(err, database.ErrInDoubt) {
				t.Errorf("a publish: got %v, want ErrMoved", err)
			}
			if _, err := db.SaveAgent(t.Context(), models.Agent{ID: "a1", Metadata: []byte("{}")}); !errors.Is(err, database.ErrMoved) {
				t.Errorf("a registration: got %v, want ErrMoved", err)
			}
			if err := db.Ping(t.Context()); !errors.Is(err, database.ErrMoved) {
				t.Errorf("readiness: got %v, want ErrMoved", err)
			}
			if err := os.Rename(path+suffix+".away", path+suffix); err != nil {
				t.Fatal(err)
			}
			if err := databasetest.Publish(db, "http://c/"); err != nil {
				t.Errorf("with the file back: %v", err)
			}
			err := databasetest.Append(t.Context(), db, func(plan *models.Plan) (*models.Change, error) {
				away() // between the first check and the commit
				return &models.Change{Config: databasetest.Config(plan.Version()+1, "http://d/")}, nil
			})
			if !errors.Is(err, database.ErrMoved) || !errors.Is(err, database.ErrInDoubt) {
				t.Errorf("a publish that was under way: got %v, want ErrMoved, in doubt", err)
			}
			if newest, err := databasetest.Newest(t.Context(), db); !errors.Is(err, database.ErrMoved) {
				t.Errorf("its version: got %v, %v, want ErrMoved: the fleet must not get it", newest, err)
			}
		})
	}
}

func TestOpen_EveryConnectionIsDurable(t *testing.T) {
	db := open(t, newPath(t))
	durable := sqlite.Durability{Journal: "wal", Synchronous: 2, ForeignKeys: true, BusyTimeout: 3000}
	for _, reopen := range []bool{false, true} {
		writers, readers := sqlite.Connections(t, db, reopen)
		if diff := cmp.Diff([]sqlite.Durability{durable}, writers); diff != "" {
			t.Errorf("writers, opened anew: %v, -want +got:\n%s", reopen, diff)
		}
		reading := durable
		reading.QueryOnly = true
		if diff := cmp.Diff([]sqlite.Durability{reading, reading, reading, reading}, readers); diff != "" {
			t.Errorf("readers, opened anew: %v, -want +got:\n%s", reopen, diff)
		}
		if err := databasetest.Publish(db, "http://a/"); err != nil {
			t.Errorf("a publish, opened anew: %v: %v", reopen, err)
		}
	}
}

// A disk that hangs in the middle of a probe holds up nobody: neither those who ask
// next, nor a scrape.
func TestPing_DiskHangs(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "c.db"))
	release := db.Hang(t)
	first := make(chan error, 1)
	go func() { first <- db.Ping(context.WithoutCancel(t.Context())) }() // ends within checkTimeout
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := db.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the disk hangs: got %v, want the end of the context", err)
		}
		cancel()
	}
	release()
	if err := <-first; err != nil {
		t.Errorf("when the disk answers: got %v, want nil", err)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("afterwards: got %v, want nil", err)
	}
}

// Ping ends by itself, also where the disk hangs and no context reaches the check.
func TestPing_CheckHangs_Ends(t *testing.T) {
	db := open(t, newPath(t))
	synctest.Test(t, func(t *testing.T) {
		finish := sqlite.HangCheck(db)
		began := time.Now()
		err := db.Ping(context.WithoutCancel(t.Context()))
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 5*time.Second {
			t.Errorf("got %v after %s, want the end of 5 s", err, took)
		}
		finish()
	})
}

// A connection that is opened later makes the files anew that somebody has removed,
// and without one that stays open SQLite removes its journals.
func TestOpen_OpensAllReaders(t *testing.T) {
	if open, pinned := sqlite.Readers(open(t, newPath(t))); open != 5 || pinned != 1 {
		t.Errorf("got %d connections that read, %d of them kept, want 5 and 1", open, pinned)
	}
}
