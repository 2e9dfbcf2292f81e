package database

import "testing"

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
