package registry

import (
	"context"
	"slices"
	"sync"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// batch is the agents whose presence the store is to be told, in one write.
type batch struct {
	mark func(*Agent) *bool // where an agent notes that it stands here; its lock guards that
	save func(context.Context, map[string]models.Presence) error

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
	presence := make(map[string]models.Presence, len(agents))
	for _, live := range agents {
		live.mu.Lock()
		if *b.mark(live) = false; !live.deregistered {
			presence[live.id] = live.agent.Presence
		}
		live.mu.Unlock()
	}
	err := b.save(ctx, presence)
	if err != nil {
		b.keep(agents)
	}
	return err
}

// keep puts agents back that were taken out.
func (b *batch) keep(agents []*Agent) {
	for _, live := range agents {
		live.mu.Lock()
		*b.mark(live) = false
		b.add(live)
		live.mu.Unlock()
	}
}
