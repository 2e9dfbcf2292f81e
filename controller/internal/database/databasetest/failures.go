package databasetest

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// write is a method of a store that writes. The store is one that populate has filled.
type write struct {
	method  string
	do      func(ctx context.Context, store database.Store, long string) error // long is not the same twice
	entries bool                                                               // it adds to the audit log
}

// writes are in an order in which each can follow those before it.
var writes = []write{
	{"Append, a version", func(ctx context.Context, store database.Store, long string) error {
		return Append(ctx, store, func(plan *models.Plan) (*models.Change, error) {
			return &models.Change{Config: Config(plan.Version()+1, "http://b/"+long)}, nil
		})
	}, false},
	{"Append, all of a change", func(ctx context.Context, store database.Store, long string) error {
		return Append(ctx, store, func(plan *models.Plan) (*models.Change, error) {
			return &models.Change{
				Config: Config(plan.Version()+1, "http://b/"), Figures: &models.Figures{Targets: 1},
				Freeze: &models.Freeze{Reason: "sale"}, Observed: &models.Observed{ResumedBelow: 1},
				Audit: []models.Entry{{Action: models.ActionPublish}, {Action: models.ActionOverride, Detail: long}},
			}, nil
		})
	}, true},
	{"SaveAgent, new", func(ctx context.Context, store database.Store, long string) error {
		agent := models.Agent{ID: long, Metadata: []byte("{}")}
		_, err := store.SaveAgent(ctx, agent, models.Entry{Action: models.ActionRegister})
		return err
	}, true},
	{"SaveAgent, known", func(ctx context.Context, store database.Store, long string) error {
		agent := models.Agent{ID: "a1", Hostname: long, Metadata: []byte("{}")}
		_, err := store.SaveAgent(ctx, agent, models.Entry{Action: models.ActionReregister})
		return err
	}, true},
	{"SavePresence", func(ctx context.Context, store database.Store, long string) error {
		return store.SavePresence(ctx, presence(long))
	}, false},
	{"SavePresence, with an entry", func(ctx context.Context, store database.Store, long string) error {
		return store.SavePresence(ctx, presence(long), models.Entry{Action: models.ActionRetry})
	}, true},
	{"SaveReports", func(ctx context.Context, store database.Store, long string) error {
		return store.SaveReports(ctx, presence(long))
	}, false},
	{"AppendAudit", func(ctx context.Context, store database.Store, long string) error {
		return store.AppendAudit(ctx, models.Entry{Action: models.ActionLoginFailed, Detail: long})
	}, true},
	{"DeleteAgents", func(ctx context.Context, store database.Store, long string) error {
		return store.DeleteAgents(ctx, []string{"a2"}, models.Entry{Action: models.ActionDecommission, Detail: long})
	}, true},
}

func presence(long string) []database.Presence {
	said := models.Presence{Degraded: long, Refused: models.Refusal{Version: 8, Error: long}}
	return []database.Presence{{Seq: 1, Presence: said, Reported: true}}
}

// lengthening returns a function that returns a longer text each time, which does not
// fit into the place of the one before.
func lengthening() func() string {
	n := 0
	return func() string {
		n++
		return strings.Repeat("a", n*20_000)
	}
}

// populate stores some of everything.
func populate(t *testing.T, store database.Store) {
	t.Helper()
	publish(t, store, "http://a/")
	register(t, store, "a1")
	register(t, store, "a2")
	must(t, store.AppendAudit(t.Context(), models.Entry{Action: models.ActionPublish, Version: 1}))
}

// A write that returns an error has changed nothing, and succeeds once the cause is
// gone.
func (d Driver) failures(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	nothing := func(*testing.T, database.Store) (restore func()) { return func() {} }
	for _, row := range []struct {
		name string
		ctx  context.Context
		fail func(*testing.T, database.Store) (restore func())
		want error // nil: any
	}{
		{"full disk", t.Context(), d.FillDisk, database.ErrFull},
		{"lock of another process", t.Context(), d.Lock, database.ErrBusy},
		{"audit log that fails", t.Context(), d.FailAudit, nil},
		{"context that has ended", canceled, nothing, context.Canceled},
	} {
		t.Run(row.name, func(t *testing.T) {
			store, long := d.Open(t), lengthening()
			populate(t, store)
			for _, write := range writes {
				if row.want == nil && !write.entries {
					continue
				}
				before := read(t, store)
				restore := row.fail(t, store)
				err := write.do(row.ctx, store, long())
				if err == nil || row.want != nil && !errors.Is(err, row.want) || errors.Is(err, database.ErrInDoubt) {
					t.Errorf("%s: got %v, want %v, and no doubt", write.method, err, row.want)
				}
				equal(t, write.method+", after the failure", before, read(t, store))
				restore()
				if err := write.do(t.Context(), store, long()); err != nil {
					t.Errorf("%s, with the cause gone: %v", write.method, err)
				}
				if reflect.DeepEqual(before, read(t, store)) {
					t.Errorf("%s succeeded, and changed nothing", write.method)
				}
			}
			before := read(t, store)
			equal(t, "after a restart", before, read(t, d.Reopen(t, store)))
		})
	}
}

// A failed commit may be stored all the same, and the error says so.
func (d Driver) inDoubt(t *testing.T) {
	store, long := d.Open(t), lengthening()
	populate(t, store)
	for _, write := range writes {
		restore := d.FailCommits(t, store)
		err := write.do(t.Context(), store, long())
		restore()
		if !errors.Is(err, database.ErrIO) || !errors.Is(err, database.ErrInDoubt) {
			t.Errorf("%s: got %v, want ErrIO, in doubt", write.method, err)
		}
		if err := write.do(t.Context(), store, long()); err != nil {
			t.Errorf("%s, with the cause gone: %v", write.method, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := store.Ping(ctx); err != nil {
			t.Errorf("Ping after %s: %v", write.method, err)
		}
		cancel()
	}
}
