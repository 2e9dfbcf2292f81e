// Package sqlstore implements database.Store on any SQL database. It has the queries and
// the scanning of rows; a Driver connects to the database, and owns its schema. No error
// of a database leaves the package without the error of package database that it matches.
//
// Queries use only what SQLite and PostgreSQL both understand. They number their
// parameters $1, $2, … in the order of appearance: SQLite takes these as names, and binds
// names in that order.
package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"iter"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Driver gives a Store access to one database, whose schema is migrated.
type Driver interface {
	// Write runs f in a transaction that holds the write lock from its beginning, and
	// commits if f returns nil. An error means that nothing changed, unless it is
	// database.ErrInDoubt as well.
	Write(ctx context.Context, f func(*sql.Tx) error) error
	// BeginRead begins a transaction that only reads, and reads one revision: that of the
	// last acknowledged write, or a later one. It never waits for a write.
	BeginRead(ctx context.Context) (*sql.Tx, error)
	// Reader returns the connections for single queries. These never wait for a write.
	Reader() *sql.DB
	// Explain adds the error of package database that an error of the driver matches, and
	// returns any other error as it is.
	Explain(err error) error
	// Owns reports whether err comes from the driver: not from a rule, and not from the
	// end of a context.
	Owns(err error) bool
}

// Store implements database.Store, except Ping.
type Store struct {
	driver  Driver
	metrics *Metrics
	tags    models.Tags
}

// New returns the store in the driver's database, and creates its epoch and key if they
// do not exist. It returns errors of the driver as they are.
func New(ctx context.Context, driver Driver, m *Metrics) (*Store, error) {
	s := &Store{driver: driver, metrics: m}
	return s, s.readTags(ctx)
}

// readTags sets s.tags. The epoch of a store is created once, with the store, and its
// key likewise, or with the migration to a schema that has a key.
func (s *Store) readTags(ctx context.Context) error {
	key := make([]byte, models.KeyBytes)
	_, _ = rand.Read(key) // never fails
	return s.driver.Write(ctx, func(tx *sql.Tx) (err error) {
		const insert = `INSERT INTO store (only_row, epoch) VALUES (1, $1) ON CONFLICT DO NOTHING`
		if _, err := tx.ExecContext(ctx, insert, rand.Text()); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE store SET etag_key = $1 WHERE length(etag_key) = 0`, key)
		if err != nil {
			return err
		}
		s.tags, _, err = scanStore(tx.QueryRowContext(ctx, selectStore))
		return err
	})
}

const selectStore = `SELECT epoch, etag_key, unkeyed_up_to, highest_reported, resumed_below FROM store`

// scanStore reads the row of selectStore.
func scanStore(row scanner) (t models.Tags, r models.Observed, err error) {
	err = row.Scan(&t.Epoch, &t.Key, &t.UnkeyedUpTo, &r.Highest, &r.ResumedBelow)
	return t, r, err
}

// Tags implements database.Store.
func (s *Store) Tags() models.Tags { return s.tags }

// inTx is Write of the driver, explained and measured as op.
func (s *Store) inTx(ctx context.Context, op operation, f func(*sql.Tx) error) (err error) {
	defer s.ended(op, time.Now(), &err)
	return s.explain(s.driver.Write(ctx, f))
}

// explain turns sql.ErrNoRows into models.ErrNotFound, and has the driver explain any
// other error.
func (s *Store) explain(err error) error { return explain(err, s.driver.Explain) }

func explain(err error, byDriver func(error) error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return models.ErrNotFound
	}
	return byDriver(err)
}

// reader returns the source of single queries.
func (s *Store) reader() source { return source{s.driver.Reader(), s.driver.Explain} }

// scanner is an *sql.Row or an *sql.Rows.
type scanner interface{ Scan(into ...any) error }

// queryer is an *sql.DB or an *sql.Tx.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// source is a queryer, and the Explain of its driver.
type source struct {
	queryer
	byDriver func(error) error
}

// explain is that of Store.
func (f source) explain(err error) error { return explain(err, f.byDriver) }

// read yields each row of a query, and ends with the first error.
func read[T any](
	ctx context.Context, from source, scan func(scanner) (T, error), query string, args ...any,
) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		rows, err := from.QueryContext(ctx, query, args...)
		if err != nil {
			yield(none, from.explain(err))
			return
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			v, err := scan(rows)
			if !yield(v, from.explain(err)) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(none, from.explain(err))
		}
	}
}

// list returns every row of a query.
func list[T any](
	ctx context.Context, from source, scan func(scanner) (T, error), query string, args ...any,
) (all []T, err error) {
	for v, err := range read(ctx, from, scan, query, args...) {
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// fromTime returns a time as it is stored: in microseconds since 1970 UTC, 0 for the
// zero time.
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
