package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// pruneInterval is how often agents that were unseen for too long are looked for.
const pruneInterval = time.Minute

// Run flushes presence to the store every FlushInterval until ctx ends, and
// once more then. It removes agents that are to be pruned.
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
	r.index.age(time.Now()) // so that a request finds little left to do
	err := r.polled.store(ctx)
	if err == nil {
		r.metrics.stored()
	}
	before := r.failing
	r.failing = err
	switch {
	case err != nil && before == nil:
		r.log.WithError(err).Warn("Presence could not be stored; it stays in memory")
	case err == nil && before != nil:
		r.log.Info("Presence is stored again")
	}
}

// pruneAtOnce is how many agents one transaction removes.
const pruneAtOnce = 1000

// prune removes the agents that were unseen for longer than the settings
// allow. The time that the controller itself was away before its last start does not
// count.
func (r *Registry) prune(ctx context.Context) {
	if r.pruneAfter == 0 {
		return
	}
	now := time.Now()
	var unseen []*Agent
	for row := range r.table.after(0) {
		if r.unseenTooLong(time.UnixMicro(row.live.seen.Load()), now) {
			unseen = append(unseen, row.live)
		}
	}
	for batch := range slices.Chunk(unseen, pruneAtOnce) {
		removed, err := r.remove(ctx, func() []*Agent {
			return slices.DeleteFunc(batch, func(live *Agent) bool { // it may have polled, or was removed, since the scan
				agent := live.snapshot()
				return r.table.find([]byte(live.id)) != live || !r.unseenTooLong(agent.Seen(), now)
			})
		}, func(agents []*Agent) models.Entry {
			detail := fmt.Sprintf("%d agents unseen for %s, as PRUNE_AFTER says; the first: %s", len(agents), r.pruneAfter, agents[0].id)
			return models.NewEntry(models.Origin{Actor: "controller"}, models.ActionDecommission, 0, detail)
		})
		if err != nil {
			r.log.WithError(err).Warn("Agents could not be pruned; the next try is in a minute")
			return
		}
		if len(removed) > 0 {
			r.log.WithFields(logrus.Fields{"agents": len(removed), "first": removed[0].id}).Info("Agents pruned")
		}
	}
}

// unseenTooLong reports whether an agent that was last seen at seen is to be pruned.
func (r *Registry) unseenTooLong(seen, now time.Time) bool {
	unseen := now.Sub(seen)
	if seen.Before(r.began) {
		unseen -= r.downtime
	}
	return unseen > r.pruneAfter
}
