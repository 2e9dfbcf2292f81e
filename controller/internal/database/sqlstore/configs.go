package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

const selectConfig = `SELECT version, url, poll_interval_seconds, etag, message, published_by, published_at,
	source_ip, coalesce(restored_from, 0), probe FROM configs `

func insertConfig(ctx context.Context, tx *sql.Tx, cfg *models.Config) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO configs
		(version, url, poll_interval_seconds, probe, etag, message,
		published_by, published_at, source_ip, restored_from)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, nullif($10, 0))`,
		cfg.Version, cfg.URL, int64(cfg.PollInterval/time.Second), cfg.Probe, cfg.ETag, cfg.Message,
		cfg.PublishedBy, fromTime(cfg.PublishedAt), cfg.SourceIP, cfg.RestoredFrom)
	return err
}

// Config implements database.Store.
func (s *Store) Config(ctx context.Context, version int64) (cfg *models.Config, err error) {
	defer s.ended(reading, time.Now(), &err)
	cfg, err = scanConfig(s.reader().QueryRowContext(ctx, selectConfig+`WHERE version = $1`, version))
	if err != nil {
		return nil, fmt.Errorf("version %d: %w", version, s.explain(err))
	}
	return cfg, nil
}

// Configs implements database.Store.
func (s *Store) Configs(ctx context.Context, before int64, limit int) (all []*models.Config, err error) {
	defer s.ended(reading, time.Now(), &err)
	const page = selectConfig + `WHERE version < $1 ORDER BY version DESC LIMIT $2`
	return list(ctx, s.reader(), scanConfig, page, before, limit)
}

// scanConfig reads a row of selectConfig. It returns sql.ErrNoRows if there is none.
func scanConfig(row scanner) (*models.Config, error) {
	var (
		cfg                  models.Config
		seconds, publishedAt int64
	)
	err := row.Scan(&cfg.Version, &cfg.URL, &seconds, &cfg.ETag, &cfg.Message,
		&cfg.PublishedBy, &publishedAt, &cfg.SourceIP, &cfg.RestoredFrom, &cfg.Probe)
	if err != nil {
		return nil, err
	}
	cfg.PollInterval = time.Duration(seconds) * time.Second
	cfg.PublishedAt = toTime(publishedAt)
	return &cfg, nil
}
