package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"iter"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Snapshot is a read transaction on a store, to be read from end to end.
type Snapshot struct {
	tx   *sql.Tx
	from source
	then func() error // called after the end of tx
}

// NewSnapshot returns the snapshot that tx reads; explain is that of a Driver. Close ends
// tx, and calls then.
func NewSnapshot(tx *sql.Tx, explain func(error) error, then func() error) *Snapshot {
	return &Snapshot{tx, source{tx, explain}, then}
}

// Close closes the snapshot.
func (s *Snapshot) Close() error { return errors.Join(s.tx.Rollback(), s.then()) }

// Store returns the tags of the store, and which versions above its own were observed.
func (s *Snapshot) Store(ctx context.Context) (models.Tags, models.Observed, error) {
	t, r, err := scanStore(s.from.QueryRowContext(ctx, selectStore))
	return t, r, s.from.explain(err)
}

// Configs yields every version, oldest first.
func (s *Snapshot) Configs(ctx context.Context) iter.Seq2[*models.Config, error] {
	return read(ctx, s.from, scanConfig, selectConfig+`ORDER BY version`)
}

// Rollouts yields the last figures of every superseded version, oldest first.
func (s *Snapshot) Rollouts(ctx context.Context) iter.Seq2[models.Closed, error] {
	return read(ctx, s.from, scanClosed, selectClosed+`ORDER BY version`)
}

// Entries yields the audit log, oldest first.
func (s *Snapshot) Entries(ctx context.Context) iter.Seq2[models.Entry, error] {
	return read(ctx, s.from, scanEntry, selectEntries+`ORDER BY seq`)
}

// Freeze returns the freeze, nil if there is none.
func (s *Snapshot) Freeze(ctx context.Context) (*models.Freeze, error) {
	f, err := scanFreeze(s.from.QueryRowContext(ctx, selectFreeze))
	return f, s.from.explain(err)
}

// Agents yields every agent in the order of registration.
func (s *Snapshot) Agents(ctx context.Context) iter.Seq2[models.Agent, error] {
	return read(ctx, s.from, scanAgent, selectAgents)
}

// Filling is a transaction that fills an empty store.
type Filling struct {
	tx     *sql.Tx
	update *presence
	end    models.Observed
	keyed  bool // the ETags of the source have keyed hashes
}

// ErrNotEmpty is the error of Fill for a store that is not empty.
var ErrNotEmpty = errors.New("it contains versions, agents or an audit log already; set DB_PATH to a new file")

// Fill fills an empty store in one transaction. It returns the error of fill, or
// ErrNotEmpty. Afterwards the store has another epoch, and s must be closed.
func (s *Store) Fill(ctx context.Context, fill func(*Filling) error) error {
	return s.explain(s.driver.Write(ctx, func(tx *sql.Tx) error {
		var rows int64
		if err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM configs)
			+ (SELECT count(*) FROM agents) + (SELECT count(*) FROM audit)`).Scan(&rows); err != nil {
			return err
		}
		if rows > 0 {
			return ErrNotEmpty
		}
		update, err := preparePresence(ctx, tx)
		if err != nil {
			return err
		}
		defer update.close()
		f := &Filling{tx: tx, update: update}
		if err := fill(f); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE store SET highest_reported = $1, resumed_below = $2`,
			f.end.Highest, f.end.ResumedBelow); err != nil || f.keyed {
			return err
		}
		_, err = tx.ExecContext(ctx,
			`UPDATE store SET unkeyed_up_to = (SELECT coalesce(max(version), 0) FROM configs)`)
		return err
	}))
}

// Store sets the tags of the store, and which versions above its own were observed.
// Tags without a key are of a build whose ETags had no keyed hash: the store keeps the
// key that it has.
func (f *Filling) Store(ctx context.Context, t models.Tags, r models.Observed) error {
	f.end, f.keyed = r, len(t.Key) > 0
	_, err := f.tx.ExecContext(ctx, `UPDATE store SET epoch = $1, highest_reported = 0`, t.Epoch)
	if err != nil || !f.keyed {
		return err
	}
	_, err = f.tx.ExecContext(ctx, `UPDATE store SET etag_key = $1, unkeyed_up_to = $2`, t.Key, t.UnkeyedUpTo)
	return err
}

// Config adds a version above those before. It may leave a gap, of versions that agents
// were observed to run.
func (f *Filling) Config(ctx context.Context, cfg *models.Config) error {
	if _, err := f.tx.ExecContext(ctx, `UPDATE store SET highest_reported = $1
		WHERE $2 > (SELECT coalesce(max(version), 0) FROM configs)`, cfg.Version-1, cfg.Version-1); err != nil {
		return err
	}
	return insertConfig(ctx, f.tx, cfg)
}

// Rollout adds the last figures of a superseded version.
func (f *Filling) Rollout(ctx context.Context, c models.Closed) error {
	return insertFigures(ctx, f.tx, c.Version, c.SupersededBy, &c.Figures)
}

// Entry adds an entry to the audit log.
func (f *Filling) Entry(ctx context.Context, e models.Entry) error {
	return insertEntries(ctx, f.tx, []models.Entry{e})
}

// Freeze freezes publishing.
func (f *Filling) Freeze(ctx context.Context, freeze *models.Freeze) error {
	return insertFreeze(ctx, f.tx, freeze)
}

// Agent adds an agent. Without a secret, one registration with the shared credentials
// is accepted for it.
func (f *Filling) Agent(ctx context.Context, a models.Agent) error {
	seq, err := upsertAgent(ctx, f.tx, a)
	if err != nil {
		return err
	}
	return f.update.savePoll(ctx, database.Presence{Seq: seq, Presence: a.Presence, Reported: true})
}
