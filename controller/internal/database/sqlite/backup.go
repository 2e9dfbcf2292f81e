package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"

	"github.com/fleetconf/fleetconf/pkg/atomicfile"
)

// Contents summarize a store.
type Contents struct {
	Epoch  string
	Schema int64
	Newest int64 // newest version; 0 for none
	Agents int64 // how many
	Bytes  int64 // size of the file
}

// pagesAtOnce is how many pages of a backup are copied between two calls of progress.
const pagesAtOnce = 1024

// Backup copies a snapshot of the store in the file at path, which a controller may have
// open, to a new file, and verifies the copy. Writers do not wait for it. It calls
// progress with numbers of pages. The new file exists only if Backup returns nil.
func Backup(ctx context.Context, path, to string, progress func(done, total int)) (Contents, error) {
	made, err := backup(ctx, path, to, progress)
	if err != nil {
		return Contents{}, fmt.Errorf("back up database %s to %s: %w", path, to, explain(err))
	}
	return made, nil
}

func backup(ctx context.Context, path, to string, progress func(done, total int)) (made Contents, err error) {
	if err := checkNew(path, to); err != nil {
		return made, err
	}
	source, err := openToRead(ctx, path)
	if err != nil {
		return made, err
	}
	defer func() { _ = source.Close() }()
	draft, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*") // 0600
	if err != nil {
		return made, err
	}
	_ = draft.Close()
	defer func() { // with the journals of a draft that was not closed in order
		for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
			_ = os.Remove(draft.Name() + suffix)
		}
	}()
	if err := copyPages(ctx, source, draft.Name(), progress); err != nil {
		return made, err
	}
	if made, err = verify(ctx, source, draft.Name()); err != nil {
		return made, fmt.Errorf("the copy is not sound: %w", err)
	}
	if err := atomicfile.SyncFile(draft.Name()); err != nil {
		return made, err
	}
	return made, atomicfile.MoveNew(draft.Name(), to)
}

// checkNew returns an error if a file exists at the path to, or if the store's own files
// have that name.
func checkNew(path, to string) error {
	if to == "-" {
		return errors.New("standard output cannot be verified; name a new file")
	}
	if _, err := os.Lstat(to); err == nil {
		return errors.New("it exists already; name a new file, or remove that one")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	store, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	for _, suffix := range []string{"-wal", "-shm", "-journal", ".lock"} {
		if abs == store+suffix {
			return errors.New("that is the name of a file of the database itself; name another")
		}
	}
	return nil
}

// openToRead opens an existing store, of a schema that this build knows, only to read.
// A controller may have it open.
func openToRead(ctx context.Context, path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w; DB_PATH names the database", err)
	}
	if err := atomicfile.CheckRegular(path); err != nil {
		return nil, err
	}
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	db, err := connect(file, "mode=rw&_query_only=true", 1)
	if err != nil {
		return nil, err
	}
	if err := checkSchema(ctx, db); err != nil {
		_ = db.Close()
		return nil, err
	}
	return db, nil
}

func checkSchema(ctx context.Context, db *sql.DB) error {
	var id int64
	if err := db.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&id); err != nil {
		return err
	}
	if id != applicationID {
		return errors.New("it is no database of a controller; DB_PATH names the database")
	}
	schema, newest, err := schemas(ctx, db)
	if err == nil && schema > newest {
		err = fmt.Errorf("its schema is version %d and this build knows %d: a newer controller has written it; "+
			"use that build", schema, newest)
	}
	return err
}

// schemas returns the version of the schema of db, and the newest that this build knows.
func schemas(ctx context.Context, db *sql.DB) (schema, newest int64, err error) {
	const current = `SELECT max(version_id) FROM goose_db_version WHERE is_applied`
	if err := db.QueryRowContext(ctx, current).Scan(&schema); err != nil {
		return 0, 0, err
	}
	newest, err = newestSchema()
	return schema, newest, err
}

// newestSchema returns the number of the last migration of this build.
func newestSchema() (newest int64, err error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	for _, file := range files {
		version, err := goose.NumericComponent(filepath.Base(file))
		if err != nil {
			return 0, err
		}
		newest = max(newest, version)
	}
	return newest, err
}

// copyPages copies source into the file at path with SQLite's online backup. A read
// transaction keeps the snapshot: without it, each write of another process would
// restart the copy.
func copyPages(ctx context.Context, source *sql.DB, path string, progress func(done, total int)) error {
	target, err := connect(path, "", 1)
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	from, err := source.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	into, err := target.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = into.Close() }()

	tx, err := from.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var epoch string
	if err := tx.QueryRowContext(ctx, `SELECT epoch FROM store`).Scan(&epoch); err != nil { // begins the snapshot
		return err
	}
	return from.Raw(func(from any) error {
		return into.Raw(func(into any) error {
			b, err := into.(*sqlite3.SQLiteConn).Backup("main", from.(*sqlite3.SQLiteConn), "main")
			if err != nil {
				return err
			}
			for done := false; !done && err == nil; {
				if err = ctx.Err(); err != nil {
					break
				}
				done, err = b.Step(pagesAtOnce)
				progress(b.PageCount()-b.Remaining(), b.PageCount())
			}
			return errors.Join(err, b.Finish())
		})
	})
}

// verify checks that the file at path is an undamaged copy of source.
func verify(ctx context.Context, source *sql.DB, path string) (c Contents, err error) {
	db, err := connect(path, "mode=rw", 1)
	if err != nil {
		return c, err
	}
	defer func() { _ = db.Close() }()
	if err := checkSchema(ctx, db); err != nil {
		return c, err
	}
	if err := checkPages(ctx, db, `PRAGMA integrity_check(1)`); err != nil {
		return c, err
	}
	var epoch, table string
	err = db.QueryRowContext(ctx, `SELECT "table" FROM pragma_foreign_key_check`).Scan(&table)
	if !errors.Is(err, sql.ErrNoRows) {
		return c, errors.Join(err, fmt.Errorf("table %q refers to what is not there", table))
	}
	if err := source.QueryRowContext(ctx, `SELECT epoch FROM store`).Scan(&epoch); err != nil {
		return c, err
	}
	row := db.QueryRowContext(ctx, `SELECT epoch, (SELECT coalesce(max(version), 0) FROM configs),
		(SELECT count(*) FROM agents), (SELECT max(version_id) FROM goose_db_version WHERE is_applied) FROM store`)
	err = row.Scan(&c.Epoch, &c.Newest, &c.Agents, &c.Schema)
	if err == nil && c.Epoch != epoch {
		err = errors.New("its epoch is that of another store")
	}
	if err != nil {
		return c, err
	}
	if err := db.Close(); err != nil {
		return c, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return c, err
	}
	c.Bytes = info.Size()
	return c, nil
}
