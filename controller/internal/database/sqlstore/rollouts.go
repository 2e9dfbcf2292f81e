package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

const selectClosed = `SELECT version, superseded_by, figures FROM rollouts `

// scanClosed reads a row of selectClosed.
func scanClosed(row scanner) (c models.Closed, err error) {
	var text string
	if err := row.Scan(&c.Version, &c.SupersededBy, &text); err != nil {
		return c, err
	}
	return c, json.Unmarshal([]byte(text), &c.Figures)
}

// Figures implements database.Store.
func (s *Store) Figures(
	ctx context.Context, version int64,
) (figures models.Figures, supersededBy int64, err error) {
	defer s.ended(reading, time.Now(), &err)
	c, err := scanClosed(s.reader().QueryRowContext(ctx, selectClosed+`WHERE version = $1`, version))
	if err != nil {
		return figures, 0, fmt.Errorf("rollout of version %d: %w", version, s.explain(err))
	}
	return c.Figures, c.SupersededBy, nil
}

func insertFigures(ctx context.Context, tx *sql.Tx, version, supersededBy int64, figures *models.Figures) error {
	text, err := json.Marshal(figures)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO rollouts (version, superseded_by, figures) VALUES ($1, $2, $3)`,
		version, supersededBy, string(text))
	return err
}
