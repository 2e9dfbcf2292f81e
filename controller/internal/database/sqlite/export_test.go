package sqlite

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
)

// MakeAtSchema creates a store of an earlier schema, and executes statements on it.
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

// LimitPages prevents the database from growing until restore is called.
func LimitPages(t *testing.T, db *DB) (restore func()) {
	t.Helper()
	set := func(statement string) {
		if _, err := db.writer.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	set(`PRAGMA max_page_count = 1`) // SQLite raises it to the present size
	return func() { set(`PRAGMA max_page_count = 1000000`) }
}

// ShortenBusyTimeout shortens how long writes wait for the lock of another process.
func ShortenBusyTimeout(t *testing.T, db *DB) {
	t.Helper()
	if _, err := db.writer.ExecContext(t.Context(), `PRAGMA busy_timeout = 20`); err != nil {
		t.Fatal(err)
	}
}

// MakeReadOnly makes every write fail from now on.
func MakeReadOnly(t *testing.T, db *DB) {
	t.Helper()
	if _, err := db.writer.ExecContext(t.Context(), `PRAGMA query_only = true`); err != nil {
		t.Fatal(err)
	}
}

// CommitError returns the error of a write whose commit failed with err.
var CommitError = commitError

// HangCheck starts a check that lasts until finish is called.
func HangCheck(db *DB) (finish func()) {
	c := &check{done: make(chan struct{})}
	db.check = c
	return func() { close(c.done); db.check = nil }
}

// ForgetProbe makes the next Ping of a failing store try a write.
func ForgetProbe(db *DB) { db.probed = time.Time{} }

// Durability are the settings of a connection that durability depends on.
type Durability struct {
	Journal     string
	Synchronous int // 2: FULL
	ForeignKeys bool
	BusyTimeout int // in milliseconds
	QueryOnly   bool
}

// Connections opens all connections that db may have, after it closed the open ones if
// reopen is set, and returns their settings.
func Connections(t *testing.T, db *DB, reopen bool) (writers, readers []Durability) {
	t.Helper()
	return durabilities(t, db.writer, db.writer.Stats().MaxOpenConnections, reopen),
		durabilities(t, db.reader, db.reader.Stats().MaxOpenConnections-1, reopen) // but for the pin
}

func durabilities(t *testing.T, pool *sql.DB, n int, reopen bool) (all []Durability) {
	t.Helper()
	take := func() (conns []*sql.Conn) {
		for range n {
			conn, err := pool.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		return conns
	}
	if reopen {
		for _, conn := range take() {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // closes it
			_ = conn.Close()
		}
	}
	for _, conn := range take() {
		defer func() { _ = conn.Close() }()
		var d Durability
		err := conn.QueryRowContext(t.Context(), `SELECT journal_mode, synchronous, foreign_keys, timeout, query_only
			FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys,
				pragma_busy_timeout, pragma_query_only`).
			Scan(&d.Journal, &d.Synchronous, &d.ForeignKeys, &d.BusyTimeout, &d.QueryOnly)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// Hang makes the store one whose last write failed, and blocks writes until release is
// called.
func (db *DB) Hang(t *testing.T) (release func()) {
	t.Helper()
	failure := errors.New("input/output error")
	db.failing.Store(&failure)
	conn, err := db.writer.Conn(t.Context()) // the only one
	if err != nil {
		t.Fatal(err)
	}
	return func() { _ = conn.Close() }
}

// Readers returns how many connections that read are open, and how many are in use.
func Readers(db *DB) (open, pinned int) {
	stats := db.reader.Stats()
	return stats.OpenConnections, stats.InUse
}
