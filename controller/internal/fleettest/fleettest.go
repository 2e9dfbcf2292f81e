// Package fleettest has the fixtures of tests of a controller's rules: a fleet of all rule
// packages on a real store, and fakes. Its own tests are those that cross packages.
package fleettest

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/controller/internal/rollout"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// The settings of a fleet.
const (
	DefaultInterval = 30 * time.Second
	InactiveAfter   = 7 * 24 * time.Hour
)

// ByAdmin is the origin of an admin's requests.
var ByAdmin = models.Origin{Actor: "admin", SourceIP: "192.0.2.1"}

// OpenStore opens a database. The returned function closes it before the end of the test,
// so that the test can simulate a restart.
func OpenStore(t testing.TB, path string) (*sqlite.DB, func()) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	closeOnce := sync.OnceFunc(func() { _ = db.Close() })
	t.Cleanup(closeOnce)
	return db, closeOnce
}

// NewStore opens a new database.
func NewStore(t testing.TB) *sqlite.DB {
	t.Helper()
	db, _ := OpenStore(t, filepath.Join(t.TempDir(), "controller.db"))
	return db
}

// LoadPlan reads the plan from a store.
func LoadPlan(t testing.TB, store database.Store) *atomic.Pointer[models.Plan] {
	t.Helper()
	plan, err := publish.Load(t.Context(), store, DefaultInterval)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// NoPlan returns the plan before the first publish.
func NoPlan() *atomic.Pointer[models.Plan] {
	var plan atomic.Pointer[models.Plan]
	plan.Store(Newest(0))
	return &plan
}

// Newest returns a plan with a newest version, 0 for none.
func Newest(version int64) *models.Plan {
	if version == 0 {
		return &models.Plan{DefaultInterval: DefaultInterval}
	}
	return &models.Plan{Newest: &models.Release{Config: &models.Config{Version: version}}}
}

// NoAgents is a publish.Fleet without agents.
type NoAgents struct{}

// Figures implements publish.Fleet.
func (NoAgents) Figures(*models.Plan, time.Time) models.Figures { return models.Figures{} }

// Targets implements publish.Fleet.
func (NoAgents) Targets(time.Time) int { return 0 }

// Held implements publish.Fleet.
func (NoAgents) Held(int64, time.Time) int { return 0 }

// Release implements publish.Fleet.
func (NoAgents) Release() {}

// OpenAgents opens a registry with NoPlan.
func OpenAgents(t testing.TB, store database.Store) (*registry.Registry, *logtest.Hook) {
	t.Helper()
	return OpenAgentsOf(t, store, NoPlan())
}

// OpenAgentsOf opens a registry with a plan. The hook has its log entries.
func OpenAgentsOf(
	t testing.TB, store database.Store, plan *atomic.Pointer[models.Plan],
) (*registry.Registry, *logtest.Hook) {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	agents, err := registry.Open(context.WithoutCancel(t.Context()), store, plan,
		registry.Options{Reserved: []string{"admin", "agent"}, InactiveAfter: InactiveAfter}, log)
	if err != nil {
		t.Fatal(err)
	}
	return agents, hook
}

// Register registers an agent, and returns its id and token.
func Register(t testing.TB, agents *registry.Registry, id string) (string, string) {
	t.Helper()
	id, token, _, err := agents.Register(t.Context(), registry.Registration{
		ID: id, Hostname: "host", Metadata: []byte("{}"), PollInterval: DefaultInterval,
	})
	if err != nil {
		t.Fatalf("Register: %v", err)
	}
	return id, token
}

// Login returns the agent with that id and token, and fails the test if there is none.
func Login(t testing.TB, agents *registry.Registry, id, token string) *registry.Agent {
	t.Helper()
	live := agents.Authenticate([]byte(id), []byte(token))
	if live == nil {
		t.Fatalf("agent %s is not authenticated by its token", id)
	}
	return live
}

// Report reports an attempt of an agent.
func Report(t testing.TB, agents *registry.Registry, live *registry.Agent, attempt wire.Attempt) {
	t.Helper()
	if _, err := agents.Report(t.Context(), live, attempt); err != nil {
		t.Fatalf("Report: %v", err)
	}
}

// Offers reports whether an agent is offered version when that is the newest.
func Offers(live *registry.Agent, version int64) bool {
	release, _ := Newest(version).For(live.Traits(false, version))
	return release != nil
}

// StatusOf returns the status of an agent at a time.
func StatusOf(a *models.Agent, plan *models.Plan, now time.Time) wire.AgentStatus {
	return plan.Status(a.Health(models.AgeOf(now.Sub(a.Seen()), a.PollInterval, InactiveAfter)))
}

// OpenPublisher opens the publisher of a store, without agents.
func OpenPublisher(t testing.TB, store database.Store, tags models.Tags) *publish.Publisher {
	t.Helper()
	log, _ := logtest.NewNullLogger()
	return publish.New(store, LoadPlan(t, store), NoAgents{}, publish.Options{Tags: tags}, log)
}

// Draft returns a draft of a URL by the admin.
func Draft(url string) models.Draft {
	return models.Draft{URL: &url, Terms: models.Terms{Origin: models.Origin{Actor: "admin"}}}
}

// Publish publishes a draft, and returns the newest version.
func Publish(t testing.TB, publisher *publish.Publisher, d models.Draft) *models.Config {
	t.Helper()
	outcome, err := publisher.Publish(t.Context(), d)
	if err != nil {
		t.Fatalf("Publish: %v", err)
	}
	return outcome.Config
}

// Fleet has the rule packages of a controller on a real store.
type Fleet struct {
	DB        *sqlite.DB
	Agents    *registry.Registry
	Publisher *publish.Publisher
	Rollouts  *rollout.Rollouts
	Logged    *logtest.Hook // the log entries of the publisher
}

// New opens a fleet on db. Its rollouts read from store.
func New(t testing.TB, store database.Store, db *sqlite.DB) *Fleet {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	plan := LoadPlan(t, db)
	agents, _ := OpenAgentsOf(t, db, plan)
	publisher := publish.New(db, plan, agents, publish.Options{Tags: db.Tags()}, log)
	return &Fleet{
		DB: db, Agents: agents, Publisher: publisher, Rollouts: rollout.New(publisher, agents, store), Logged: hook,
	}
}

// Open opens a fleet on a new store.
func Open(t testing.TB) *Fleet {
	t.Helper()
	db := NewStore(t)
	return New(t, db, db)
}

// Join registers agents a0, a1, … and returns them.
func (f *Fleet) Join(t testing.TB, n int) []*registry.Agent {
	t.Helper()
	lives := make([]*registry.Agent, n)
	for i := range lives {
		id, token := Register(t, f.Agents, fmt.Sprint("a", i))
		lives[i] = Login(t, f.Agents, id, token)
	}
	return lives
}

// Figures returns the rollout of a version.
func (f *Fleet) Figures(t testing.TB, version int64) *models.Rollout {
	t.Helper()
	r, err := f.Rollouts.Rollout(t.Context(), version)
	if err != nil {
		t.Fatalf("Rollout: %v", err)
	}
	return r
}

// Later returns the ETag of a version that the store made and lost, as by a restore.
func (f *Fleet) Later(version int64) string {
	return f.DB.Tags().Of(version, models.Content{URL: "http://later/"})
}

// Actions returns the actions of the audit log, newest first, at most 100.
func Actions(t testing.TB, db *sqlite.DB) (actions []models.Action) {
	t.Helper()
	entries, err := db.Audit(t.Context(), "", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		actions = append(actions, e.Action)
	}
	return actions
}
