package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

const selectConfig = `SELECT version, url, poll_interval_seconds, etag, message, published_by, published_at, source_ip, coalesce(restored_from, 0) FROM configs `

// Append stores the version that next makes of the newest one; see
// service.ConfigStore.
func (db *DB) Append(ctx context.Context, next func(newest *models.Config) (*models.Config, error)) error {
	err := db.inTx(ctx, func(tx *sql.Tx) error {
		newest, err := scanConfig(tx.QueryRowContext(ctx, selectConfig+`ORDER BY version DESC LIMIT 1`))
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		cfg, err := next(newest)
		if err != nil || cfg == nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO configs
			(version, url, poll_interval_seconds, etag, message, published_by, published_at, source_ip, restored_from)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, nullif($9, 0))`,
			cfg.Version, cfg.URL, int64(cfg.PollInterval/time.Second), cfg.ETag, cfg.Message,
			cfg.PublishedBy, fromTime(cfg.PublishedAt), cfg.SourceIP, cfg.RestoredFrom)
		return err
	})
	return explain(err)
}

// Newest returns the version with the highest number, or models.ErrNotFound.
func (db *DB) Newest(ctx context.Context) (*models.Config, error) {
	cfg, err := scanConfig(db.reader.QueryRowContext(ctx, selectConfig+`ORDER BY version DESC LIMIT 1`))
	return cfg, explain(err)
}

// Config returns a version, or models.ErrNotFound.
func (db *DB) Config(ctx context.Context, version int64) (*models.Config, error) {
	cfg, err := scanConfig(db.reader.QueryRowContext(ctx, selectConfig+`WHERE version = $1`, version))
	if err != nil {
		return nil, fmt.Errorf("version %d: %w", version, explain(err))
	}
	return cfg, nil
}

// Configs returns up to limit versions below before, newest first.
func (db *DB) Configs(ctx context.Context, before int64, limit int) (configs []*models.Config, err error) {
	rows, err := db.reader.QueryContext(ctx, selectConfig+`WHERE version < $1 ORDER BY version DESC LIMIT $2`, before, limit)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		cfg, err := scanConfig(rows)
		if err != nil {
			return nil, explain(err)
		}
		configs = append(configs, cfg)
	}
	return configs, explain(rows.Err())
}

// scanConfig reads a row of selectConfig; the error is sql.ErrNoRows where
// there is none.
func scanConfig(row interface{ Scan(...any) error }) (*models.Config, error) {
	var (
		cfg                  models.Config
		seconds, publishedAt int64
	)
	err := row.Scan(&cfg.Version, &cfg.URL, &seconds, &cfg.ETag, &cfg.Message,
		&cfg.PublishedBy, &publishedAt, &cfg.SourceIP, &cfg.RestoredFrom)
	if err != nil {
		return nil, err
	}
	cfg.PollInterval = time.Duration(seconds) * time.Second
	cfg.PublishedAt = toTime(publishedAt)
	return &cfg, nil
}
