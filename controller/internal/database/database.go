// Package database keeps the controller's store in one SQLite file. A write
// that returned is on the disk: write-ahead log, synchronous=FULL. Nothing of
// SQLite leaves the package, neither its types nor its errors.
//
// Queries number their parameters $1, $2, … in the order in which they stand
// in the text: to SQLite these are names, bound in the order of appearance.
package database

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"time"

	"github.com/gofrs/flock"
	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

//go:embed migrations/*.sql
var migrations embed.FS

// minSQLite is the first SQLite that has no known way to corrupt a
// write-ahead log, as major*1e6 + minor*1e3 + patch.
const minSQLite = 3_051_003

// busyTimeout is how long a statement waits for another process's lock.
const busyTimeout = 3 * time.Second

// DB is the open store. All writes go through one connection, for SQLite has
// one writer; reads have connections of their own and never wait for it.
type DB struct {
	writer *sql.DB
	reader *sql.DB
	lock   *flock.Flock
	epoch  string
}

// Open opens the store in the file at path, makes it if it is not there, and
// brings its schema up to date. It refuses a file that another controller has
// open, that is damaged or read-only, or that a newer build has written; the
// error says what to do, and the file is left as it was.
func Open(ctx context.Context, path string) (*DB, error) {
	db := &DB{lock: flock.New(path + ".lock")}
	if err := db.open(ctx, path); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open database %s: %w", path, explain(err))
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, path string) (err error) {
	if _, n, _ := sqlite3.Version(); n < minSQLite {
		return fmt.Errorf("this build holds SQLite %d, which can corrupt a write-ahead log; %d is the least", n, minSQLite)
	}
	locked, err := db.lock.TryLock()
	if err != nil {
		return fmt.Errorf("take the lock file: %w", err)
	}
	if !locked {
		return errors.New("another controller has it open; stop that one, or set DB_PATH to another file")
	}
	if db.writer, err = connect(path, "_txlock=immediate", 1); err != nil {
		return err
	}
	if err := db.check(ctx); err != nil {
		return err
	}
	if err := db.migrate(ctx); err != nil {
		return err
	}
	if db.reader, err = connect(path, "_query_only=true", 4); err != nil {
		return err
	}
	return db.readEpoch(ctx)
}

func connect(path, options string, connections int) (*sql.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		fmt.Sprintf("?_journal_mode=WAL&_synchronous=FULL&_foreign_keys=true&_busy_timeout=%d&", busyTimeout.Milliseconds()) + options
	pool, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	return pool, nil
}

// check proves that the file is a whole database and can be written, before
// anything in it is changed.
func (db *DB) check(ctx context.Context) error {
	var verdict string
	if err := db.writer.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", errCorrupt, verdict)
	}
	return db.inTx(ctx, func(*sql.Tx) error { return nil })
}

func (db *DB) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db.writer, files)
	if err != nil {
		return err
	}
	current, newest, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if current > newest {
		return fmt.Errorf("its schema is version %d and this build knows %d: a newer controller has written it; run that build, or restore a backup", current, newest)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate the schema: %w", err)
	}
	return nil
}

// readEpoch reads the store's epoch, which is made once, with the store.
func (db *DB) readEpoch(ctx context.Context) error {
	return db.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO store (only_row, epoch) VALUES (1, $1) ON CONFLICT DO NOTHING`, rand.Text()); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT epoch FROM store`).Scan(&db.epoch)
	})
}

// Epoch names this store among all that ever were.
func (db *DB) Epoch() string { return db.epoch }

// Ping reports whether the store answers.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	return explain(db.reader.QueryRowContext(ctx, `SELECT 1 FROM store`).Scan(&one))
}

// Close lets go of the file.
func (db *DB) Close() error {
	var errs []error
	for _, pool := range []*sql.DB{db.reader, db.writer} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(append(errs, db.lock.Close())...)
}

// inTx runs f in a transaction that holds the write lock from the start, and
// commits if f returns nil.
func (db *DB) inTx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := db.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

var errCorrupt = errors.New("the file is damaged or is no SQLite database; restore a backup, or move the file away to begin anew")

// explain turns an error of the driver into one of the domain's kinds, and
// leaves every other error as it is.
func explain(err error) error {
	var driver sqlite3.Error
	if errors.Is(err, sql.ErrNoRows) {
		return models.ErrNotFound
	}
	if !errors.As(err, &driver) {
		return err
	}
	switch driver.Code {
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return fmt.Errorf("%w: %w", models.ErrBusy, err)
	case sqlite3.ErrFull:
		return fmt.Errorf("%w: %w", models.ErrFull, err)
	case sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrCantOpen:
		return fmt.Errorf("%w; make the file and its folder writable for this user: %w", models.ErrReadOnly, err)
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		return fmt.Errorf("%w: %w", errCorrupt, err)
	}
	return err
}

// Moments are stored as microseconds since 1970 UTC; the zero time as 0.
func fromTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func toTime(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
