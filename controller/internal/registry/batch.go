package registry

import (
	"context"
	"slices"
	"sync"

	"github.com/fleetconf/fleetconf/controller/internal/database"
)

// batch collects the agents whose presence is to be stored.
type batch struct {
	mark func(*Agent) *bool // the agent's flag that it is in the batch; its lock guards that
	save func(context.Context, []database.Presence) error
	lock *database.Lock // acquired for each write, before its agents are read; nil: the caller of store holds it

	mu     sync.Mutex // guards agents
	agents []*Agent
}

// add adds an agent to the batch. The caller holds the agent's lock.
func (b *batch) add(live *Agent) {
	if mark := b.mark(live); !*mark && !live.deregistered {
		*mark = true
		b.mu.Lock()
		defer b.mu.Unlock()
		b.agents = append(b.agents, live)
	}
}

// contains reports whether an agent is in the batch.
func (b *batch) contains(live *Agent) bool {
	live.mu.Lock()
	defer live.mu.Unlock()
	return *b.mark(live)
}

// batchSize is the most agents in one write, which bounds how long a publish waits for
// it.
const batchSize = 4096

// store writes the batch to the store and empties it. After an error, the batch keeps
// the agents that were not stored.
func (b *batch) store(ctx context.Context) error {
	b.mu.Lock()
	agents := b.agents
	b.agents = nil
	b.mu.Unlock()
	var failed error
	for part := range slices.Chunk(agents, batchSize) {
		if failed == nil {
			failed = b.write(ctx, part)
		} else {
			b.keep(part)
		}
	}
	return failed
}

// write stores some agents. No other write of their presence may come between reading and
// storing it: that one would be overwritten by what was read before.
func (b *batch) write(ctx context.Context, agents []*Agent) error {
	if b.lock != nil {
		if err := b.lock.Acquire(ctx); err != nil {
			b.keep(agents)
			return err
		}
		defer b.lock.Release()
	}
	presence := make([]database.Presence, 0, len(agents))
	for _, live := range agents {
		live.mu.Lock()
		if *b.mark(live) = false; !live.deregistered {
			presence = append(presence, live.unsaved())
			live.reportUnsaved = false
		}
		live.mu.Unlock()
	}
	err := b.save(ctx, presence)
	if err != nil {
		b.keep(agents)
	}
	return err
}

// unsaved returns the agent's presence for the store. The caller holds the agent's lock.
func (a *Agent) unsaved() database.Presence {
	return database.Presence{Seq: a.place.Seq, Presence: a.agent.Presence, Reported: a.reportUnsaved}
}

// keep returns agents to the batch. Their next write has both column groups, because the
// failed one may have included reports.
func (b *batch) keep(agents []*Agent) {
	for _, live := range agents {
		live.mu.Lock()
		*b.mark(live), live.reportUnsaved = false, true
		b.add(live)
		live.mu.Unlock()
	}
}
