package state

import (
	"strings"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Status returns the agent's status.
func (m *Machine) Status(now time.Time) protocol.Status {
	push := m.pace.Push()
	s := protocol.Status{
		AgentID:             m.stored.Identity.AgentID,
		Registered:          m.following.registered,
		Transport:           wire.Polling,
		Push:                protocol.PushStatus{Transport: m.config.Transport, Healthy: push.Healthy, Error: push.Err},
		PollIntervalSeconds: int(m.pace.Interval() / time.Second),
		Worker:              m.worker.Status,
		Cache:               protocol.CacheStatus{Writable: m.cacheErr == "", Error: string(m.cacheErr)},
		ControllerError:     string(m.controllerErr),
		InSync:              m.worker.InSync,
	}
	s.Worker.Error = string(m.workerErr)
	if push.Healthy {
		s.Transport = m.config.Transport
	}
	if desired := m.stored.Desired(); desired != nil {
		s.DesiredVersion = new(desired.Config.Version)
		s.CacheAgeSeconds = new(max(0, int64(now.Sub(desired.FetchedAt)/time.Second)))
	}
	if good := m.stored.LastGood; good != nil {
		s.AppliedVersion = new(good.Config.Version)
	}
	if !m.following.lastAnswer.IsZero() {
		s.LastFetch = new(m.following.lastAnswer)
	}
	var errs []string
	for _, text := range []string{s.ControllerError, s.Worker.Error, m.worker.Refusal.String(), s.Cache.Error} {
		if text != "" {
			errs = append(errs, text)
		}
	}
	s.LastError = strings.Join(errs, "; ")
	return s
}
