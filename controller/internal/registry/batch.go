package registry

import (
	"context"
	"slices"
	"sync"

	"github.com/fleetconf/fleetconf/controller/internal/database"
)

// batch collects agents whose presence goes to the store in one write.
type batch struct {
	mark func(*Agent) *bool // whether an agent is in the batch; the agent's lock guards it
	save func(context.Context, []database.Presence) error

	mu     sync.Mutex // guards agents
	agents []*Agent
}

// add puts an agent, whose lock the caller holds, into the batch.
func (b *batch) add(live *Agent) {
	if mark := b.mark(live); !*mark && !live.deregistered {
		*mark = true
		b.mu.Lock()
		defer b.mu.Unlock()
		b.agents = append(b.agents, live)
	}
}

// holds reports whether an agent is in the batch.
func (b *batch) holds(live *Agent) bool {
	live.mu.Lock()
	defer live.mu.Unlock()
	return *b.mark(live)
}

// atOnce is how many agents one write stores at most. It bounds how long a publish waits.
const atOnce = 4096

// store writes the batch to the store and empties it. After an error the batch has the
// agents that were not stored.
func (b *batch) store(ctx context.Context) error {
	b.mu.Lock()
	agents := b.agents
	b.agents = nil
	b.mu.Unlock()
	var failed error
	for part := range slices.Chunk(agents, atOnce) {
		if failed == nil {
			failed = b.write(ctx, part)
		} else {
			b.keep(part)
		}
	}
	return failed
}

func (b *batch) write(ctx context.Context, agents []*Agent) error {
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

// unsaved returns the presence of an agent for the store. The caller holds its lock.
func (a *Agent) unsaved() database.Presence {
	return database.Presence{Seq: a.seq, Presence: a.agent.Presence, Reported: a.reportUnsaved}
}

// keep puts agents back into the batch. Both column groups are stored, because a write
// that failed may have included reports.
func (b *batch) keep(agents []*Agent) {
	for _, live := range agents {
		live.mu.Lock()
		*b.mark(live), live.reportUnsaved = false, true
		b.add(live)
		live.mu.Unlock()
	}
}
