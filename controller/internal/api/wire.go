package api

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/fleetconf/fleetconf/controller/internal/census"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// This file converts between the types of the domain and those of the wire.

func toData(c *models.Config) wire.Data { return wire.Data{URL: c.URL, Probe: c.Probe} }

func seconds(d time.Duration) int { return int(d / time.Second) }

func toConfig(c *models.Config) wire.Config {
	return wire.Config{Version: c.Version, Data: toData(c), PollIntervalSeconds: seconds(c.PollInterval)}
}

func toPublished(c *models.Config) wire.PublishedConfig {
	return wire.PublishedConfig{
		Version: c.Version, Data: toData(c), PollIntervalSeconds: seconds(c.PollInterval), ETag: c.ETag,
		Message: c.Message, PublishedBy: c.PublishedBy, PublishedAt: c.PublishedAt, SourceIP: c.SourceIP,
		RestoredFrom: orNull(c.RestoredFrom),
	}
}

func fromPublish(r wire.PublishRequest) models.Draft {
	d := models.Draft{URL: r.URL, Probe: r.Probe}
	if r.PollIntervalSeconds != nil {
		interval := time.Duration(*r.PollIntervalSeconds) * time.Second
		d.PollInterval = &interval
	}
	return d
}

func fromRegister(r wire.RegisterRequest) (registry.Registration, error) {
	metadata := jsontext.Value("{}")
	if len(r.Metadata) > 0 {
		metadata = r.Metadata
	}
	if err := metadata.Compact(); err != nil {
		return registry.Registration{}, err
	}
	return registry.Registration{
		ID: r.AgentID, Hostname: r.Hostname, Secret: r.AgentSecret,
		Metadata: bytes.Clone(metadata), // r.Metadata keeps the whole body in memory
	}, nil
}

func fromReport(r wire.Report, now time.Time) wire.Attempt {
	return wire.Attempt{Version: r.Version, Status: r.Status, Error: wire.Trim(r.Error), At: now}
}

func toAgent(a *models.Agent, status wire.AgentStatus, plan *models.Plan) wire.Agent {
	_, reason := plan.For(a.Traits())
	out := wire.Agent{
		ID: a.ID, Hostname: a.Hostname, RegisteredAt: a.RegisteredAt, Status: status, Metadata: a.Metadata,
		LastPoll: orNull(a.LastPoll), DesiredVersion: orNull(plan.Version()), AppliedVersion: orNull(a.Applied),
		DesiredBecause: reason.String(),
		Transport:      orNull(a.Transport), Degraded: orNull(a.Degraded), ContentMismatch: a.Mismatch,
		PushError: orNull(a.PushError),
	}
	if a.Attempt.Version != 0 {
		out.LastAttempt = &a.Attempt
	}
	return out
}

// orNull returns nil, which is null on the wire, for the zero value, and else a pointer to v.
func orNull[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func toSummary(s census.Summary, desired int64) wire.AgentSummary {
	out := wire.AgentSummary{
		Total: s.Total, DesiredVersion: orNull(desired), ByStatus: map[wire.AgentStatus]int{},
		ByAppliedVersion: []wire.VersionCount{},
		ByTransport:      map[wire.Transport]int{},
	}
	for _, status := range wire.AgentStatuses {
		out.ByStatus[status] = s.ByStatus[status]
	}
	for _, version := range slices.Backward(slices.Sorted(maps.Keys(s.ByApplied))) {
		out.ByAppliedVersion = append(
			out.ByAppliedVersion, wire.VersionCount{Version: orNull(version), Count: s.ByApplied[version]},
		)
	}
	for _, transport := range wire.Transports {
		out.ByTransport[transport] = s.ByTransport[transport]
	}
	return out
}

func toRollout(r *models.Rollout) wire.Rollout {
	out := wire.Rollout{
		Version: r.Config.Version, PublishedAt: r.Config.PublishedAt, SupersededBy: orNull(r.SupersededBy),
		Targets: r.Targets, Applied: r.Applied, Degraded: r.Degraded,
		Failed: r.Failed, Pending: r.Pending, Offline: r.Offline,
		FirstAppliedAt: orNull(r.FirstAppliedAt), Failures: []wire.RolloutFailure{}, Stragglers: []wire.Straggler{},
	}
	if l := r.Latency; l.Agents > 0 {
		out.LatencyMS = wire.Latency{
			P50: milliseconds(l.P50), P90: milliseconds(l.P90), P99: milliseconds(l.P99), Max: milliseconds(l.Max),
		}
	}
	out.Failures = append(out.Failures, r.Failures...)
	for _, s := range r.Stragglers {
		out.Stragglers = append(out.Stragglers, wire.Straggler{
			ID: s.ID, Hostname: s.Hostname, Status: s.Status, AppliedVersion: orNull(s.Applied),
			LastPoll: orNull(s.LastPoll),
		})
	}
	return out
}

func milliseconds(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

func toPreview(o models.Outcome) wire.Preview {
	out := wire.Preview{
		Message: "Nothing was stored: this was a dry run", Version: o.Config.Version, Changed: o.Changed, DryRun: true,
		Config: toConfig(o.Config), Agents: o.Targets,
	}
	var before *models.Content
	if o.Before != nil {
		before = &o.Before.Content
	}
	out.Changes = differences(before, &o.Config.Content)
	return out
}

// differences lists the fields whose values differ between two contents. before is nil for a
// first version: every field then differs from null.
func differences(before, after *models.Content) []wire.Difference {
	fields := func(c *models.Content) [3]any {
		if c == nil {
			return [3]any{}
		}
		return [3]any{c.URL, c.Probe, seconds(c.PollInterval)}
	}
	from, to := fields(before), fields(after)
	out := []wire.Difference{}
	for i, name := range []string{"data.url", "data.probe", "poll_interval_seconds"} {
		if from[i] != to[i] {
			out = append(out, wire.Difference{Field: name, From: from[i], To: to[i]})
		}
	}
	return out
}

func fromFreeze(r wire.FreezeRequest) models.Freeze {
	f := models.Freeze{Reason: r.Reason}
	if r.Until != nil {
		f.Until = r.Until.UTC().Truncate(time.Microsecond)
	}
	return f
}

func toFreeze(f *models.Freeze) wire.Freeze {
	if f == nil {
		return wire.Freeze{}
	}
	return wire.Freeze{Frozen: true, Reason: f.Reason, Until: orNull(f.Until), FrozenBy: f.By, FrozenAt: orNull(f.At)}
}

func toAuditEntry(e models.Entry) wire.AuditEntry {
	return wire.AuditEntry{
		ID: e.Seq, At: e.At, Actor: e.Actor, SourceIP: e.SourceIP, Action: string(e.Action),
		Version: orNull(e.Version), Detail: e.Detail,
	}
}
