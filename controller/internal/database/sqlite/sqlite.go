// Package sqlite implements database.Store in one SQLite file, with a write-ahead log
// and synchronous=FULL. One process has the file open, and acknowledges no write that a
// restart would not find. Neither types nor errors of SQLite leave the package.
//
// Package sqlstore has the queries. This one has the file with its lock, the schema, the
// connections, the transactions, the errors of SQLite, and backups.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlstore"
	"github.com/fleetconf/fleetconf/pkg/atomicfile"
)

//go:embed migrations/*.sql
var migrations embed.FS

// minSQLite is the first version of SQLite without a known bug that corrupts a
// write-ahead log, as major*1e6 + minor*1e3 + patch.
const minSQLite = 3_051_003

// busyTimeout is how long a statement waits for the lock of another process.
const busyTimeout = 3 * time.Second

// applicationID marks a file as ours; the first migration sets it.
const applicationID = 0x466C6366

// DB is an open store. All writes use one connection, because SQLite allows one writer
// at a time. Reads use others, and never wait for a write.
type DB struct {
	*sqlstore.Store // set once the file is open

	path   string
	file   os.FileInfo            // what path named when it was locked
	files  map[string]os.FileInfo // the open files by name: the database and its journals
	writer *sql.DB
	reader *sql.DB
	pin    *sql.Conn // of reader; while it is open, SQLite keeps the journals
	lock   *flock.Flock

	failing atomic.Pointer[error] // of the last write that failed; nil once a later one succeeded
	probed  time.Time             // when the last probe began; the check in progress owns it

	checking sync.Mutex // guards check
	check    *check     // in progress; nil for none
}

var _ database.Store = (*DB)(nil)

// Open opens the store in the file at path, creates it if it does not exist, and
// migrates its schema. It rejects a file that another controller has open, that is
// damaged or read-only, or that another program or a newer build has written: the error
// says what to do, and the file is not changed.
func Open(ctx context.Context, path string) (*DB, error) {
	return OpenMeasured(ctx, path, NewMetrics(nil))
}

// OpenMeasured is Open with metrics, which measure all operations after it.
func OpenMeasured(ctx context.Context, path string, m *Metrics) (*DB, error) {
	db := &DB{}
	if err := db.open(ctx, path, m); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open database %s: %w", path, explain(err))
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, path string, m *Metrics) (err error) {
	if _, n, _ := sqlite3.Version(); n < minSQLite {
		return fmt.Errorf("SQLite must be %d or later; this build has %d, which can corrupt a write-ahead log",
			minSQLite, n)
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
	if db.Store, err = sqlstore.New(ctx, engine{db}, m); err != nil {
		return err
	}
	return db.identify()
}

// openReaders opens all connections that read: one that is opened later would create
// files again that were removed.
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

// identify sets db.files.
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

// checkFiles returns database.ErrMoved unless the open files are still at their names:
// writes to a file that was removed are lost with the process.
func (db *DB) checkFiles() error {
	for name, open := range db.files {
		if now, err := os.Stat(name); err != nil || !os.SameFile(open, now) {
			return fmt.Errorf("%w: stop the controller, and put %s back", database.ErrMoved, name)
		}
	}
	return nil
}

// claim creates the file with mode 0600 if it does not exist, and locks it by its real
// name, so that two controllers cannot open one file through a link.
func (db *DB) claim(path string) error {
	if err := atomicfile.CheckRegular(path); err != nil { // to open a pipe would wait for a writer
		return err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("%w: DB_PATH must name a file in a folder that exists and that this user may write: %w",
			database.ErrReadOnly, err)
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
		return fmt.Errorf("lock its lock file: %w; this user must be able to write it and its folder", err)
	}
	if !locked {
		return errors.New("another controller has it open; stop that one, or set DB_PATH to another file")
	}
	return nil
}

// readers is how many queries can run at the same time.
const readers = 4

// durable are the options of every connection to the store's file.
const durable = "_journal_mode=WAL&_synchronous=FULL&_foreign_keys=true"

func connect(path, options string, connections int) (*sql.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		fmt.Sprintf("?_busy_timeout=%d&", busyTimeout.Milliseconds()) + options
	pool, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	return pool, nil
}

// inspect checks, before the first change, that the file is empty or a store, that it
// is not damaged, and that it can be written.
func (db *DB) inspect(ctx context.Context) error {
	plain, err := connect(db.path, "_txlock=immediate", 1)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	var id, tables int64
	row := plain.QueryRowContext(ctx, `SELECT application_id, (SELECT count(*) FROM sqlite_schema)
		FROM pragma_application_id`)
	if err := row.Scan(&id, &tables); err != nil {
		return err
	}
	if tables > 0 && id != applicationID {
		return errors.New("it is the database of another program; set DB_PATH to another file")
	}
	if err := checkPages(ctx, plain, `PRAGMA quick_check(1)`); err != nil {
		return err
	}
	tx, err := plain.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	return tx.Rollback()
}

// checkPages returns database.ErrCorrupt if check, a pragma, finds damage in db.
func checkPages(ctx context.Context, db *sql.DB, check string) error {
	var verdict string
	if err := db.QueryRowContext(ctx, check).Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", database.ErrCorrupt, strings.ReplaceAll(verdict, "\n", " "))
	}
	return nil
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
		return fmt.Errorf("its schema is version %d and this build knows %d: a newer controller has written it; "+
			"run that build, or restore a backup", current, newest)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate the schema: %w", err)
	}
	return nil
}

// check is one check of whether the store can do its work.
type check struct {
	done chan struct{} // closed when err is set
	err  error
}

// checkTimeout is longer than busyTimeout.
const checkTimeout = busyTimeout + 2*time.Second

// Ping implements database.Store. It returns nil if the store responds, its files are
// still at their names, and no write has failed since the last that succeeded; after a
// failure, it tries a write itself. It returns when ctx ends or after checkTimeout, also
// if the disk hangs: callers share one check, so that they do not queue behind it.
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
	go func() { // ends when the disk responds
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
	// probeEvery limits the probes, because requests to /ready need no credentials.
	probeEvery = time.Second
)

// probe returns nil if no write has failed since the last that succeeded. Otherwise it
// stores as much as a publish does, in new pages that reach the disk, and removes it.
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

// Close closes the store and releases its file.
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
