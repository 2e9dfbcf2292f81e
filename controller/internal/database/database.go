// Package database defines the controller's store, and the laws that every
// implementation keeps:
//
//   - A write that returned nil is durable. One that returned an error changed nothing,
//     unless the error is ErrInDoubt as well.
//   - A write is one transaction. A rule decides on the plan that the transaction reads.
//   - Versions are 1, 2, 3, … without gaps, except that a version is above those that
//     agents were observed to run.
//   - No version and no entry of the audit log is ever changed or removed.
//
// Package databasetest is the suite of these laws.
package database

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// The errors of a store, beside models.ErrNotFound. Errors of a driver are wrapped in
// the one that they match.
var (
	ErrBusy     = errors.New("the database is locked by another process, or too many writes wait for it")
	ErrFull     = errors.New("the disk or the database is full")
	ErrReadOnly = errors.New("the database cannot be written")
	ErrIO       = errors.New("the disk under the database fails; look at the kernel's log")
	ErrCorrupt  = errors.New("the file is damaged or is no SQLite database; " +
		"restore a backup, or move the file away to begin again")
	ErrMoved = errors.New("the database file or a journal of it was removed or replaced while it is open")

	// ErrInDoubt accompanies another error: the commit failed, and the write may be on the
	// disk all the same.
	ErrInDoubt = errors.New("the write may or may not be on the disk")
)

// Store stores versions, agents and the audit log.
type Store interface {
	// Tags returns what creates and verifies the ETags of this store.
	Tags() models.Tags
	// Ping returns why the store cannot be read or written at the moment, nil if it can.
	// It returns within a few seconds, also if the disk hangs.
	Ping(ctx context.Context) error

	// Plan returns the stored plan, all of one revision.
	Plan(ctx context.Context) (*models.Plan, error)
	// Append stores the change that rule makes of the plan that the transaction reads,
	// and returns the plan after it. If rule returns nil or an error, it stores nothing,
	// and returns that error.
	Append(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) (*models.Plan, error)
	// Config returns a version, or models.ErrNotFound.
	Config(ctx context.Context, version int64) (*models.Config, error)
	// Configs returns up to limit versions below before, newest first.
	Configs(ctx context.Context, before int64, limit int) ([]*models.Config, error)
	// Figures returns the last figures of a superseded version, and the version that
	// superseded it, or models.ErrNotFound.
	Figures(ctx context.Context, version int64) (figures models.Figures, supersededBy int64, err error)

	// Agents returns every agent in the order of registration.
	Agents(ctx context.Context) ([]models.Agent, error)
	// SaveAgent stores a new agent, or what a registration changes of the known one with
	// that id, and adds the entries to the audit log. It returns the agent's Seq. It does
	// not change RegisteredAt and Presence of a known agent.
	SaveAgent(ctx context.Context, a models.Agent, entries ...models.Entry) (seq int64, err error)
	// DeleteAgents deletes agents with their presence, and adds the entry to the audit
	// log. It ignores unknown ids. The Seq of a deleted agent is never used again.
	DeleteAgents(ctx context.Context, ids []string, entry models.Entry) error
	// SavePresence stores the columns that polls set and, of agents with Reported, those
	// that reports set, and adds the entries to the audit log. It ignores agents that were
	// deleted, and may reorder the batch.
	SavePresence(ctx context.Context, batch []Presence, entries ...models.Entry) error
	// SaveReports stores only the columns that reports set. Agents wait for it.
	SaveReports(ctx context.Context, batch []Presence) error

	// AppendAudit adds entries to the audit log.
	AppendAudit(ctx context.Context, entries ...models.Entry) error
	// Audit returns up to limit entries with a Seq below before, newest first; 0 stands
	// for no bound. It returns entries of one action, or of all if action is empty.
	Audit(ctx context.Context, action models.Action, before int64, limit int) ([]models.Entry, error)
}

// Presence is the presence of one agent, to be stored. Polls set LastPoll, PollInterval,
// Transport and Degraded; reports, and few polls, set the rest.
type Presence struct {
	Seq int64 // of the agent
	models.Presence
	Reported bool // the store may lack what reports set
}

// acquireTimeout is how long a write waits for those before it. It is shorter than the
// timeout of clients, so that these receive ErrBusy.
const acquireTimeout = 10 * time.Second

// Lock serializes writes to the store and to memory. Unlike with a mutex, a caller can
// stop waiting: the write of a client that has disconnected is not done later.
type Lock struct{ s *semaphore.Weighted }

// NewLock returns a free Lock.
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

// Release frees the lock.
func (l Lock) Release() { l.s.Release(1) }
