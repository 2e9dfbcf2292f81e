package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Plan implements database.Store.
func (s *Store) Plan(ctx context.Context) (plan *models.Plan, err error) {
	defer s.ended(reading, time.Now(), &err)
	tx, err := s.driver.BeginRead(ctx) // the parts of a plan are of one revision
	if err != nil {
		return nil, s.explain(err)
	}
	defer func() { _ = tx.Rollback() }()
	plan, err = readPlan(ctx, tx)
	return plan, s.explain(err)
}

// Append implements database.Store.
func (s *Store) Append(
	ctx context.Context, rule func(*models.Plan) (*models.Change, error),
) (next *models.Plan, err error) {
	op, began := publishing, time.Now()
	defer func() { s.ended(op, began, &err) }()
	err = s.driver.Write(ctx, func(tx *sql.Tx) error {
		plan, err := readPlan(ctx, tx)
		if err != nil {
			return err
		}
		next = plan
		change, err := rule(plan)
		if err != nil || change == nil {
			return err
		}
		op = operationOf(change)
		if next, err = plan.Apply(change); err != nil {
			return err
		}
		return storeChange(ctx, tx, plan, next, change)
	})
	if err != nil {
		return nil, s.explain(err)
	}
	return next, nil
}

// operationOf returns the operation that a change is measured as.
func operationOf(c *models.Change) operation {
	switch {
	case c.Config != nil:
		return publishing
	case c.Freeze != nil || c.Unfreeze:
		return freezing
	}
	return conflicting
}

// readPlan reads the plan.
func readPlan(ctx context.Context, from queryer) (*models.Plan, error) {
	var plan models.Plan
	row := from.QueryRowContext(ctx, `SELECT revision, highest_reported, resumed_below FROM store`)
	if err := row.Scan(&plan.Revision, &plan.Observed.Highest, &plan.Observed.ResumedBelow); err != nil {
		return nil, err
	}
	newest, err := scanConfig(from.QueryRowContext(ctx, selectConfig+`ORDER BY version DESC LIMIT 1`))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	if err == nil {
		if plan.Newest, err = models.NewRelease(newest); err != nil {
			return nil, err
		}
	}
	plan.Freeze, err = scanFreeze(from.QueryRowContext(ctx, selectFreeze))
	return &plan, err
}

// storeChange stores a change of plan, after which it is next.
func storeChange(ctx context.Context, tx *sql.Tx, plan, next *models.Plan, c *models.Change) error {
	_, err := tx.ExecContext(ctx, `UPDATE store SET revision = $1, highest_reported = $2, resumed_below = $3`,
		next.Revision, next.Observed.Highest, next.Observed.ResumedBelow)
	if err != nil {
		return err
	}
	if c.Config != nil {
		if err := insertConfig(ctx, tx, c.Config); err != nil {
			return err
		}
	}
	if c.Figures != nil {
		if err := insertFigures(ctx, tx, plan.Version(), next.Version(), c.Figures); err != nil {
			return err
		}
	}
	if c.Freeze != nil || c.Unfreeze {
		if _, err := tx.ExecContext(ctx, `DELETE FROM freeze`); err != nil {
			return err
		}
	}
	if c.Freeze != nil {
		if err := insertFreeze(ctx, tx, c.Freeze); err != nil {
			return err
		}
	}
	return insertEntries(ctx, tx, c.Audit)
}

const selectFreeze = `SELECT reason, until, frozen_by, frozen_at FROM freeze`

// scanFreeze reads a row of selectFreeze. It returns nil if there is none.
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

func insertFreeze(ctx context.Context, tx *sql.Tx, f *models.Freeze) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO freeze (only_row, reason, until, frozen_by, frozen_at) VALUES (1, $1, $2, $3, $4)`,
		f.Reason, fromTime(f.Until), f.By, fromTime(f.At))
	return err
}
