package fleettest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Batches is a store that records only the sizes of its writes.
type Batches struct {
	database.Store // nil: no other method is called

	mu       sync.Mutex
	batches  []int
	removals []int
	fails    bool
}

// Agents implements database.Store.
func (b *Batches) Agents(context.Context) ([]models.Agent, error) { return nil, nil }

// SaveAgent implements database.Store.
func (b *Batches) SaveAgent(_ context.Context, a models.Agent, _ ...models.Entry) (int64, error) {
	return max(a.Seq, time.Now().UnixNano()), nil
}

// DeleteAgents implements database.Store.
func (b *Batches) DeleteAgents(_ context.Context, ids []string, _ models.Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.removals = append(b.removals, len(ids))
	return nil
}

// SavePresence implements database.Store.
func (b *Batches) SavePresence(_ context.Context, batch []database.Presence, _ ...models.Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batches = append(b.batches, len(batch))
	if b.fails {
		return database.ErrFull
	}
	return nil
}

// SaveReports implements database.Store.
func (b *Batches) SaveReports(ctx context.Context, batch []database.Presence) error {
	return b.SavePresence(ctx, batch)
}

// Written returns the sizes of the batches of presence.
func (b *Batches) Written() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]int(nil), b.batches...)
}

// Fail makes every write of presence fail, or none.
func (b *Batches) Fail(fails bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails = fails
}

// Removals returns the number of agents in each removal.
func (b *Batches) Removals() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]int(nil), b.removals...)
}

// Lossy is a store whose publishes may fail, with or without reaching the disk.
type Lossy struct {
	*sqlite.DB
	Stores bool        // a failed commit reaches the disk
	Fails  atomic.Bool // commits fail
}

// ErrDisk is the error of a failed commit of Lossy.
var ErrDisk = errors.New("input/output error")

// Append implements database.Store.
func (l *Lossy) Append(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) (*models.Plan, error) {
	if l.Fails.Load() && !l.Stores {
		return nil, ErrDisk
	}
	plan, err := l.DB.Append(ctx, rule)
	if err == nil && l.Fails.Load() {
		return nil, ErrDisk
	}
	return plan, err
}

// Broker is an Announcer that is down or unresponsive for a time.
type Broker struct {
	Down, Hanging time.Duration // since Began
	Began         time.Time

	mu    sync.Mutex // guards the rest
	Calls int
	Taken []models.Announcement
}

// ErrDown is the error of a Broker that is down.
var ErrDown = errors.New("connection refused")

// Announce implements publish.Announcer.
func (b *Broker) Announce(ctx context.Context, a models.Announcement) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Calls++
	switch since := time.Since(b.Began); {
	case since < b.Hanging:
		<-ctx.Done()
		return ctx.Err()
	case since < b.Down:
		return ErrDown
	}
	b.Taken = append(b.Taken, a)
	return nil
}

// Versions returns the announced versions, in order.
func (b *Broker) Versions() (all []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.Taken {
		all = append(all, a.Version)
	}
	return all
}

// Observed is a store that calls OnWrite when a write begins.
type Observed struct {
	*sqlite.DB
	OnWrite func()
}

// Append implements database.Store.
func (o *Observed) Append(ctx context.Context, rule func(*models.Plan) (*models.Change, error)) (*models.Plan, error) {
	o.OnWrite()
	return o.DB.Append(ctx, rule)
}

// SaveAgent implements database.Store.
func (o *Observed) SaveAgent(ctx context.Context, a models.Agent, entries ...models.Entry) (int64, error) {
	o.OnWrite()
	return o.DB.SaveAgent(ctx, a, entries...)
}

// DeleteAgents implements database.Store.
func (o *Observed) DeleteAgents(ctx context.Context, ids []string, entry models.Entry) error {
	o.OnWrite()
	return o.DB.DeleteAgents(ctx, ids, entry)
}

// SavePresence implements database.Store.
func (o *Observed) SavePresence(ctx context.Context, batch []database.Presence, entries ...models.Entry) error {
	o.OnWrite()
	return o.DB.SavePresence(ctx, batch, entries...)
}

// SaveReports implements database.Store.
func (o *Observed) SaveReports(ctx context.Context, batch []database.Presence) error {
	o.OnWrite()
	return o.DB.SaveReports(ctx, batch)
}

// AppendAudit implements database.Store.
func (o *Observed) AppendAudit(ctx context.Context, entries ...models.Entry) error {
	o.OnWrite()
	return o.DB.AppendAudit(ctx, entries...)
}
