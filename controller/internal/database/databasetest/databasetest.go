// Package databasetest is the suite of laws that every database.Store keeps, also while
// what is below it fails.
package databasetest

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Driver opens stores of one kind, and makes them fail. A failure lasts until the
// returned function is called.
type Driver struct {
	// Open returns a new, empty store, which is closed at the end of the test.
	Open func(t *testing.T) database.Store
	// Reopen closes a store and opens it again, as a restart of the controller does.
	Reopen func(t *testing.T, store database.Store) database.Store
	// Exec executes a statement behind the back of the store, as another program does.
	Exec func(t *testing.T, store database.Store, statement string) error

	// FillDisk makes every write fail that needs more room than it frees.
	FillDisk func(t *testing.T, store database.Store) (restore func())
	// FailCommits makes every commit fail, and leaves open whether it is stored.
	FailCommits func(t *testing.T, store database.Store) (restore func())
	// FailAudit makes every write of an entry of the audit log fail.
	FailAudit func(t *testing.T, store database.Store) (restore func())
	// Lock makes every write wait, for a short time, for another process.
	Lock func(t *testing.T, store database.Store) (restore func())
}

// Run tests that the stores of a driver keep the laws.
func Run(t *testing.T, d Driver) {
	for name, law := range map[string]func(*testing.T){
		"tags, reopened: the same; of another store: others":  d.tags,
		"append, reopened: kept":                              d.appendDurable,
		"append, rule rejects: nothing stored":                d.appendRejected,
		"append, context ends in the rule: nothing stored":    d.appendCanceled,
		"append, concurrent: each decides on the stored plan": d.appendConcurrent,
		"append, in progress: reads proceed":                  d.appendReads,
		"append, gap between versions: rejected":              d.appendGaps,
		"append: revision counts changes":                     d.revisions,
		"plan, while others write: of one revision":           d.planConsistent,
		"configs: append-only, without gaps":                  d.configsAppendOnly,
		"configs: pages":                                      d.configPages,
		"figures: kept for superseded versions":               d.figures,
		"audit: append-only":                                  d.auditAppendOnly,
		"audit: pages":                                        d.auditPages,
		"agents: saved, deleted":                              d.agents,
		"agents, deleted: seq not used again":                 d.agentSequence,
		"presence: polls and reports apart":                   d.presenceGroups,
		"presence, unknown agent: ignored":                    d.presenceUnknown,
		"write, fails: nothing stored":                        d.failures,
		"write, commit fails: in doubt":                       d.inDoubt,
	} {
		t.Run(name, law)
	}
}

// Config returns a version with a URL.
func Config(version int64, url string) *models.Config {
	return &models.Config{
		Content: models.Content{URL: url, PollInterval: 30 * time.Second},
		Version: version, ETag: fmt.Sprintf(`"e%d"`, version), Message: "why", PublishedBy: "admin",
		PublishedAt: time.Date(2026, 11, 24, 2, 0, 0, 123456000, time.UTC), SourceIP: "127.0.0.1",
	}
}

// Publish stores the next version, with a URL.
func Publish(store database.Store, url string) error {
	return Append(context.Background(), store, func(plan *models.Plan) (*models.Change, error) {
		return &models.Change{Config: Config(plan.Version()+1, url)}, nil
	})
}

// Append is store.Append, for its error alone.
func Append(ctx context.Context, store database.Store, rule func(*models.Plan) (*models.Change, error)) error {
	_, err := store.Append(ctx, rule)
	return err
}

// Newest returns the newest version, or models.ErrNotFound.
func Newest(ctx context.Context, store database.Store) (*models.Config, error) {
	plan, err := store.Plan(ctx)
	if err == nil && plan.Newest == nil {
		err = models.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return plan.Config(), nil
}

// must ends the test if err is not nil.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publish stores the next versions, with these URLs.
func publish(t *testing.T, store database.Store, urls ...string) {
	t.Helper()
	for _, url := range urls {
		must(t, Publish(store, url))
	}
}

// register stores an agent with an id, and returns its seq.
func register(t *testing.T, store database.Store, id string) int64 {
	t.Helper()
	seq, err := store.SaveAgent(t.Context(), models.Agent{
		ID: id, Hostname: "web", Metadata: []byte("{}"), Presence: models.Presence{PollInterval: 30 * time.Second},
	})
	must(t, err)
	return seq
}

// contents are all that a store holds.
type contents struct {
	Plan    *models.Plan
	Configs []*models.Config
	Agents  []models.Agent
	Audit   []models.Entry
}

func read(t *testing.T, store database.Store) (c contents) {
	t.Helper()
	var err error
	c.Plan, err = store.Plan(t.Context())
	must(t, err)
	c.Configs, err = store.Configs(t.Context(), math.MaxInt64, math.MaxInt32)
	must(t, err)
	c.Agents, err = store.Agents(t.Context())
	must(t, err)
	c.Audit, err = store.Audit(t.Context(), "", 0, math.MaxInt32)
	must(t, err)
	return c
}

// equal reports a difference between what a store should hold and what it holds.
func equal[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if reflect.DeepEqual(want, got) { // cmp takes long for much text
		return
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s, -want +got:\n%s", what, diff)
	}
}
