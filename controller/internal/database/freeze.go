package database

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Freeze returns the freeze that was stored last, nil where there is none.
func (db *DB) Freeze(ctx context.Context) (f *models.Freeze, err error) {
	defer db.metrics.ended(reading, time.Now(), &err)
	f, err = scanFreeze(db.reader.QueryRowContext(ctx, selectFreeze))
	return f, explain(err)
}

const selectFreeze = `SELECT reason, until, frozen_by, frozen_at FROM freeze`

// scanFreeze reads a row of selectFreeze; nil where there is none.
func scanFreeze(row scanner) (*models.Freeze, error) {
	var (
		f         models.Freeze
		until, at int64
	)
	err := row.Scan(&f.Reason, &until, &f.By, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	f.Until, f.At = toTime(until), toTime(at)
	return &f, err
}

// SaveFreeze stores a freeze, or, if f is nil, that there is none, and the
// entry with it.
func (db *DB) SaveFreeze(ctx context.Context, f *models.Freeze, entry models.Entry) error {
	return explain(db.inTx(ctx, freezing, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM freeze`); err != nil {
			return err
		}
		if f != nil {
			if err := insertFreeze(ctx, tx, f); err != nil {
				return err
			}
		}
		return insertEntries(ctx, tx, []models.Entry{entry})
	}))
}

func insertFreeze(ctx context.Context, tx *sql.Tx, f *models.Freeze) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO freeze (only_row, reason, until, frozen_by, frozen_at) VALUES (1, $1, $2, $3, $4)`,
		f.Reason, fromTime(f.Until), f.By, fromTime(f.At))
	return err
}
