// Package database is what the controller asks of its store, and the laws that every
// store keeps:
//
//   - A write that returned nil is durable. One that returned an error changed nothing,
//     unless the error is ErrInDoubt as well.
//   - A write is one transaction. What a rule decides on is what that transaction reads.
//   - Versions are 1, 2, 3, … without gaps, but above what agents were observed to run.
//     No version and no entry of the audit log is ever changed or removed.
//
// Package databasetest is the suite that every store passes.
package database

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// The errors of a store, beside models.ErrNotFound. Errors of a driver match one of
// them, and never leave the store's package.
var (
	ErrBusy     = errors.New("the database is locked by another process, or too many writes wait for it")
	ErrFull     = errors.New("the disk or the database is full")
	ErrReadOnly = errors.New("the database cannot be written")
	ErrIO       = errors.New("the disk under the database fails; look at the kernel's log")
	ErrCorrupt  = errors.New("the file is damaged or is no SQLite database; restore a backup, or move the file away to begin again")
	ErrMoved    = errors.New("the database file or a journal of it was removed or replaced while it is open")

	// ErrInDoubt accompanies another error: the write failed when it was committed, and
	// may be on the disk all the same.
	ErrInDoubt = errors.New("the write may or may not be on the disk")
)

// Store keeps the versions, the agents and the audit log, forever.
type Store interface {
	// Tags makes and verifies the ETags of this store.
	Tags() models.Tags
	// Ping returns why the store cannot do its work at the moment, nil if it can. It
	// returns in time, also if the disk hangs.
	Ping(ctx context.Context) error

	// Plan returns the plan as it is stored.
	Plan(ctx context.Context) (*models.Plan, error)
	// Append stores the change that rule makes of the plan as the transaction reads it,
	// and returns the plan after it. It stores nothing if rule returns nil or an error,
	// which it returns as it is.
	Append(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) (*models.Plan, error)
	// Config returns a version, or models.ErrNotFound.
	Config(ctx context.Context, version int64) (*models.Config, error)
	// Configs returns up to limit versions below before, newest first.
	Configs(ctx context.Context, before int64, limit int) ([]*models.Config, error)
	// Figures returns the last figures of a version that was superseded, and the version
	// after it. It returns models.ErrNotFound if there are none.
	Figures(ctx context.Context, version int64) (figures models.Figures, supersededBy int64, err error)

	// Agents returns every agent in the order of registration.
	Agents(ctx context.Context) ([]models.Agent, error)
	// SaveAgent stores a new agent, or what a registration changes of the known one of
	// that id, and the entries with it. It returns the agent's place in the order of
	// registration. It leaves the presence of a known agent alone.
	SaveAgent(ctx context.Context, a models.Agent, entries ...models.Entry) (seq int64, err error)
	// DeleteAgents removes agents with their presence, and adds the entry to the audit
	// log. It ignores ids that are unknown. The seq of an agent is never used again.
	DeleteAgents(ctx context.Context, ids []string, entry models.Entry) error
	// SavePresence stores what polls say of agents, what reports say of those that are
	// Reported, and the entries with it. It ignores agents that are unknown by now, and
	// may sort the batch.
	SavePresence(ctx context.Context, batch []Presence, entries ...models.Entry) error
	// SaveReports stores what reports say of agents, all of which wait for it. It ignores
	// and sorts like SavePresence.
	SaveReports(ctx context.Context, batch []Presence) error

	// AppendAudit adds entries to the audit log.
	AppendAudit(ctx context.Context, entries ...models.Entry) error
	// Audit returns up to limit entries before the one of that Seq, newest first; 0
	// begins with the newest. An action that is not empty leaves out all others.
	Audit(ctx context.Context, action models.Action, before int64, limit int) ([]models.Entry, error)
}

// Presence is that of one agent, to be stored. What polls say is LastPoll, PollInterval,
// Transport and Degraded. What reports say is the rest, which few polls change.
type Presence struct {
	Seq int64 // the agent's
	models.Presence
	Reported bool // what reports say may differ from what is stored
}

// acquireTimeout is how long a write waits for those before it. It is less than the
// timeout of a client, so that the client learns that nothing was done.
const acquireTimeout = 10 * time.Second

// Lock serializes writes whose effect is in the store and in memory. Unlike a mutex, a
// caller can give up waiting: the write of a client that disconnected is not done later.
type Lock struct{ s *semaphore.Weighted }

// NewLock returns a Lock that is free.
func NewLock() Lock { return Lock{semaphore.NewWeighted(1)} }

// Acquire returns nil once the caller holds the lock, the error of ctx, or ErrBusy
// after 10 s.
func (l Lock) Acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, acquireTimeout, ErrBusy)
	defer cancel()
	if l.s.Acquire(bounded, 1) != nil {
		return context.Cause(bounded)
	}
	return nil
}

// Release lets the next writer in.
func (l Lock) Release() { l.s.Release(1) }
