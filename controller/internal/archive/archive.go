// Package archive exports a store as JSON lines, and imports these into an empty store.
// An archive holds no credentials: an imported agent registers again under its id. It
// does hold one secret, the key of the store's ETags.
//
// The first line identifies the store. The last counts the lines, so that an archive
// that was cut off is rejected.
package archive

import (
	"bufio"
	"bytes"
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// format is the version of the archive's format. Read rejects a later one. Before 2 there
// was no etag_key. Before 3 the figures of a rollout had the names of Go fields.
const format = 3

// maxLineBytes bounds a line. The longest have an agent's metadata, or the figures of a
// rollout.
const maxLineBytes = 1 << 20

// maxMetadataBytes bounds an agent's metadata: earlier builds stored as much. Today a
// registration takes less, and bounds the depth.
const maxMetadataBytes = 8 << 10

// Source is a snapshot of a store. It yields versions and entries oldest first.
type Source interface {
	Store(ctx context.Context) (models.Tags, models.Observed, error)
	Configs(ctx context.Context) iter.Seq2[*models.Config, error]
	Rollouts(ctx context.Context) iter.Seq2[models.Closed, error]
	Entries(ctx context.Context) iter.Seq2[models.Entry, error]
	Freeze(ctx context.Context) (*models.Freeze, error)
	Agents(ctx context.Context) iter.Seq2[models.Agent, error]
}

// Sink is an empty store. It takes what a Source yields, in that order.
type Sink interface {
	Store(ctx context.Context, t models.Tags, r models.Observed) error
	Config(ctx context.Context, cfg *models.Config) error
	Rollout(ctx context.Context, c models.Closed) error
	Entry(ctx context.Context, e models.Entry) error
	Freeze(ctx context.Context, f *models.Freeze) error
	Agent(ctx context.Context, a models.Agent) error
}

// Counts are how many of each were written or read.
type Counts struct{ Configs, Entries, Agents int }

func (c Counts) String() string {
	return fmt.Sprintf("versions: %d, audit entries: %d, agents: %d", c.Configs, c.Entries, c.Agents)
}

// Write writes an archive of source to w.
func Write(ctx context.Context, source Source, w io.Writer) (counts Counts, err error) {
	buffered := bufio.NewWriter(w)
	out := &writer{w: buffered}
	tags, reported, err := source.Store(ctx)
	if err != nil {
		return counts, err
	}
	out.line(store{
		Kind: "store", Format: format, Epoch: tags.Epoch, ETagKey: tags.Key, UnkeyedUpTo: tags.UnkeyedUpTo,
		HighestReported: reported.Highest, ResumedBelow: reported.ResumedBelow,
	})
	for cfg, err := range source.Configs(ctx) {
		if err != nil {
			return counts, err
		}
		out.line(fromConfig(cfg))
		counts.Configs++
	}
	for c, err := range source.Rollouts(ctx) {
		if err != nil {
			return counts, err
		}
		figures, err := stdjson.Marshal(c.Figures) // as in the store
		if err != nil {
			return counts, err
		}
		out.line(rollout{Kind: "rollout", Version: c.Version, SupersededBy: c.SupersededBy, Figures: figures})
	}
	for e, err := range source.Entries(ctx) {
		if err != nil {
			return counts, err
		}
		out.line(audit{
			Kind: "audit", At: e.At, Actor: e.Actor, SourceIP: e.SourceIP, Action: string(e.Action),
			Version: e.Version, Detail: e.Detail,
		})
		counts.Entries++
	}
	frozen, err := source.Freeze(ctx)
	if err != nil {
		return counts, err
	}
	if frozen != nil {
		out.line(freeze{
			Kind: "freeze", Reason: frozen.Reason, Until: frozen.Until, FrozenBy: frozen.By, FrozenAt: frozen.At,
		})
	}
	for a, err := range source.Agents(ctx) {
		if err != nil {
			return counts, err
		}
		out.line(fromAgent(a))
		counts.Agents++
	}
	out.line(end{Kind: "end", Lines: out.lines})
	return counts, errors.Join(out.err, buffered.Flush())
}

// writer writes lines until one fails.
type writer struct {
	w     io.Writer
	lines int
	err   error
}

func (w *writer) line(v any) {
	if w.err != nil {
		return
	}
	b, err := wire.Encode(v)
	if err == nil {
		_, err = w.w.Write(append(b, '\n'))
	}
	w.lines++
	w.err = err
}

// Read reads the archive in r into sink. An error names the line, and the field if there
// is one; the caller discards what sink has by then.
func Read(ctx context.Context, r io.Reader, sink Sink) (counts Counts, err error) {
	in := &reader{sink: sink}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLineBytes)
	for lines.Scan() {
		if err := in.line(ctx, lines.Bytes()); err != nil {
			return Counts{}, fmt.Errorf("line %d: %w", in.lines+1, err)
		}
		in.lines++
	}
	switch {
	case errors.Is(lines.Err(), bufio.ErrTooLong):
		return Counts{}, fmt.Errorf("line %d: it is longer than %d bytes; this is no archive of a controller",
			in.lines+1, maxLineBytes)
	case lines.Err() != nil:
		return Counts{}, lines.Err()
	case !in.ended:
		return Counts{}, fmt.Errorf("line %d: the archive ends before its end; it was cut off", in.lines+1)
	}
	return in.counts, nil
}

type reader struct {
	sink   Sink
	format int
	lines  int
	newest int64 // the last version that was read
	frozen bool
	ended  bool
	counts Counts
}

func (r *reader) line(ctx context.Context, line []byte) error {
	var peek struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(line, &peek); err != nil {
		return errors.New("it is no JSON object with a kind")
	}
	switch {
	case r.ended:
		return errors.New("it comes after the end")
	case (r.lines == 0) != (peek.Kind == "store"):
		return fmt.Errorf("it is of kind %q; the first line, and no other, is of kind \"store\"", peek.Kind)
	}
	switch peek.Kind {
	case "store":
		return decode(line, func(s store) error { return r.store(ctx, s) })
	case "config":
		return decode(line, func(c config) error { return r.config(ctx, c) })
	case "rollout":
		return decode(line, func(c rollout) error { return r.rollout(ctx, c) })
	case "audit":
		return decode(line, func(a audit) error { return r.audit(ctx, a) })
	case "freeze":
		return decode(line, func(f freeze) error { return r.freeze(ctx, f) })
	case "agent":
		return decode(line, func(a agent) error { return r.agent(ctx, a) })
	case "end":
		return decode(line, r.end)
	}
	return fmt.Errorf("kind %q is not known", peek.Kind)
}

// decode decodes a line without unknown fields, and calls take with it.
func decode[T any](line []byte, take func(T) error) error {
	v, err := wire.Decode[T](line)
	if err != nil {
		return err
	}
	return take(v)
}

func (r *reader) store(ctx context.Context, s store) error {
	switch {
	case s.Format > format:
		return fmt.Errorf("format %d is later than %d, the last that this build knows: "+
			"a newer controller has written it; use that build", s.Format, format)
	case s.Epoch == "" || s.HighestReported < 0 || s.ResumedBelow < 0 || s.UnkeyedUpTo < 0:
		return wire.Bad("epoch",
			"is required, and highest_reported, resumed_below and unkeyed_up_to must be 0 or more")
	case s.Format >= 2 && len(s.ETagKey) != models.KeyBytes || s.Format < 2 && len(s.ETagKey) != 0:
		return wire.Bad("etag_key", "must be %d bytes in base64, in format 2 and later", models.KeyBytes)
	}
	r.format = s.Format
	return r.sink.Store(ctx,
		models.Tags{Epoch: s.Epoch, Key: s.ETagKey, UnkeyedUpTo: s.UnkeyedUpTo},
		models.Observed{Highest: s.HighestReported, ResumedBelow: s.ResumedBelow})
}

func (r *reader) config(ctx context.Context, c config) error {
	cfg := c.config()
	document := wire.Config{
		Version: c.Version, Data: wire.Data{URL: c.URL, Probe: c.Probe}, PollIntervalSeconds: c.PollIntervalSeconds,
	}
	switch err := document.Validate(); {
	case err != nil:
		return err
	case c.Version <= r.newest:
		return wire.Bad("version", "must be above %d, the one before, and is %d", r.newest, c.Version)
	case c.RestoredFrom < 0 || c.RestoredFrom >= c.Version:
		return wire.Bad("restored_from", "must be an earlier version")
	case len(c.ETag) < 3 || c.ETag[0] != '"' || c.ETag[len(c.ETag)-1] != '"':
		return wire.Bad("etag", "must be an entity tag in quotes")
	case c.PublishedAt.IsZero():
		return wire.Bad("published_at", "is missing")
	}
	if err := wire.Text("message", c.Message, wire.MaxMessageBytes); err != nil {
		return err
	}
	r.newest = c.Version
	r.counts.Configs++
	return r.sink.Config(ctx, cfg)
}

func (r *reader) rollout(ctx context.Context, c rollout) error {
	if c.Version < 1 || c.SupersededBy <= c.Version || c.SupersededBy > r.newest {
		return wire.Bad("superseded_by", "must be a version of this archive, above version")
	}
	strict := stdjson.NewDecoder(bytes.NewReader(c.Figures))
	strict.DisallowUnknownFields()
	closed := models.Closed{Version: c.Version, SupersededBy: c.SupersededBy}
	var err error
	if r.format < 3 {
		var old oldFigures
		err = strict.Decode(&old)
		closed.Figures = old.figures()
	} else {
		err = strict.Decode(&closed.Figures)
	}
	if err != nil {
		return wire.Bad("figures", "cannot be read: %v", err)
	}
	return r.sink.Rollout(ctx, closed)
}

func (r *reader) audit(ctx context.Context, a audit) error {
	if a.At.IsZero() || a.Action == "" {
		return wire.Bad("action", "and at are required")
	}
	r.counts.Entries++
	return r.sink.Entry(ctx, models.Entry{
		At: a.At.UTC(), Origin: models.Origin{Actor: a.Actor, SourceIP: a.SourceIP}, Action: models.Action(a.Action),
		Version: a.Version, Detail: a.Detail,
	})
}

func (r *reader) freeze(ctx context.Context, f freeze) error {
	if r.frozen || f.Reason == "" {
		return wire.Bad("reason", "is required, and there must be no second freeze")
	}
	r.frozen = true
	return r.sink.Freeze(ctx, &models.Freeze{
		Reason: f.Reason, Until: f.Until.UTC(), By: f.FrozenBy, At: f.FrozenAt.UTC(),
	})
}

func (r *reader) agent(ctx context.Context, a agent) error {
	who := wire.RegisterRequest{AgentID: a.ID, Hostname: a.Hostname}
	switch err := who.Validate(); {
	case err != nil:
		return err
	case a.ID == "":
		return wire.Bad("id", "is missing")
	case len(a.Metadata) > maxMetadataBytes || len(a.Metadata) > 0 && a.Metadata.Kind() != '{':
		return wire.Bad("metadata", "must be an object of at most %d bytes", maxMetadataBytes)
	case a.PollIntervalSeconds < 1 || a.AppliedVersion < 0 || a.AttemptVersion < 0 || a.RefusedVersion < 0:
		return wire.Bad("poll_interval_seconds", "must be 1 or more, and no version negative")
	case a.RegisteredAt.IsZero():
		return wire.Bad("registered_at", "is missing")
	}
	r.counts.Agents++
	return r.sink.Agent(ctx, a.agent())
}

func (r *reader) end(e end) error {
	if e.Lines != r.lines {
		return wire.Bad("lines", "must be %d, the number of lines before, and is %d: lines are missing, or were added",
			r.lines, e.Lines)
	}
	r.ended = true
	return nil
}

// The kinds of lines. A zero value is omitted if it means the same.
type (
	store struct {
		Kind            string `json:"kind"`
		Format          int    `json:"format"`
		Epoch           string `json:"epoch"`
		ETagKey         []byte `json:"etag_key,omitzero"`
		UnkeyedUpTo     int64  `json:"unkeyed_up_to,omitzero"`
		HighestReported int64  `json:"highest_reported"`
		ResumedBelow    int64  `json:"resumed_below"`
	}
	config struct {
		Kind                string    `json:"kind"`
		Version             int64     `json:"version"`
		URL                 string    `json:"url"`
		Probe               bool      `json:"probe,omitzero"`
		PollIntervalSeconds int       `json:"poll_interval_seconds"`
		ETag                string    `json:"etag"`
		Message             string    `json:"message"`
		PublishedBy         string    `json:"published_by"`
		PublishedAt         time.Time `json:"published_at"`
		SourceIP            string    `json:"source_ip"`
		RestoredFrom        int64     `json:"restored_from,omitzero"`
	}
	rollout struct {
		Kind         string         `json:"kind"`
		Version      int64          `json:"version"`
		SupersededBy int64          `json:"superseded_by"`
		Figures      jsontext.Value `json:"figures"`
	}
	audit struct {
		Kind     string    `json:"kind"`
		At       time.Time `json:"at"`
		Actor    string    `json:"actor"`
		SourceIP string    `json:"source_ip"`
		Action   string    `json:"action"`
		Version  int64     `json:"version,omitzero"`
		Detail   string    `json:"detail"`
	}
	freeze struct {
		Kind     string    `json:"kind"`
		Reason   string    `json:"reason"`
		Until    time.Time `json:"until,omitzero"`
		FrozenBy string    `json:"frozen_by"`
		FrozenAt time.Time `json:"frozen_at"`
	}
	agent struct {
		Kind                string         `json:"kind"`
		ID                  string         `json:"id"`
		Hostname            string         `json:"hostname"`
		Metadata            jsontext.Value `json:"metadata"`
		RegisteredAt        time.Time      `json:"registered_at"`
		LastPoll            time.Time      `json:"last_poll,omitzero"`
		PollIntervalSeconds int            `json:"poll_interval_seconds"`
		AppliedVersion      int64          `json:"applied_version,omitzero"`
		AppliedAt           time.Time      `json:"applied_at,omitzero"`
		AttemptVersion      int64          `json:"attempt_version,omitzero"`
		AttemptStatus       string         `json:"attempt_status,omitzero"`
		AttemptError        string         `json:"attempt_error,omitzero"`
		AttemptAt           time.Time      `json:"attempt_at,omitzero"`
		RefusedVersion      int64          `json:"refused_version,omitzero"`
		RefusedError        string         `json:"refused_error,omitzero"`
	}
	// oldFigures are models.Figures before format 3.
	oldFigures struct {
		Targets, Applied, Failed, Pending, Offline, Degraded int

		FirstAppliedAt time.Time
		Latency        struct {
			Agents             int
			P50, P90, P99, Max time.Duration
		}
		Failures []struct {
			Error   string
			Count   int
			Samples []string
		}
		Stragglers []struct {
			ID, Hostname string
			Status       wire.AgentStatus
			Applied      int64
			LastPoll     time.Time
		}
	}
	end struct {
		Kind  string `json:"kind"`
		Lines int    `json:"lines"` // how many came before
	}
)

func (o oldFigures) figures() models.Figures {
	f := models.Figures{
		Targets: o.Targets, Applied: o.Applied, Failed: o.Failed, Pending: o.Pending, Offline: o.Offline,
		Degraded: o.Degraded, FirstAppliedAt: o.FirstAppliedAt, Latency: models.Latency(o.Latency),
	}
	for _, failure := range o.Failures {
		f.Failures = append(f.Failures,
			wire.RolloutFailure{Error: failure.Error, Count: failure.Count, SampleAgents: failure.Samples})
	}
	for _, straggler := range o.Stragglers {
		f.Stragglers = append(f.Stragglers, models.Straggler(straggler))
	}
	return f
}

func fromConfig(c *models.Config) config {
	return config{
		Kind: "config", Version: c.Version, URL: c.URL, Probe: c.Probe,
		PollIntervalSeconds: int(c.PollInterval / time.Second), ETag: c.ETag, Message: c.Message,
		PublishedBy: c.PublishedBy, PublishedAt: c.PublishedAt, SourceIP: c.SourceIP, RestoredFrom: c.RestoredFrom,
	}
}

func (c config) config() *models.Config {
	return &models.Config{
		Content: models.Content{
			URL: c.URL, PollInterval: time.Duration(c.PollIntervalSeconds) * time.Second, Probe: c.Probe,
		},
		Version: c.Version, ETag: c.ETag, Message: c.Message, PublishedBy: c.PublishedBy,
		PublishedAt: c.PublishedAt.UTC(), SourceIP: c.SourceIP, RestoredFrom: c.RestoredFrom,
	}
}

func fromAgent(a models.Agent) agent {
	return agent{
		Kind: "agent", ID: a.ID, Hostname: a.Hostname, Metadata: a.Metadata, RegisteredAt: a.RegisteredAt,
		LastPoll: a.LastPoll, PollIntervalSeconds: int(a.PollInterval / time.Second),
		AppliedVersion: a.Applied, AppliedAt: a.AppliedAt,
		AttemptVersion: a.Attempt.Version, AttemptStatus: string(a.Attempt.Status),
		AttemptError: a.Attempt.Error, AttemptAt: a.Attempt.At,
		RefusedVersion: a.Refused.Version, RefusedError: a.Refused.Error,
	}
}

func (a agent) agent() models.Agent {
	return models.Agent{
		ID: a.ID, Hostname: a.Hostname, Metadata: a.Metadata, RegisteredAt: a.RegisteredAt.UTC(),
		Presence: models.Presence{
			LastPoll: a.LastPoll.UTC(), PollInterval: time.Duration(a.PollIntervalSeconds) * time.Second,
			Applied: a.AppliedVersion, AppliedAt: a.AppliedAt.UTC(),
			Attempt: wire.Attempt{
				Version: a.AttemptVersion, Status: wire.AttemptStatus(a.AttemptStatus),
				Error: a.AttemptError, At: a.AttemptAt.UTC(),
			},
			Refused: models.Refusal{Version: a.RefusedVersion, Error: a.RefusedError},
		},
	}
}
