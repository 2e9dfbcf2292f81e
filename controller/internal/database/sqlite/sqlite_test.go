package sqlite_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-sqlite3"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/databasetest"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

func TestOpen_Schema_WALAndStrictTables(t *testing.T) {
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
			"in a folder that exists",
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
				t.Fatal("Open does not return within a minute")
			}
			if _, made := os.Lstat(path + ".elsewhere"); made == nil {
				t.Error("the target of the link was created")
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
		t.Errorf("before the first failure: %v", err)
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
		t.Errorf("with room again, and no write: %v", err)
	}
	release := lock(t, path)
	sqlite.ShortenBusyTimeout(t, db)
	if err := databasetest.Publish(db, "http://a/"); !errors.Is(err, database.ErrBusy) {
		t.Fatalf("got %v, want ErrBusy", err)
	}
	if err := db.Ping(t.Context()); !errors.Is(err, database.ErrBusy) {
		t.Errorf("during the lock: got %v, want ErrBusy", err)
	}
	release()
	sqlite.ForgetProbe(db)
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("with the lock free again: %v", err)
	}
	if err := os.Rename(path, path+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := db.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "removed or replaced") {
		t.Errorf("without its file: got %v, want \"removed or replaced\"", err)
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

// Only a write that reaches the disk shows that the store can be written again.
func TestPing_AfterFailedWrite_ReadyAfterOneThatReachesTheDisk(t *testing.T) {
	nothing := func(*models.Plan) (*models.Change, error) { return nil, nil }
	for name, row := range map[string]struct {
		write func(*sqlite.DB) error
		ready bool
	}{
		"a publish that changes nothing": {func(db *sqlite.DB) error {
			return databasetest.Append(t.Context(), db, nothing)
		}, false},
		"a flush of deleted agents":     {func(db *sqlite.DB) error { return flush(t, db, 2) }, false},
		"a flush that changes an agent": {func(db *sqlite.DB) error { return flush(t, db, 1) }, true},
		"a publish": {func(db *sqlite.DB) error {
			return databasetest.Publish(db, "http://b/")
		}, true},
		"nothing": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			db := open(t, path)
			if _, err := db.SaveAgent(t.Context(), models.Agent{ID: "a1", Metadata: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
			release := lock(t, path)
			sqlite.ShortenBusyTimeout(t, db)
			if err := databasetest.Publish(db, "http://a/"); !errors.Is(err, database.ErrBusy) {
				t.Fatalf("got %v, want ErrBusy", err)
			}
			if err := db.Ping(t.Context()); !errors.Is(err, database.ErrBusy) { // and no probe for the next second
				t.Errorf("got %v, want ErrBusy", err)
			}
			release()
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

// A write that the schema rejects, or whose caller disconnects, is no failure of the
// store.
func TestPing_AfterRejectedWrite_ReadyWithoutProbe(t *testing.T) {
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

func TestPing_Probe_LeavesNothing(t *testing.T) {
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

// A write is acknowledged only if a restart finds it.
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
			err := databasetest.Publish(db, "http://b/")
			if !errors.Is(err, database.ErrMoved) || errors.Is(err, database.ErrInDoubt) {
				t.Errorf("a publish: got %v, want ErrMoved", err)
			}
			agent := models.Agent{ID: "a1", Metadata: []byte("{}")}
			if _, err := db.SaveAgent(t.Context(), agent); !errors.Is(err, database.ErrMoved) {
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
			err = databasetest.Append(t.Context(), db, func(plan *models.Plan) (*models.Change, error) {
				away() // between the first check and the commit
				return &models.Change{Config: databasetest.Config(plan.Version()+1, "http://d/")}, nil
			})
			if !errors.Is(err, database.ErrMoved) || !errors.Is(err, database.ErrInDoubt) {
				t.Errorf("a publish in progress: got %v, want ErrMoved, in doubt", err)
			}
			if newest, err := databasetest.Newest(t.Context(), db); !errors.Is(err, database.ErrMoved) {
				t.Errorf("its version: got %v, %v, want ErrMoved: agents must not receive it", newest, err)
			}
		})
	}
}

func TestOpen_EveryConnection_Durable(t *testing.T) {
	db := open(t, newPath(t))
	durable := sqlite.Durability{Journal: "wal", Synchronous: 2, ForeignKeys: true, BusyTimeout: 3000}
	for _, reopen := range []bool{false, true} {
		writers, readers := sqlite.Connections(t, db, reopen)
		if diff := cmp.Diff([]sqlite.Durability{durable}, writers); diff != "" {
			t.Errorf("writers, reopened: %v, -want +got:\n%s", reopen, diff)
		}
		reading := durable
		reading.QueryOnly = true
		if diff := cmp.Diff([]sqlite.Durability{reading, reading, reading, reading}, readers); diff != "" {
			t.Errorf("readers, reopened: %v, -want +got:\n%s", reopen, diff)
		}
		if err := databasetest.Publish(db, "http://a/"); err != nil {
			t.Errorf("a publish, reopened: %v: %v", reopen, err)
		}
	}
}

// A disk that hangs during a probe delays neither the next Ping nor a scrape.
func TestPing_DiskHangs_ReturnsWithContext(t *testing.T) {
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
		t.Errorf("when the disk responds: got %v, want nil", err)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("afterwards: got %v, want nil", err)
	}
}

// Ping returns in time even if the disk hangs and its context does not end.
func TestPing_CheckHangs_ReturnsAfter5s(t *testing.T) {
	db := open(t, newPath(t))
	synctest.Test(t, func(t *testing.T) {
		finish := sqlite.HangCheck(db)
		began := time.Now()
		err := db.Ping(context.WithoutCancel(t.Context()))
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 5*time.Second {
			t.Errorf("got %v after %s, want DeadlineExceeded after 5 s", err, took)
		}
		finish()
	})
}

// A connection that is opened later creates files again that were removed, and without
// one that stays open SQLite removes its journals.
func TestOpen_Readers_AllOpen(t *testing.T) {
	if open, pinned := sqlite.Readers(open(t, newPath(t))); open != 5 || pinned != 1 {
		t.Errorf("got %d connections that read, %d of them in use, want 5 and 1", open, pinned)
	}
}
