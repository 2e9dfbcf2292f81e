package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

const selectAgents = `SELECT seq, id, hostname, metadata, registered_at, token, previous_token,
	last_poll, poll_interval_seconds, applied_version, attempt_version, attempt_status, attempt_error, attempt_at, refused_version,
	refused_error, applied_at, transport, secret, certificate, degraded FROM agents ORDER BY seq`

// Agents returns every agent in the order of registration.
func (db *DB) Agents(ctx context.Context) (agents []models.Agent, err error) {
	defer db.metrics.ended(reading, time.Now(), &err)
	return list(ctx, db.reader, scanAgent, selectAgents)
}

// scanAgent reads a row of selectAgents.
func scanAgent(row scanner) (a models.Agent, err error) {
	var (
		token, previous, secret                               []byte
		registeredAt, lastPoll, seconds, attemptAt, appliedAt int64
	)
	err = row.Scan(&a.Seq, &a.ID, &a.Hostname, &a.Metadata, &registeredAt, &token, &previous,
		&lastPoll, &seconds, &a.Applied, &a.Attempt.Version, &a.Attempt.Status, &a.Attempt.Error, &attemptAt, &a.Refused.Version,
		&a.Refused.Error, &appliedAt, &a.Transport, &secret, &a.Certificate, &a.Degraded)
	copy(a.Token[:], token)
	copy(a.PreviousToken[:], previous)
	copy(a.Secret[:], secret)
	a.RegisteredAt, a.LastPoll, a.Attempt.At, a.AppliedAt = toTime(registeredAt), toTime(lastPoll), toTime(attemptAt), toTime(appliedAt)
	a.PollInterval = time.Duration(seconds) * time.Second
	return a, err
}

// SaveAgent stores a new agent, or the known one of that id anew, and the entries
// with it in one transaction, and returns its place in the order of registration.
// It leaves presence alone.
func (db *DB) SaveAgent(ctx context.Context, a models.Agent, entries ...models.Entry) (seq int64, err error) {
	err = db.inTx(ctx, registering, func(tx *sql.Tx) (err error) {
		if seq, err = upsertAgent(ctx, tx, a); err != nil {
			return err
		}
		return insertEntries(ctx, tx, entries)
	})
	return seq, explain(err)
}

func upsertAgent(ctx context.Context, tx *sql.Tx, a models.Agent) (seq int64, err error) {
	err = tx.QueryRowContext(ctx, `INSERT INTO agents
		(id, hostname, metadata, registered_at, token, previous_token, poll_interval_seconds, secret, certificate)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (id) DO UPDATE SET hostname = excluded.hostname, metadata = excluded.metadata,
			token = excluded.token, previous_token = excluded.previous_token,
			secret = excluded.secret, certificate = excluded.certificate
		RETURNING seq`,
		a.ID, a.Hostname, string(a.Metadata), fromTime(a.RegisteredAt), a.Token[:], a.PreviousToken[:],
		int64(a.PollInterval/time.Second), a.Secret[:], a.Certificate).Scan(&seq)
	return seq, err
}

// DeleteAgents removes agents, and adds the entry to the audit trail.
func (db *DB) DeleteAgents(ctx context.Context, ids []string, entry models.Entry) error {
	return explain(db.inTx(ctx, removing, func(tx *sql.Tx) error {
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
	}))
}

// SavePresence stores the presence of agents, and the entries with it, in one
// transaction. An agent that is unknown by now is passed over.
func (db *DB) SavePresence(ctx context.Context, batch map[string]models.Presence, entries ...models.Entry) error {
	return db.savePresence(ctx, present, batch, entries)
}

// SaveReports stores the presence of agents that wait for it, as SavePresence
// does.
func (db *DB) SaveReports(ctx context.Context, batch map[string]models.Presence) error {
	return db.savePresence(ctx, reporting, batch, nil)
}

func (db *DB) savePresence(ctx context.Context, op operation, batch map[string]models.Presence, entries []models.Entry) error {
	return explain(db.inTx(ctx, op, func(tx *sql.Tx) error {
		update, err := preparePresence(ctx, tx)
		if err != nil {
			return err
		}
		defer func() { _ = update.Close() }()
		for id, p := range batch {
			if err := updatePresence(ctx, update, id, p); err != nil {
				return err
			}
		}
		return insertEntries(ctx, tx, entries)
	}))
}

func preparePresence(ctx context.Context, tx *sql.Tx) (*sql.Stmt, error) {
	return tx.PrepareContext(ctx, `UPDATE agents SET last_poll = $1, poll_interval_seconds = $2, applied_version = $3, applied_at = $4,
		attempt_version = $5, attempt_status = $6, attempt_error = $7, attempt_at = $8, refused_version = $9, refused_error = $10, transport = $11,
		degraded = $12 WHERE id = $13`)
}

func updatePresence(ctx context.Context, update *sql.Stmt, id string, p models.Presence) error {
	_, err := update.ExecContext(ctx, fromTime(p.LastPoll), int64(p.PollInterval/time.Second), p.Applied, fromTime(p.AppliedAt),
		p.Attempt.Version, string(p.Attempt.Status), p.Attempt.Error, fromTime(p.Attempt.At), p.Refused.Version, p.Refused.Error, string(p.Transport), p.Degraded, id)
	return err
}
