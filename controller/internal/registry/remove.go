package registry

import (
	"context"
	"fmt"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Decommission removes an agent and revokes its tokens. Errors are models.ErrNotFound if
// there is no agent with that id, and database.ErrBusy if earlier writes take too long.
func (r *Registry) Decommission(ctx context.Context, id string, origin models.Origin) error {
	live, err := r.known(id)
	if err != nil {
		return err
	}
	removed, err := r.remove(ctx, func() []*Agent {
		if r.find([]byte(id)) != live { // another request removed it
			return nil
		}
		return []*Agent{live}
	}, func([]*Agent) models.Entry {
		agent := live.Snapshot()
		return models.NewEntry(origin, models.ActionDecommission, agent.Applied, "agent "+id+" on "+agent.Hostname)
	})
	if err == nil && len(removed) == 0 {
		err = models.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("decommission agent %s: %w", id, err)
	}
	return nil
}

// remove removes the agents that choose returns from memory and store, and returns them.
// No agent is registered or removed while choose runs. entry returns the entry for the
// audit log; it is not called if choose returns none.
func (r *Registry) remove(
	ctx context.Context, choose func() []*Agent, entry func([]*Agent) models.Entry,
) ([]*Agent, error) {
	if err := r.recordWrites.Acquire(ctx); err != nil {
		return nil, err
	}
	defer r.recordWrites.Release()
	agents := choose()
	if len(agents) == 0 {
		return nil, nil
	}
	ids := make([]string, len(agents))
	for i, live := range agents {
		ids[i] = live.id()
	}
	if err := r.store.DeleteAgents(context.WithoutCancel(ctx), ids, entry(agents)); err != nil {
		return nil, err
	}
	for _, live := range agents {
		r.forget(live)
		live.offers.Send()
	}
	r.changes.Send()
	return agents, nil
}
