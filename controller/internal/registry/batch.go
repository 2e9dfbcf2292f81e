package registry

import (
	"context"
	"slices"
	"sync"

	"github.com/fleetconf/fleetconf/controller/internal/database"
)

// batch is the agents whose presence the store is to be told, in one write.
type batch struct {
	mark func(*Agent) *bool // where an agent notes that it stands here; its lock guards that
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

// holds reports whether an agent stands in the batch.
func (b *batch) holds(live *Agent) bool {
	live.mu.Lock()
	defer live.mu.Unlock()
	return *b.mark(live)
}

// atOnce is how many agents one write tells of: a publish that comes meanwhile
// waits for no more than that.
const atOnce = 4096

// store empties the batch into the store. After an error it holds what was not
// stored.
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

// unsaved returns the presence to be stored of an agent, whose lock the caller holds.
func (a *Agent) unsaved() database.Presence {
	return database.Presence{Seq: a.seq, Presence: a.agent.Presence, Reported: a.reportUnsaved}
}

// keep puts agents back that were taken out. They are stored as a whole.
func (b *batch) keep(agents []*Agent) {
	for _, live := range agents {
		live.mu.Lock()
		*b.mark(live), live.reportUnsaved = false, true
		b.add(live)
		live.mu.Unlock()
	}
}
