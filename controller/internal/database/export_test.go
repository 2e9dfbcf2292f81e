package database

import (
	"io/fs"
	"testing"

	"github.com/pressly/goose/v3"
)

// MakeAtSchema makes a store as a build with an earlier schema does, and lets it
// execute statements.
func MakeAtSchema(t *testing.T, path string, schema int64, statements ...string) {
	t.Helper()
	db, err := connect(path, durable, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.UpTo(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// LimitPages lets the database grow no further until restore is called.
func LimitPages(t *testing.T, db *DB) (restore func()) {
	t.Helper()
	set := func(statement string) {
		if _, err := db.writer.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	set(`PRAGMA max_page_count = 1`) // SQLite takes it as the size that there is
	return func() { set(`PRAGMA max_page_count = 1000000`) }
}

// ShortenBusyTimeout makes the wait for another process's lock a short one.
func ShortenBusyTimeout(t *testing.T, db *DB) {
	t.Helper()
	if _, err := db.writer.ExecContext(t.Context(), `PRAGMA busy_timeout = 20`); err != nil {
		t.Fatal(err)
	}
}

// MakeReadOnly lets nothing be written any more.
func MakeReadOnly(t *testing.T, db *DB) {
	t.Helper()
	if _, err := db.writer.ExecContext(t.Context(), `PRAGMA query_only = true`); err != nil {
		t.Fatal(err)
	}
}
