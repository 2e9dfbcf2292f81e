// Package sqlite keeps the controller's store in one SQLite file. A write
// that returned is on the disk: write-ahead log, synchronous=FULL. Nothing of
// SQLite leaves the package, neither its types nor its errors.
//
// Queries number their parameters $1, $2, … in the order in which they stand
// in the text: to SQLite these are names, bound in the order of appearance.
package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/atomicfile"
)

//go:embed migrations/*.sql
var migrations embed.FS

// minSQLite is the first SQLite that has no known way to corrupt a
// write-ahead log, as major*1e6 + minor*1e3 + patch.
const minSQLite = 3_051_003

// busyTimeout is how long a statement waits for another process's lock.
const busyTimeout = 3 * time.Second

// applicationID marks a file as ours; the first migration sets it.
const applicationID = 0x466C6366

// DB is the open store. All writes go through one connection, for SQLite has
// one writer; reads have connections of their own and never wait for it.
type DB struct {
	path   string
	file   os.FileInfo            // what path named when it was locked
	files  map[string]os.FileInfo // what is open, by name: the database and its journals
	writer *sql.DB
	reader *sql.DB
	pin    *sql.Conn // of reader; while it is open SQLite keeps the journals
	lock   *flock.Flock
	tags   models.Tags

	metrics *Metrics
	failing atomic.Pointer[error] // why a write failed, nil since one succeeded
	probed  time.Time             // when the last probe was tried; of the check in progress

	checking sync.Mutex // guards check
	check    *check     // in progress, nil for none
}

// Open opens the store in the file at path, makes it if it is not there, and
// brings its schema up to date. It refuses a file that another controller has
// open, that is damaged, read-only or another program's, or that a newer build
// has written; the error says what to do, and the file is left as it was.
func Open(ctx context.Context, path string) (*DB, error) {
	return OpenMeasured(ctx, path, NewMetrics(nil))
}

// OpenMeasured is Open; m measures what the store is asked to do from then on.
func OpenMeasured(ctx context.Context, path string, m *Metrics) (*DB, error) {
	db := &DB{metrics: m}
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
	if err := db.claim(path); err != nil {
		return err
	}
	if err := db.inspect(ctx); err != nil {
		return err
	}
	if db.writer, err = connect(db.path, "mode=rw&_txlock=immediate&"+durable, 1); err != nil {
		return err
	}
	if err := db.migrate(ctx); err != nil {
		return err
	}
	if db.reader, err = connect(db.path, "mode=rw&_query_only=true&"+durable, 1+readers); err != nil {
		return err
	}
	if err := db.openReaders(ctx); err != nil {
		return err
	}
	if err := db.readTags(ctx); err != nil {
		return err
	}
	return db.identify()
}

// openReaders opens all connections that read: one that is opened later would make
// the files anew that somebody has removed.
func (db *DB) openReaders(ctx context.Context) (err error) {
	if db.pin, err = db.reader.Conn(ctx); err != nil {
		return err
	}
	conns := make([]*sql.Conn, 0, readers)
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // back to the pool
		}
	}()
	for range readers {
		conn, err := db.reader.Conn(ctx)
		if err != nil {
			return err
		}
		conns = append(conns, conn)
	}
	return nil
}

// identify notes which files are open.
func (db *DB) identify() (err error) {
	files := map[string]os.FileInfo{db.path: db.file}
	for _, journal := range []string{db.path + "-wal", db.path + "-shm"} {
		if files[journal], err = os.Stat(journal); err != nil {
			return err
		}
	}
	db.files = files
	return nil
}

// checkFiles returns database.ErrMoved unless the files that are open are still those
// at their names: what is written to others is lost with the process.
func (db *DB) checkFiles() error {
	for name, open := range db.files {
		if now, err := os.Stat(name); err != nil || !os.SameFile(open, now) {
			return fmt.Errorf("%w: stop the controller, and put %s back", database.ErrMoved, name)
		}
	}
	return nil
}

// claim makes the file if it is not there, for this user's eyes only, and
// takes its lock, by its real name: a link must not lead two controllers to
// one file.
func (db *DB) claim(path string) error {
	if err := atomicfile.CheckRegular(path); err != nil { // to open a pipe would wait for a writer
		return err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("%w: DB_PATH must name a file in a folder that is there and that this user may write: %w", database.ErrReadOnly, err)
	}
	defer func() { _ = file.Close() }()
	if db.path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	if db.path, err = filepath.Abs(db.path); err != nil {
		return err
	}
	if db.file, err = file.Stat(); err != nil {
		return err
	}
	// O_NONBLOCK: to open a pipe would wait for a writer.
	flags := os.O_RDONLY | os.O_CREATE | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	db.lock = flock.New(db.path+".lock", flock.SetFlag(flags))
	locked, err := db.lock.TryLock()
	if info, missing := os.Lstat(db.lock.Path()); missing == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("its lock file %s is %s; remove it", db.lock.Path(), atomicfile.Kind(info.Mode()))
	}
	if err != nil {
		return fmt.Errorf("take the lock file: %w; this user must be able to write it and its folder", err)
	}
	if !locked {
		return errors.New("another controller has it open; stop that one, or set DB_PATH to another file")
	}
	return nil
}

// readers is how many queries run at the same time.
const readers = 4

// durable are the options of a connection to our own file.
const durable = "_journal_mode=WAL&_synchronous=FULL&_foreign_keys=true"

func connect(path, options string, connections int) (*sql.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + fmt.Sprintf("?_busy_timeout=%d&", busyTimeout.Milliseconds()) + options
	pool, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	return pool, nil
}

// inspect proves, before anything is changed, that the file is empty or ours,
// whole, and can be written.
func (db *DB) inspect(ctx context.Context) error {
	plain, err := connect(db.path, "_txlock=immediate", 1)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	var (
		id, tables int64
		verdict    string
	)
	if err := plain.QueryRowContext(ctx, `SELECT application_id, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id`).Scan(&id, &tables); err != nil {
		return err
	}
	if tables > 0 && id != applicationID {
		return errors.New("it is the database of another program; set DB_PATH to another file")
	}
	if err := plain.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", database.ErrCorrupt, strings.ReplaceAll(verdict, "\n", " "))
	}
	tx, err := plain.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	return tx.Rollback()
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

// readTags reads what the store's ETags are made of. Its epoch and its key are made
// once, with the store, or with the migration to a schema that has a key.
func (db *DB) readTags(ctx context.Context) error {
	key := make([]byte, models.KeyBytes)
	_, _ = rand.Read(key) // never fails
	return db.write(ctx, func(tx *sql.Tx) (err error) {
		if _, err := tx.ExecContext(ctx, `INSERT INTO store (only_row, epoch) VALUES (1, $1) ON CONFLICT DO NOTHING`, rand.Text()); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE store SET etag_key = $1 WHERE length(etag_key) = 0`, key); err != nil {
			return err
		}
		db.tags, _, err = scanStore(tx.QueryRowContext(ctx, selectStore))
		return err
	})
}

const selectStore = `SELECT epoch, etag_key, unkeyed_up_to, highest_reported, resumed_below FROM store`

// scanStore reads the row of selectStore.
func scanStore(row scanner) (t models.Tags, r models.Observed, err error) {
	err = row.Scan(&t.Epoch, &t.Key, &t.UnkeyedUpTo, &r.Highest, &r.ResumedBelow)
	return t, r, err
}

// Tags makes and verifies the ETags of this store.
func (db *DB) Tags() models.Tags { return db.tags }

// check is the result of looking whether the store can do its work.
type check struct {
	done chan struct{} // closed when err is set
	err  error
}

// checkTimeout is longer than a statement waits for another process.
const checkTimeout = busyTimeout + 2*time.Second

// Ping says why the store cannot do its work at the moment, nil when it can: it
// answers, its files are still those at their names, and no write has failed since
// the last that succeeded. Where one has, Ping tries one of its own. It returns when
// ctx ends or after checkTimeout, also where the disk hangs: callers share one check,
// so that they do not pile up behind it.
func (db *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c := db.startCheck()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("the database does not answer: %w", ctx.Err())
	}
}

// startCheck returns the check in progress, and starts one if there is none.
func (db *DB) startCheck() *check {
	db.checking.Lock()
	defer db.checking.Unlock()
	if db.check != nil {
		return db.check
	}
	c := &check{done: make(chan struct{})}
	db.check = c
	go func() { // ends when the disk answers
		c.err = db.doCheck(context.Background())
		db.checking.Lock()
		db.check = nil
		db.checking.Unlock()
		close(c.done)
	}()
	return c
}

func (db *DB) doCheck(ctx context.Context) error {
	if err := db.checkFiles(); err != nil {
		return err
	}
	var one int
	if err := db.reader.QueryRowContext(ctx, `SELECT 1 FROM store`).Scan(&one); err != nil {
		return fmt.Errorf("the database does not answer: %w", explain(err))
	}
	return db.probe(ctx)
}

const (
	// fillProbe is more than a publish writes.
	fillProbe  = `INSERT INTO probe (filler) VALUES (randomblob(65536))`
	emptyProbe = `DELETE FROM probe`
	// probeEvery is how often a store that fails is written to: everybody may ask /ready.
	probeEvery = time.Second
)

// probe returns nil if no write has failed since the last that succeeded. Else it
// stores as much as a publish does, as new pages that reach the disk, and removes
// it; what is there stays as it is.
func (db *DB) probe(ctx context.Context) error {
	failure := db.failing.Load()
	if failure == nil {
		return nil
	}
	if !db.probed.IsZero() && time.Since(db.probed) < probeEvery {
		return explain(*failure)
	}
	db.probed = time.Now()
	for _, statement := range []string{fillProbe, emptyProbe} {
		err := db.transact(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, statement)
			return err
		})
		if err != nil {
			return explain(err)
		}
	}
	db.failing.CompareAndSwap(failure, nil)
	return nil
}

// Close lets go of the file.
func (db *DB) Close() error {
	var errs []error
	if db.pin != nil {
		errs = append(errs, db.pin.Close())
	}
	for _, pool := range []*sql.DB{db.reader, db.writer} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}

// inTx is write, measured as an operation.
func (db *DB) inTx(ctx context.Context, op operation, f func(*sql.Tx) error) (err error) {
	defer db.metrics.ended(op, time.Now(), &err)
	return db.write(ctx, f)
}

// write runs f in a transaction that holds the write lock from the start, and
// commits if f returns nil. It remembers that the store could not be written until
// a transaction that changed something could. What it returned nil for is in the
// files that are at their names.
func (db *DB) write(ctx context.Context, f func(*sql.Tx) error) error {
	if err := db.checkFiles(); err != nil {
		return fmt.Errorf("%w; nothing was written", err)
	}
	failure, changed := db.failing.Load(), false
	err := db.transact(ctx, func(tx *sql.Tx) error {
		if failure == nil {
			return f(tx)
		}
		return observeChanges(ctx, tx, f, &changed)
	})
	if err == nil {
		if err = db.checkFiles(); err != nil {
			err = fmt.Errorf("%w: %w", database.ErrInDoubt, err)
		}
	}
	switch {
	case err == nil && changed:
		db.failing.CompareAndSwap(failure, nil)
	case isStorageFailure(err):
		db.failing.Store(&err)
	}
	return err
}

// observeChanges runs f, and notes whether it changed a row.
func observeChanges(ctx context.Context, tx *sql.Tx, f func(*sql.Tx) error, changed *bool) error {
	var before, after int64
	if err := tx.QueryRowContext(ctx, `SELECT total_changes()`).Scan(&before); err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return err
	}
	err := tx.QueryRowContext(ctx, `SELECT total_changes()`).Scan(&after)
	*changed = after > before
	return err
}

// isStorageFailure reports whether err says that the store could not be written: not
// that a rule of the schema was broken, nor that the caller disconnected, which is no
// error of the driver.
func isStorageFailure(err error) bool {
	var driver sqlite3.Error
	return errors.As(err, &driver) && driver.Code != sqlite3.ErrConstraint
}

func (db *DB) transact(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := db.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := f(tx); err != nil {
		return err
	}
	return commitError(tx.Commit())
}

// commitError adds database.ErrInDoubt to the error of a commit that may be on the disk
// all the same. One that found the disk full is not.
func commitError(err error) error {
	var driver sqlite3.Error
	if errors.As(err, &driver) && driver.Code != sqlite3.ErrFull {
		return fmt.Errorf("%w: %w", database.ErrInDoubt, err)
	}
	return err
}

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
		return fmt.Errorf("%w: %w", database.ErrBusy, err)
	case sqlite3.ErrFull:
		return fmt.Errorf("%w: %w", database.ErrFull, err)
	case sqlite3.ErrIoErr:
		return fmt.Errorf("%w: %w", database.ErrIO, err)
	case sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrCantOpen:
		return fmt.Errorf("%w; make the file and its folder writable for this user: %w", database.ErrReadOnly, err)
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		return fmt.Errorf("%w: %w", database.ErrCorrupt, err)
	}
	return err
}

// scanner is a row, alone or of many.
type scanner interface{ Scan(into ...any) error }

// queryer is a pool of connections, or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// read gives each row of a query; an error is the last that it gives.
func read[T any](ctx context.Context, from queryer, scan func(scanner) (T, error), query string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		rows, err := from.QueryContext(ctx, query, args...)
		if err != nil {
			yield(none, explain(err))
			return
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			v, err := scan(rows)
			if !yield(v, explain(err)) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(none, explain(err))
		}
	}
}

// list returns every row of a query.
func list[T any](ctx context.Context, from queryer, scan func(scanner) (T, error), query string, args ...any) (all []T, err error) {
	for v, err := range read(ctx, from, scan, query, args...) {
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
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
