package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

const selectAgents = `SELECT seq, id, hostname, metadata, registered_at, token, previous_token, secret, certificate,
	last_poll, poll_interval_seconds, transport, degraded, applied_version, applied_at,
	attempt_version, attempt_status, attempt_error, attempt_at, refused_version, refused_error
	FROM agents JOIN presence USING (seq) ORDER BY seq`

// Agents returns every agent in the order of registration.
func (s *Store) Agents(ctx context.Context) (agents []models.Agent, err error) {
	defer s.ended(reading, time.Now(), &err)
	return list(ctx, s.reader(), scanAgent, selectAgents)
}

// scanAgent reads a row of selectAgents.
func scanAgent(row scanner) (a models.Agent, err error) {
	var (
		token, previous, secret                               []byte
		registeredAt, lastPoll, seconds, attemptAt, appliedAt int64
	)
	err = row.Scan(&a.Seq, &a.ID, &a.Hostname, &a.Metadata, &registeredAt, &token, &previous, &secret, &a.Certificate,
		&lastPoll, &seconds, &a.Transport, &a.Degraded, &a.Applied, &appliedAt,
		&a.Attempt.Version, &a.Attempt.Status, &a.Attempt.Error, &attemptAt, &a.Refused.Version, &a.Refused.Error)
	copy(a.Token[:], token)
	copy(a.PreviousToken[:], previous)
	copy(a.Secret[:], secret)
	a.RegisteredAt, a.LastPoll = toTime(registeredAt), toTime(lastPoll)
	a.Attempt.At, a.AppliedAt = toTime(attemptAt), toTime(appliedAt)
	a.PollInterval = time.Duration(seconds) * time.Second
	return a, err
}

// SaveAgent implements database.Store.
func (s *Store) SaveAgent(ctx context.Context, a models.Agent, entries ...models.Entry) (seq int64, err error) {
	err = s.inTx(ctx, registering, func(tx *sql.Tx) (err error) {
		if seq, err = upsertAgent(ctx, tx, a); err != nil {
			return err
		}
		return insertEntries(ctx, tx, entries)
	})
	return seq, err
}

func upsertAgent(ctx context.Context, tx *sql.Tx, a models.Agent) (seq int64, err error) {
	err = tx.QueryRowContext(ctx, `INSERT INTO agents
		(id, hostname, metadata, registered_at, token, previous_token, secret, certificate)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (id) DO UPDATE SET hostname = excluded.hostname, metadata = excluded.metadata,
			token = excluded.token, previous_token = excluded.previous_token,
			secret = excluded.secret, certificate = excluded.certificate
		RETURNING seq`,
		a.ID, a.Hostname, string(a.Metadata), fromTime(a.RegisteredAt), a.Token[:], a.PreviousToken[:],
		a.Secret[:], a.Certificate).Scan(&seq)
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO presence (seq, poll_interval_seconds) VALUES ($1, $2)
		ON CONFLICT (seq) DO NOTHING`, seq, int64(a.PollInterval/time.Second))
	return seq, err
}

// DeleteAgents implements database.Store. The schema deletes their presence with them.
func (s *Store) DeleteAgents(ctx context.Context, ids []string, entry models.Entry) error {
	return s.inTx(ctx, removing, func(tx *sql.Tx) error {
		remove, err := tx.PrepareContext(ctx, `DELETE FROM agents WHERE id = $1`)
		if err != nil {
			return err
		}
		defer func() { _ = remove.Close() }()
		for _, id := range ids {
			if _, err := remove.ExecContext(ctx, id); err != nil {
				return err
			}
		}
		return insertEntries(ctx, tx, []models.Entry{entry})
	})
}

// SavePresence implements database.Store.
func (s *Store) SavePresence(ctx context.Context, batch []database.Presence, entries ...models.Entry) error {
	return s.inTx(ctx, present, func(tx *sql.Tx) error {
		if err := savePresence(ctx, tx, batch, (*presence).savePoll); err != nil {
			return err
		}
		return insertEntries(ctx, tx, entries)
	})
}

// SaveReports implements database.Store.
func (s *Store) SaveReports(ctx context.Context, batch []database.Presence) error {
	return s.inTx(ctx, reporting, func(tx *sql.Tx) error {
		return savePresence(ctx, tx, batch, (*presence).saveReport)
	})
}

// savePresence applies save to a batch in the order of the table, so that the database
// writes each page once.
func savePresence(
	ctx context.Context, tx *sql.Tx, batch []database.Presence,
	save func(*presence, context.Context, database.Presence) error,
) error {
	update, err := preparePresence(ctx, tx)
	if err != nil {
		return err
	}
	defer update.close()
	slices.SortFunc(batch, func(a, b database.Presence) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, p := range batch {
		if err := save(update, ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// presence updates rows of the table of that name, one column group at a time.
type presence struct{ polls, reports *sql.Stmt }

func preparePresence(ctx context.Context, tx *sql.Tx) (*presence, error) {
	polls, err := tx.PrepareContext(ctx, `UPDATE presence SET
		last_poll = $1, poll_interval_seconds = $2, transport = $3, degraded = $4 WHERE seq = $5`)
	if err != nil {
		return nil, err
	}
	reports, err := tx.PrepareContext(ctx, `UPDATE presence SET applied_version = $1, applied_at = $2,
		attempt_version = $3, attempt_status = $4, attempt_error = $5, attempt_at = $6,
		refused_version = $7, refused_error = $8 WHERE seq = $9`)
	if err != nil {
		_ = polls.Close()
		return nil, err
	}
	return &presence{polls, reports}, nil
}

func (u *presence) close() {
	_ = u.polls.Close()
	_ = u.reports.Close()
}

// savePoll updates what polls say of an agent, and what reports say if that changed.
func (u *presence) savePoll(ctx context.Context, p database.Presence) error {
	_, err := u.polls.ExecContext(ctx,
		fromTime(p.LastPoll), int64(p.PollInterval/time.Second), string(p.Transport), p.Degraded, p.Seq)
	if err != nil || !p.Reported {
		return err
	}
	return u.saveReport(ctx, p)
}

// saveReport updates what reports say of an agent.
func (u *presence) saveReport(ctx context.Context, p database.Presence) error {
	_, err := u.reports.ExecContext(ctx, p.Applied, fromTime(p.AppliedAt),
		p.Attempt.Version, string(p.Attempt.Status), p.Attempt.Error, fromTime(p.Attempt.At),
		p.Refused.Version, p.Refused.Error, p.Seq)
	return err
}
