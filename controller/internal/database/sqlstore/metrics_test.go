package sqlstore_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/databasetest"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlstore"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// openMeasured opens a new store on SQLite.
func openMeasured(t *testing.T) (*sqlite.DB, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	path := filepath.Join(t.TempDir(), "controller.db")
	db, err := sqlite.OpenMeasured(t.Context(), path, sqlstore.NewMetrics(reg))
	if err != nil {
		t.Fatalf("OpenMeasured: %v", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, reg
}

// operations returns how often each operation was measured.
func operations(t *testing.T, reg prometheus.Gatherer) map[string]uint64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, family := range families {
		if family.GetName() != "fleetconf_controller_database_operation_duration_seconds" {
			continue
		}
		for _, m := range family.GetMetric() {
			got[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
		}
	}
	return got
}

// change stores a change.
func change(ctx context.Context, db *sqlite.DB, c *models.Change) error {
	return databasetest.Append(ctx, db, func(*models.Plan) (*models.Change, error) { return c, nil })
}

func TestMetrics_EachOperation_Timed(t *testing.T) {
	db, reg := openMeasured(t)
	ctx := t.Context()
	batch := []database.Presence{{Seq: 1}}
	for _, row := range []struct {
		operation string
		do        func() error
	}{
		{"publish", func() error { return databasetest.Publish(db, "http://a/") }},
		{"register", func() error {
			_, err := db.SaveAgent(ctx, models.Agent{ID: "a1", Metadata: []byte("{}")})
			return err
		}},
		{"report", func() error { return db.SaveReports(ctx, batch) }},
		{"presence", func() error { return db.SavePresence(ctx, batch) }},
		{"remove", func() error { return db.DeleteAgents(ctx, []string{"a1"}, models.Entry{}) }},
		{"freeze", func() error { return change(ctx, db, &models.Change{Unfreeze: true}) }},
		{"conflict", func() error { return change(ctx, db, &models.Change{Observed: &models.Observed{}}) }},
		{"audit", func() error { return db.AppendAudit(ctx, models.Entry{}) }},
		{"read", func() error { _, err := db.Plan(ctx); return err }},
		{"read", func() error { _, err := db.Config(ctx, 1); return err }},
		{"read", func() error { _, err := db.Configs(ctx, 9, 9); return err }},
		{"read", func() error { _, err := db.Agents(ctx); return err }},
		{"read", func() error { _, err := db.Audit(ctx, "", 0, 9); return err }},
		{"read", func() error {
			if _, _, err := db.Figures(ctx, 9); !errors.Is(err, models.ErrNotFound) {
				return errors.Join(errors.New("want ErrNotFound"), err)
			}
			return nil
		}},
	} {
		want := operations(t, reg)
		want[row.operation]++
		if err := row.do(); err != nil {
			t.Fatalf("%s: %v", row.operation, err)
		}
		if diff := cmp.Diff(want, operations(t, reg)); diff != "" {
			t.Errorf("after an operation %s, -want +got:\n%s", row.operation, diff)
		}
	}
}
