package service

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/limit"
)

// FlushInterval is how often presence goes to the store, in one batch. What a
// crash loses of it, the next polls bring back.
const FlushInterval = 5 * time.Second

// Agents knows every agent. All of it is in memory, so that neither a poll nor
// a list reads the database; the store has it for the next start.
type Agents struct {
	store         database.Store
	plan          *atomic.Pointer[models.Plan]
	reserved      []string // names that no agent may take for its id
	inactiveAfter time.Duration
	pruneAfter    time.Duration // 0: never
	maxAgents     int           // 0: any number
	metrics       *Metrics
	log           logrus.FieldLogger
	began         time.Time
	downtime      time.Duration // how long before began no agent was seen: the controller did not run

	saving   database.Lock // one registration or removal at a time, memory and store together
	settling database.Lock // one batch of reports at a time
	table    table
	index    index // its lock is taken after that of an agent
	spread   spread
	changes  signal // an agent runs, or refuses, another version than before; or has gone

	polled, reported batch

	rejecting rate.Sometimes // how often an agent beyond maxAgents is worth a warning
	holding   rate.Sometimes // how often an agent that Holds keeps is worth a warning

	failing error // why the last flush failed; Run's alone
}

// Agent is one known agent, live.
type Agent struct {
	id  string
	seq int64

	offers signal // it is offered another version than before, though none was published; or was removed

	// index reads and writes these without the lock of the agent.
	group          atomic.Pointer[group] // index.mu guards changes
	previous, next *Agent                // in the group; index.mu guards them
	due            atomic.Int64          // the second in which index looks at its age; index.mu guards changes
	seen           atomic.Int64          // when it was here last, in microseconds since 1970 UTC
	interval       atomic.Int64          // its poll interval in nanoseconds

	mu           sync.Mutex // guards the rest
	agent        models.Agent
	row          *row // shows what it is to who looks at all agents
	deregistered bool // was removed
	// Which of its tokens were used since the last registration. An agent that
	// has used its new one never goes back; if the one before is used after
	// that, somebody else has the same id.
	tokenUsed, duplicateSeen bool

	used [len(allowances)]time.Duration // when each allowance is whole again, since began of Agents

	sawMismatch bool // was logged with a content that is not that of its version

	inPolled, inReported bool                           // stands in that batch
	measured             int64                          // the version whose way to this agent was measured last
	checked              weak.Pointer[x509.Certificate] // has the name that the agent registered with
}

// AgentOptions are the settings of Agents.
type AgentOptions struct {
	Reserved      []string      // names that no agent may take for its id
	InactiveAfter time.Duration // how long an agent is unseen before it counts as inactive
	PruneAfter    time.Duration // how long before it is removed; 0 for never
	MaxAgents     int           // how many there may be before no new one is registered; 0 for any number
	Metrics       *Metrics      // nil: measured for nobody
}

// OpenAgents reads every agent from store. The agents follow plan, which holds one.
func OpenAgents(
	ctx context.Context, store database.Store, plan *atomic.Pointer[models.Plan], o AgentOptions, log logrus.FieldLogger,
) (*Agents, error) {
	stored, err := store.Agents(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the agents: %w", err)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	now := time.Now()
	s := &Agents{
		store: store, plan: plan, reserved: o.Reserved, inactiveAfter: o.InactiveAfter, pruneAfter: o.PruneAfter, maxAgents: o.MaxAgents,
		metrics: o.Metrics, log: log, began: now, saving: database.NewLock(), settling: database.NewLock(), table: newTable(len(stored)), index: newIndex(o.InactiveAfter, now),
		holding:   rate.Sometimes{First: 1, Interval: time.Minute},
		rejecting: rate.Sometimes{First: 1, Interval: time.Minute},
		polled: batch{
			mark: func(a *Agent) *bool { return &a.inPolled },
			save: func(ctx context.Context, presence map[string]models.Presence) error {
				return store.SavePresence(ctx, presence)
			},
		},
		reported: batch{mark: func(a *Agent) *bool { return &a.inReported }, save: store.SaveReports},
	}
	if release := plan.Load().Newest; release != nil {
		s.spread.load(release, stored)
	}
	var newest time.Time
	for i := range stored {
		s.add(newAgent(stored[i]), now)
		if seen := stored[i].Seen(); seen.After(newest) {
			newest = seen
		}
	}
	s.downtime = max(0, s.began.Sub(newest))
	s.metrics.stored()
	return s, nil
}

// Registration is what an agent says of itself. An empty ID asks for a new one.
type Registration struct {
	ID, Hostname string
	Metadata     []byte        // a JSON object
	PollInterval time.Duration // what it is told

	Secret string        // proves that a known ID is the caller's; empty for none
	Self   *Agent        // the agent of that ID, where the caller authenticated as it; else nil
	Token  auth.Digest   // of the token that it authenticated with
	Origin models.Origin // who registers, and from where

	Certificate string // CertificateName of the connection; empty for none
}

// Register makes an agent known, or a known one known again, and returns its
// id and the token that it authenticates with from now on. The token is kept
// only as a hash. The token before it stays good until the next registration; one
// that authenticates the registration stays good after it, because the response
// may be lost. A known ID needs its secret or its token, unless it has no secret yet:
// otherwise the error is models.ErrSecret. One that registered over a certificate of
// another name needs its token: otherwise the error is models.ErrCertificate.
func (s *Agents) Register(ctx context.Context, r Registration) (id, token string, isNew bool, err error) {
	if slices.Contains(s.reserved, r.ID) {
		return "", "", false, &models.InvalidError{Field: "agent_id", Detail: "is taken by an account, or by a path of the API; choose another, or leave it out"}
	}
	if r.ID == "" {
		r.ID = uuid.Must(uuid.NewV7()).String() // fails only without randomness
	}
	token = auth.NewToken()

	if err := s.saving.Acquire(ctx); err != nil {
		return "", "", false, err
	}
	defer s.saving.Release()
	ctx = context.WithoutCancel(ctx) // what is stored is also remembered
	live := s.table.find([]byte(r.ID))
	isNew = live == nil
	agent, action := models.Agent{ID: r.ID, RegisteredAt: models.Now()}, models.ActionRegister
	if !isNew {
		agent, action = live.snapshot(), models.ActionReregister
	}
	if err := mayRegister(&r, &agent, live); err != nil {
		return "", "", false, err
	}
	if r.Self == nil { // else it was allowed to register already
		if err := s.admit(live); err != nil {
			return "", "", false, err
		}
	}
	if r.Secret != "" {
		agent.Secret = auth.DigestOf(r.Secret)
	}
	agent.Hostname, agent.Metadata = r.Hostname, r.Metadata
	if r.Self == nil || !r.Token.Equal(agent.PreviousToken) {
		agent.PreviousToken = agent.Token
	}
	agent.Token = auth.DigestOf(token)
	agent.PollInterval = r.PollInterval
	entries := []models.Entry{models.NewEntry(r.Origin, action, 0, "agent "+agent.ID+" on "+agent.Hostname)}
	if r.Certificate != "" {
		if was := agent.Certificate; was != "" && was != r.Certificate {
			detail := "agent " + agent.ID + ": from " + was + " to " + r.Certificate
			entries = append(entries, models.NewEntry(r.Origin, models.ActionCertificate, 0, detail))
		}
		agent.Certificate = r.Certificate
	}
	if agent.Seq, err = s.store.SaveAgent(ctx, agent, entries...); err != nil {
		return "", "", false, fmt.Errorf("register agent: %w", err)
	}
	if isNew {
		s.add(newAgent(agent), models.Now())
	} else {
		s.reregister(live, agent)
	}
	return agent.ID, token, isNew, nil
}

// admit reports why there is no room for a registration: of a new agent, where live
// is nil, or of a known one.
func (s *Agents) admit(live *Agent) error {
	if live != nil {
		return s.Allow(live, Registering)
	}
	if s.maxAgents == 0 || s.table.count() < s.maxAgents {
		return nil
	}
	s.rejecting.Do(func() {
		s.log.WithField("agents", s.maxAgents).Warn("Agent rejected: MAX_AGENTS are registered; more within a minute are not logged")
	})
	return &models.TooManyAgentsError{Max: s.maxAgents}
}

// Allowance is something that each agent may do so often.
type Allowance int

// The allowances.
const (
	Reporting   Allowance = iota // a write to the store
	Registering                  // again: a write, and an entry of the audit log
	Logging                      // a line in the log
)

var allowances = [...]struct {
	limit.Bucket
	what string // in the answer, where there is one
}{
	Reporting:   {limit.Bucket{Burst: 60, Each: time.Second}, "reports"},
	Registering: {limit.Bucket{Burst: 10, Each: 10 * time.Second}, "registers"},
	Logging:     {Bucket: limit.Bucket{Burst: 5, Each: time.Minute}},
}

// Allow reports whether an agent may do something once more, and takes note that it
// does. The error is a *models.TooOftenError.
func (s *Agents) Allow(live *Agent, a Allowance) error {
	live.mu.Lock()
	defer live.mu.Unlock()
	allowed := &allowances[a]
	if wait := allowed.Take(&live.used[a], time.Since(s.began)); wait > 0 {
		return &models.TooOftenError{What: allowed.what, Wait: wait}
	}
	return nil
}

// mayRegister reports why a registration is refused. live is the agent of that ID
// and agent what is stored of it, both empty while there is none.
func mayRegister(r *Registration, agent *models.Agent, live *Agent) error {
	secret := auth.Digest(agent.Secret)
	switch {
	case r.Self != nil && r.Self != live: // decommissioned since it authenticated
		return fmt.Errorf("agent %s: %w", r.ID, models.ErrNotFound)
	case r.Self != nil:
		return nil
	case secret != auth.Digest{} && !secret.Matches([]byte(r.Secret)):
		return fmt.Errorf("agent %s: %w", r.ID, models.ErrSecret)
	case r.Certificate != "" && agent.Certificate != "" && agent.Certificate != r.Certificate:
		return fmt.Errorf("agent %s: %w", r.ID, otherCertificate(r.Certificate, agent.Certificate))
	}
	return nil
}

// Reset lets an agent be registered once with the shared credentials, whatever
// its secret was. Its token stays good. It returns models.ErrNotFound if there is
// no agent of that id, database.ErrBusy if its turn does not come.
func (s *Agents) Reset(ctx context.Context, id string, origin models.Origin) error {
	if err := s.saving.Acquire(ctx); err != nil {
		return err
	}
	defer s.saving.Release()
	live, err := s.known(id)
	if err != nil {
		return err
	}
	agent := live.snapshot()
	agent.Secret, agent.Certificate = models.TokenHash{}, ""
	entry := models.NewEntry(origin, models.ActionReset, 0, "agent "+id+" on "+agent.Hostname)
	if _, err := s.store.SaveAgent(context.WithoutCancel(ctx), agent, entry); err != nil {
		return fmt.Errorf("reset agent %s: %w", id, err)
	}
	live.mu.Lock()
	defer live.mu.Unlock()
	live.agent.Secret, live.agent.Certificate = agent.Secret, agent.Certificate
	live.checked = weak.Pointer[x509.Certificate]{}
	return nil
}

// Authenticate returns the agent whose id and token these are, nil if there is
// none.
func (s *Agents) Authenticate(id, token []byte) *Agent {
	live := s.table.find(id)
	if live == nil {
		return nil
	}
	digest := auth.DigestOf(token)
	live.mu.Lock()
	defer live.mu.Unlock()
	switch {
	case digest.Equal(live.agent.Token):
		live.tokenUsed = true
	case digest.Equal(live.agent.PreviousToken):
		s.warnOfDuplicate(live)
	default:
		return nil
	}
	return live
}

// warnOfDuplicate tells of an id that two agents use at once, as a copied cache
// file or a cloned disk makes them. The caller holds the agent's lock.
func (s *Agents) warnOfDuplicate(live *Agent) {
	if !live.tokenUsed || live.duplicateSeen {
		return
	}
	live.duplicateSeen = true
	s.log.WithFields(logrus.Fields{"agent": live.id, "hostname": live.agent.Hostname}).
		Warn("Agent id is used by two agents; delete the copied cache file of one of them")
}

// Poll remembers a poll of an agent.
func (s *Agents) Poll(live *Agent, poll models.Poll) {
	live.mu.Lock()
	defer live.mu.Unlock()
	s.remember(live, poll)
}

// remember takes a poll into account. The caller holds the agent's lock.
func (s *Agents) remember(live *Agent, poll models.Poll) {
	before, mismatch := live.agent.Applied, live.agent.Mismatch
	live.agent.Polled(poll)
	live.agent.PushError, live.agent.Unknown = poll.PushError, poll.Unknown
	s.hold(live, poll)
	if live.agent.Mismatch = poll.Mismatch; poll.Mismatch && !live.sawMismatch {
		live.sawMismatch = true
		s.log.WithFields(logrus.Fields{"agent": live.id, "hostname": live.agent.Hostname, "version": poll.Runs}).
			Warn("Agent holds another content than that of its version, as after an edit of its cache")
	}
	s.show(live, poll.At)
	s.polled.add(live)
	if live.agent.Applied != before {
		s.measure(live)
		s.changes.broadcast()
	} else if live.agent.Mismatch != mismatch {
		s.changes.broadcast()
	}
}

// hold notes whether an agent runs a version above the store's newest that the store
// did not make. It keeps that version until an admin publishes, or releases it, after
// it first said so. The caller holds the agent's lock.
func (s *Agents) hold(live *Agent, poll models.Poll) {
	if !poll.Foreign {
		live.agent.Held = 0
		return
	}
	if live.agent.Held != 0 {
		return
	}
	live.agent.Held = poll.Newest + 1
	s.holding.Do(func() {
		s.log.WithFields(logrus.Fields{"agent": live.id, "hostname": live.agent.Hostname, "version": poll.Runs, "newest": poll.Newest}).
			WithField("advice", "it keeps that until you publish, or POST /api/v1/agents/resume; more within a minute are not logged").
			Warn("Agent runs a version that this store did not make")
	})
}

// measure counts how long the newest version took to an agent that now runs it. The
// caller holds the agent's lock.
func (s *Agents) measure(live *Agent) {
	release, a := s.plan.Load().Newest, &live.agent
	if release == nil || a.Applied != release.Version || live.measured == a.Applied {
		return
	}
	live.measured = a.Applied
	s.spread.add(release, a)
	if !a.RegisteredAt.After(release.PublishedAt) {
		s.metrics.propagated(latencyOf(release, a))
	}
}

// Traits returns what decides what an agent is offered, beside what its poll says.
// Foreign says that it runs a version which the store, whose newest version is newest,
// did not make.
func (a *Agent) Traits(foreign bool, newest int64) models.Traits {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := models.Traits{Refused: a.agent.Refused}
	if foreign {
		t.Held = cmp.Or(a.agent.Held, newest+1)
	}
	return t
}

// Held is how many agents keep, each for itself, what this store did not make, while
// its newest version is newest.
func (s *Agents) Held(newest int64, now time.Time) (n int) {
	s.index.each(now, func(g *group) {
		if g.Held > newest {
			n += g.count
		}
	})
	return n
}

// Release lets these agents follow the store.
func (s *Agents) Release() {
	now := time.Now()
	var held []*Agent
	s.index.each(now, func(g *group) {
		if g.Held > 0 {
			held = append(held, g.some(g.count)...)
		}
	})
	for _, live := range held {
		s.release(live, now)
	}
}

// Disconnected remembers that an agent broke off its poll, unless a newer one has come
// since: it is to come again within interval.
func (s *Agents) Disconnected(live *Agent, poll models.Poll, interval time.Duration) {
	live.mu.Lock()
	defer live.mu.Unlock()
	if live.agent.LastPoll.After(poll.At) {
		return
	}
	poll.At, poll.Interval, poll.Runs, poll.Transport = time.Now().UTC(), interval, 0, models.Polling
	s.remember(live, poll)
}

// Report takes the outcome of an agent's last attempt, and tells whether it is
// news: the same said again is none, unless an admin had the agent try again. When
// err is nil the outcome is durable; with an error it is in memory only, and the
// agent is to say it again. err is database.ErrBusy if its turn does not come.
func (s *Agents) Report(ctx context.Context, live *Agent, attempt models.Attempt) (news bool, err error) {
	live.mu.Lock()
	last := live.agent.Attempt
	news = last.Version != attempt.Version || last.Status != attempt.Status ||
		attempt.Status == models.Failed && !live.agent.Refuses(attempt.Version)
	live.agent.Report(attempt)
	s.measure(live)
	s.show(live, time.Now())
	s.polled.add(live) // should it not be stored below
	s.reported.add(live)
	live.mu.Unlock()
	s.changes.broadcast()
	if news {
		s.metrics.reported(attempt.Status)
	}
	if err := s.settle(ctx, live); err != nil {
		return news, fmt.Errorf("%w: %w", database.ErrInDoubt, err) // the next flush may store it
	}
	return news, nil
}

// settle stores what was reported, by this agent and by all that have reported
// meanwhile: whoever's turn it is writes for those who wait.
func (s *Agents) settle(ctx context.Context, live *Agent) error {
	if err := s.settling.Acquire(ctx); err != nil {
		return err
	}
	defer s.settling.Release()
	if !s.reported.holds(live) {
		return nil // somebody has
	}
	return s.reported.store(context.WithoutCancel(ctx))
}

// pruneInterval is how often agents that were unseen for too long are looked for.
const pruneInterval = time.Minute

// Run flushes presence to the store every FlushInterval until ctx ends, and
// once more then. It removes agents that are to be pruned.
func (s *Agents) Run(ctx context.Context) error {
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

func (s *Agents) flush(ctx context.Context) {
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
func (s *Agents) prune(ctx context.Context) {
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
func (s *Agents) unseenTooLong(seen, now time.Time) bool {
	unseen := now.Sub(seen)
	if seen.Before(s.began) {
		unseen -= s.downtime
	}
	return unseen > s.pruneAfter
}

// Agent returns one agent, or models.ErrNotFound.
func (s *Agents) Agent(id string) (models.Agent, error) {
	live, err := s.known(id)
	if err != nil {
		return models.Agent{}, err
	}
	return live.snapshot(), nil
}

func (s *Agents) known(id string) (*Agent, error) {
	if live := s.table.find([]byte(id)); live != nil {
		return live, nil
	}
	return nil, fmt.Errorf("agent %s: %w", id, models.ErrNotFound)
}

// Decommission forgets an agent and revokes its tokens. It returns
// models.ErrNotFound if there is none of that id, database.ErrBusy if its turn
// does not come.
func (s *Agents) Decommission(ctx context.Context, id string, origin models.Origin) error {
	live, err := s.known(id)
	if err != nil {
		return err
	}
	removed, err := s.remove(ctx, func() []*Agent {
		if s.table.find([]byte(id)) != live { // another request removed it
			return nil
		}
		return []*Agent{live}
	}, func([]*Agent) models.Entry {
		agent := live.snapshot()
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

// remove removes the agents that choose returns, from memory and store, and returns
// them. choose runs while no other agent is registered or removed; entry makes the
// audit log's entry of them, and is not called for none.
func (s *Agents) remove(
	ctx context.Context, choose func() []*Agent, entry func([]*Agent) models.Entry,
) ([]*Agent, error) {
	if err := s.saving.Acquire(ctx); err != nil {
		return nil, err
	}
	defer s.saving.Release()
	agents := choose()
	if len(agents) == 0 {
		return nil, nil
	}
	ids := make([]string, len(agents))
	for i, live := range agents {
		ids[i] = live.id
	}
	if err := s.store.DeleteAgents(context.WithoutCancel(ctx), ids, entry(agents)); err != nil {
		return nil, err
	}
	for _, live := range agents {
		s.table.remove(live)
		s.index.remove(live)
		live.offers.broadcast()
	}
	s.changes.broadcast()
	return agents, nil
}

// Retry lets an agent be offered the version that its worker refused once
// more. It returns models.ErrNotFound if there is no agent of that id,
// database.ErrBusy if its turn does not come.
func (s *Agents) Retry(ctx context.Context, id string, origin models.Origin) error {
	if err := s.settling.Acquire(ctx); err != nil { // no report may come in between
		return err
	}
	defer s.settling.Release()
	live, err := s.known(id)
	if err != nil {
		return err
	}
	agent := live.snapshot()
	entry := models.NewEntry(origin, models.ActionRetry, agent.Refused.Version, "agent "+id+" on "+agent.Hostname)
	refused := agent.Refused
	agent.Refused = models.Refusal{}
	if err := s.store.SavePresence(context.WithoutCancel(ctx), map[string]models.Presence{id: agent.Presence}, entry); err != nil {
		return fmt.Errorf("retry agent %s: %w", id, err)
	}
	live.mu.Lock()
	if live.agent.Refused == refused {
		live.agent.Refused = models.Refusal{}
	}
	s.show(live, time.Now())
	s.polled.add(live)
	live.mu.Unlock()
	live.offers.broadcast()
	return nil
}

// Query asks for a page of the agents. Zero values ask for all of them.
type Query struct {
	Status   models.Status // empty: all but the inactive ones
	All      bool          // the inactive ones too, where Status is empty
	Applied  int64
	Hears    models.Transport
	Hostname string // a * at its end stands for anything
	After    int64  // Seq of the last agent of the page before
	Limit    int
}

// matches reports whether agents that are alike are asked for, on any host.
func (q *Query) matches(k groupKey, plan *models.Plan) bool {
	if q.Applied != 0 && k.Applied != q.Applied || q.Hears != "" && k.transport != q.Hears {
		return false
	}
	status := plan.Status(k.Health)
	if q.Status != "" {
		return status == q.Status
	}
	return q.All || status != models.Inactive
}

// Page is some of the agents, in the order of registration.
type Page struct {
	Agents []models.Agent
	Total  int  // how many there are on all pages
	More   bool // there is a page after this one
}

// fewAgents is how many agents a list sorts, rather than to look for them in the order
// of registration.
const fewAgents = 4096

// List returns a page of the agents as they are now.
func (s *Agents) List(q Query, plan *models.Plan, now time.Time) (page Page) {
	if q.Hostname != "" {
		s.index.age(now)
		return s.listHost(q, plan)
	}
	var few []*Agent
	s.index.each(now, func(g *group) {
		if !q.matches(g.groupKey, plan) {
			return
		}
		if page.Total += g.count; page.Total <= fewAgents {
			few = append(few, g.some(g.count)...)
		}
	})
	if page.Total <= fewAgents {
		for _, live := range earliest(few, len(few)) {
			if live.seq > q.After && !page.add(live, q.Limit) {
				break
			}
		}
		return page
	}
	for row := range s.table.after(q.After) {
		if row.live.matches(&q, plan) && !page.add(row.live, q.Limit) {
			break
		}
	}
	return page
}

// listHost is List of a query for hosts.
func (s *Agents) listHost(q Query, plan *models.Plan) (page Page) {
	pattern := newHostPattern(q.Hostname)
	for row := range s.table.after(0) {
		if !pattern.matches(row) || !row.live.matches(&q, plan) {
			continue
		}
		page.Total++
		if row.seq > q.After && !page.More {
			page.add(row.live, q.Limit)
		}
	}
	return page
}

// add adds an agent to a page, and reports whether there is room for one more.
func (p *Page) add(live *Agent, limit int) bool {
	if p.More = len(p.Agents) == limit; p.More {
		return false
	}
	p.Agents = append(p.Agents, live.snapshot())
	return true
}

func (a *Agent) matches(q *Query, plan *models.Plan) bool {
	g := a.group.Load()
	return g != nil && q.matches(g.groupKey, plan) // nil: it was removed meanwhile
}

// StatusOf returns how an agent is.
func (s *Agents) StatusOf(a *models.Agent, plan *models.Plan, now time.Time) models.Status {
	return plan.Status(a.Health(models.AgeOf(now.Sub(a.Seen()), a.PollInterval, s.inactiveAfter)))
}

// ID is the agent's id.
func (a *Agent) ID() string { return a.id }

// Deregistered reports whether the agent was decommissioned since it authenticated.
func (a *Agent) Deregistered() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.deregistered
}

func newAgent(a models.Agent) *Agent {
	live := &Agent{id: a.ID, seq: a.Seq, agent: a, measured: a.Applied}
	live.due.Store(never)
	return live
}

func (a *Agent) snapshot() models.Agent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.agent
}

// add makes a new agent known to all.
func (s *Agents) add(live *Agent, now time.Time) {
	s.table.add(live)
	live.mu.Lock()
	defer live.mu.Unlock()
	s.index.place(live, now)
}

// show brings what counts and lists read of an agent up to date. The caller holds the
// agent's lock.
func (s *Agents) show(live *Agent, now time.Time) {
	live.show()
	s.index.place(live, now)
}

func (s *Agents) release(live *Agent, now time.Time) {
	live.mu.Lock()
	defer live.mu.Unlock()
	if live.agent.Held > 0 {
		live.agent.Held = models.Released
		s.show(live, now)
	}
}

// reregister takes over what a registration changes, and leaves what polls may have
// said in the meantime.
func (s *Agents) reregister(live *Agent, fresh models.Agent) {
	live.mu.Lock()
	defer live.mu.Unlock()
	was := &live.agent
	fresh.Presence, fresh.Held, fresh.Unknown, fresh.Mismatch = was.Presence, was.Held, was.Unknown, was.Mismatch
	fresh.PushError = was.PushError
	live.agent = fresh
	s.show(live, time.Now())
	live.tokenUsed, live.duplicateSeen = false, false
	live.checked = weak.Pointer[x509.Certificate]{}
}
