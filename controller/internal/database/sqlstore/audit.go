package sqlstore

import (
	"context"
	"database/sql"
	"math"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

const selectEntries = `SELECT seq, at, actor, source_ip, action, version, detail FROM audit `

// scanEntry reads a row of selectEntries.
func scanEntry(row scanner) (e models.Entry, err error) {
	var at int64
	err = row.Scan(&e.Seq, &at, &e.Actor, &e.SourceIP, &e.Action, &e.Version, &e.Detail)
	e.At = toTime(at)
	return e, err
}

// AppendAudit implements database.Store.
func (s *Store) AppendAudit(ctx context.Context, entries ...models.Entry) error {
	return s.inTx(ctx, auditing, func(tx *sql.Tx) error { return insertEntries(ctx, tx, entries) })
}

// Audit implements database.Store.
func (s *Store) Audit(
	ctx context.Context, action models.Action, before int64, limit int,
) (entries []models.Entry, err error) {
	defer s.ended(reading, time.Now(), &err)
	if before == 0 {
		before = math.MaxInt64
	}
	const page = selectEntries + `WHERE seq < $1 AND ($2 = '' OR action = $3) ORDER BY seq DESC LIMIT $4`
	return list(ctx, s.reader(), scanEntry, page, before, string(action), string(action), limit)
}

func insertEntries(ctx context.Context, tx *sql.Tx, entries []models.Entry) error {
	for _, e := range entries {
		if _, err := tx.ExecContext(ctx, `INSERT INTO audit (at, actor, source_ip, action, version, detail)
			VALUES ($1, $2, $3, $4, $5, $6)`,
			fromTime(e.At), e.Actor, e.SourceIP, string(e.Action), e.Version, e.Detail); err != nil {
			return err
		}
	}
	return nil
}
