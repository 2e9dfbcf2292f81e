package api

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// This file alone knows both the domain and the wire.

func toData(c *models.Config) wire.Data { return wire.Data{URL: c.URL} }

func seconds(d time.Duration) int { return int(d / time.Second) }

func toConfig(c *models.Config) wire.Config {
	return wire.Config{Version: c.Version, Data: toData(c), PollIntervalSeconds: seconds(c.PollInterval)}
}

func toPublished(c *models.Config) wire.PublishedConfig {
	p := wire.PublishedConfig{
		Version: c.Version, Data: toData(c), PollIntervalSeconds: seconds(c.PollInterval), ETag: c.ETag,
		Message: c.Message, PublishedBy: c.PublishedBy, PublishedAt: c.PublishedAt, SourceIP: c.SourceIP,
	}
	if c.RestoredFrom != 0 {
		p.RestoredFrom = &c.RestoredFrom
	}
	return p
}

func fromPublish(r wire.PublishRequest) models.Draft {
	d := models.Draft{URL: r.URL}
	if r.PollIntervalSeconds != nil {
		interval := time.Duration(*r.PollIntervalSeconds) * time.Second
		d.PollInterval = &interval
	}
	if r.Message != nil {
		d.Message = *r.Message
	}
	return d
}

func fromRegister(r wire.RegisterRequest) (service.Registration, error) {
	metadata := jsontext.Value("{}")
	if len(r.Metadata) > 0 {
		metadata = r.Metadata
	}
	if err := metadata.Compact(); err != nil {
		return service.Registration{}, err
	}
	return service.Registration{ID: r.AgentID, Hostname: r.Hostname, Metadata: metadata}, nil
}

func fromReport(r wire.Report, now time.Time) models.Attempt {
	return models.Attempt{Version: r.Version, Status: models.AttemptStatus(r.Status), Error: wire.Trim(r.Error), At: now}
}

func toAgent(a models.Agent, now time.Time, desired int64) wire.Agent {
	out := wire.Agent{
		ID: a.ID, Hostname: a.Hostname, RegisteredAt: a.RegisteredAt,
		Status: wire.AgentStatus(a.StatusAt(now, desired)), Metadata: a.Metadata,
	}
	if !a.LastPoll.IsZero() {
		out.LastPoll = &a.LastPoll
	}
	if desired != 0 {
		out.DesiredVersion = &desired
	}
	if a.Applied != 0 {
		out.AppliedVersion = &a.Applied
	}
	if t := a.Attempt; t.Version != 0 {
		out.LastAttempt = &wire.Attempt{Version: t.Version, Status: wire.AttemptStatus(t.Status), Error: t.Error, At: t.At}
	}
	return out
}
