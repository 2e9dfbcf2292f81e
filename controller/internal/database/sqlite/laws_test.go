package sqlite_test

import (
	"database/sql"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/databasetest"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
)

func TestStore_KeepsTheLaws(t *testing.T) {
	databasetest.Run(t, databasetest.Driver{
		Open: func(t *testing.T) database.Store { return openFile(t, newPath(t)) },
		Reopen: func(t *testing.T, store database.Store) database.Store {
			f := store.(file)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			return openFile(t, f.path)
		},
		Exec: func(t *testing.T, store database.Store, statement string) error {
			_, err := outside(t, store.(file).path).ExecContext(t.Context(), statement)
			return err
		},
		FillDisk: func(t *testing.T, store database.Store) (restore func()) {
			exec(t, outside(t, store.(file).path), `VACUUM`) // pages that are free are room
			return sqlite.LimitPages(t, store.(file).DB)     // SQLite's own quota gives the error of a full disk
		},
		FailCommits: func(t *testing.T, _ database.Store) (restore func()) { return failWrites(t) },
		FailAudit: func(t *testing.T, store database.Store) (restore func()) {
			raw := outside(t, store.(file).path)
			exec(t, raw, `CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END`)
			return func() { exec(t, raw, `DROP TRIGGER broken`) }
		},
		Lock: func(t *testing.T, store database.Store) (restore func()) {
			sqlite.ShortenBusyTimeout(t, store.(file).DB)
			return lock(t, store.(file).path)
		},
	})
}

// file is an open store, and the path of its file.
type file struct {
	*sqlite.DB
	path string
}

func openFile(t *testing.T, path string) file { return file{open(t, path), path} }

func open(t *testing.T, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "controller.db") }

// outside opens the file as another program does.
func outside(t *testing.T, path string) *sql.DB {
	t.Helper()
	raw, err := sql.Open("sqlite3", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	raw.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = raw.Close() })
	return raw
}

func exec(t *testing.T, raw *sql.DB, statement string) {
	t.Helper()
	if _, err := raw.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// lock holds SQLite's write lock, as another process does, until release is called.
func lock(t *testing.T, path string) (release func()) {
	t.Helper()
	tx, err := outside(t, path).BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	}
}

// failWrites makes every write of this process to a file fail, as a failing disk does,
// until restore is called.
func failWrites(t *testing.T) (restore func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	}
}
