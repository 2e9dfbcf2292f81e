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
func (s *Registry) Run(ctx context.Context) error {
	flush, prune := time.NewTicker(FlushInterval), time.NewTicker(pruneInterval)
	defer flush.Stop()
	defer prune.Stop()
	for {
		select {
		case <-flush.C:
			s.flush(ctx)
		case <-prune.C:
			s.prune(ctx)
		case <-ctx.Done():
			s.flush(context.WithoutCancel(ctx))
			return nil
		}
	}
}

func (s *Registry) flush(ctx context.Context) {
	s.index.age(time.Now()) // so that a request finds little left to do
	err := s.polled.store(ctx)
	if err == nil {
		s.metrics.stored()
	}
	before := s.failing
	s.failing = err
	switch {
	case err != nil && before == nil:
		s.log.WithError(err).Warn("Presence could not be stored; it stays in memory")
	case err == nil && before != nil:
		s.log.Info("Presence is stored again")
	}
}

// pruneAtOnce is how many agents one transaction removes.
const pruneAtOnce = 1000

// prune removes the agents that were unseen for longer than the settings
// allow. The time that the controller itself was away before its last start does not
// count.
func (s *Registry) prune(ctx context.Context) {
	if s.pruneAfter == 0 {
		return
	}
	now := time.Now()
	var unseen []*Agent
	for row := range s.table.after(0) {
		if s.unseenTooLong(time.UnixMicro(row.live.seen.Load()), now) {
			unseen = append(unseen, row.live)
		}
	}
	for batch := range slices.Chunk(unseen, pruneAtOnce) {
		removed, err := s.remove(ctx, func() []*Agent {
			return slices.DeleteFunc(batch, func(live *Agent) bool { // it may have polled, or was removed, since the scan
				agent := live.snapshot()
				return s.table.find([]byte(live.id)) != live || !s.unseenTooLong(agent.Seen(), now)
			})
		}, func(agents []*Agent) models.Entry {
			detail := fmt.Sprintf("%d agents unseen for %s, as PRUNE_AFTER says; the first: %s", len(agents), s.pruneAfter, agents[0].id)
			return models.NewEntry(models.Origin{Actor: "controller"}, models.ActionDecommission, 0, detail)
		})
		if err != nil {
			s.log.WithError(err).Warn("Agents could not be pruned; the next try is in a minute")
			return
		}
		if len(removed) > 0 {
			s.log.WithFields(logrus.Fields{"agents": len(removed), "first": removed[0].id}).Info("Agents pruned")
		}
	}
}

// unseenTooLong reports whether an agent that was last seen at seen is to be pruned.
func (s *Registry) unseenTooLong(seen, now time.Time) bool {
	unseen := now.Sub(seen)
	if seen.Before(s.began) {
		unseen -= s.downtime
	}
	return unseen > s.pruneAfter
}
