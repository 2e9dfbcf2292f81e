package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/mattn/go-sqlite3"

	"github.com/fleetconf/fleetconf/controller/internal/database"
)

// engine implements sqlstore.Driver.
type engine struct{ db *DB }

func (e engine) Write(ctx context.Context, f func(*sql.Tx) error) error { return e.db.write(ctx, f) }

func (e engine) Reader() *sql.DB { return e.db.reader }

// BeginRead returns database.ErrMoved if a file is no longer at its name, because writes
// to that were not acknowledged.
func (e engine) BeginRead(ctx context.Context) (*sql.Tx, error) {
	if err := e.db.checkFiles(); err != nil {
		return nil, err
	}
	return e.db.reader.BeginTx(ctx, nil)
}

func (e engine) Explain(err error) error { return explain(err) }

func (e engine) Owns(err error) bool {
	var driver sqlite3.Error
	return errors.As(err, &driver)
}

// write runs f in a transaction that holds the write lock from its beginning, and
// commits if f returns nil. It returns nil only if the files are still at their names.
// It sets db.failing if the store could not be written, and clears it if it could be
// and f changed a row.
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

// observeChanges runs f, and sets changed to whether f changed a row.
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

// isStorageFailure reports whether err means that the store could not be written. A
// violated constraint does not, nor does the end of the caller's context, which is no
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

// commitError adds database.ErrInDoubt to the error of a failed commit, unless the disk
// was full: any other may be on the disk all the same.
func commitError(err error) error {
	var driver sqlite3.Error
	if errors.As(err, &driver) && driver.Code != sqlite3.ErrFull {
		return fmt.Errorf("%w: %w", database.ErrInDoubt, err)
	}
	return err
}

// explain adds the error of package database that an error of the driver matches,
// and returns any other error as it is.
func explain(err error) error {
	var driver sqlite3.Error
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
