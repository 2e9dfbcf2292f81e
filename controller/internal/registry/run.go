package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// pruneInterval is the time between two searches for agents to prune.
const pruneInterval = time.Minute

// Run flushes presence every FlushInterval, and removes agents that were unseen for
// PruneAfter, until ctx ends. It flushes once more then, and returns nil.
func (r *Registry) Run(ctx context.Context) error {
	flush, prune := time.NewTicker(FlushInterval), time.NewTicker(pruneInterval)
	defer flush.Stop()
	defer prune.Stop()
	for {
		select {
		case <-flush.C:
			r.flush(ctx)
		case <-prune.C:
			r.prune(ctx)
		case <-ctx.Done():
			r.flush(context.WithoutCancel(ctx))
			return nil
		}
	}
}

func (r *Registry) flush(ctx context.Context) {
	r.UpdateAges(time.Now()) // so that requests find few ages to update
	err := r.polled.store(ctx)
	if err == nil {
		r.metrics.stored()
	}
	before := r.flushErr
	r.flushErr = err
	switch {
	case err != nil && before == nil:
		r.log.WithError(err).WithField(
			"advice", "it stays in memory, and the write is retried",
		).Warn("Presence not stored")
	case err == nil && before != nil:
		r.log.Info("Presence stored again")
	}
}

// pruneBatch is the most agents that one transaction removes.
const pruneBatch = 1000

// prune removes the agents that were unseen for longer than pruneAfter. The downtime of
// the controller before its last start does not count.
func (r *Registry) prune(ctx context.Context) {
	if r.pruneAfter == 0 {
		return
	}
	now := time.Now()
	var unseen []*Agent
	r.Each(func(m *census.Member, seen time.Time) {
		if r.unseenTooLong(seen, now) {
			unseen = append(unseen, m.Agent().(*Agent))
		}
	})
	for batch := range slices.Chunk(unseen, pruneBatch) {
		removed, err := r.remove(ctx, func() []*Agent {
			return slices.DeleteFunc(batch, func(live *Agent) bool { // polled or removed since the scan
				agent := live.Snapshot()
				return r.find([]byte(live.id())) != live || !r.unseenTooLong(agent.Seen(), now)
			})
		}, func(agents []*Agent) models.Entry {
			detail := fmt.Sprintf(
				"%d agents unseen for %s (PRUNE_AFTER); the first: %s", len(agents), r.pruneAfter, agents[0].id(),
			)
			return models.NewEntry(models.Origin{Actor: "controller"}, models.ActionDecommission, 0, detail)
		})
		if err != nil {
			r.log.WithError(err).WithField("retry_in", pruneInterval.String()).Warn("Agents not pruned")
			return
		}
		if len(removed) > 0 {
			r.log.WithFields(logrus.Fields{"agents": len(removed), "first": removed[0].id()}).Info("Agents pruned")
		}
	}
}

// unseenTooLong reports whether to prune an agent that was last seen at seen.
func (r *Registry) unseenTooLong(seen, now time.Time) bool {
	unseen := now.Sub(seen)
	if seen.Before(r.began) {
		unseen -= r.downtime
	}
	return unseen > r.pruneAfter
}
