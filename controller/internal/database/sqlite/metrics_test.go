package sqlite_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fleetconf/fleetconf/controller/internal/database/databasetest"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

func openMeasured(t *testing.T, path string) (*sqlite.DB, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	db, err := sqlite.OpenMeasured(t.Context(), path, sqlite.NewMetrics(reg))
	if err != nil {
		t.Fatalf("OpenMeasured: %v", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, reg
}

const errorsTotal = "fleetconf_controller_database_errors_total"

func TestMetrics_Errors_ByKind(t *testing.T) {
	path := newPath(t)
	db, reg := openMeasured(t, path)
	long := "http://a/" + strings.Repeat("a", 20_000)
	locked := func(do func()) {
		defer lock(t, path)()
		sqlite.ShortenBusyTimeout(t, db)
		do()
	}
	rejection := errors.New("a rule")
	for _, row := range []struct {
		kind string
		do   func() error
	}{
		{"", func() error { _, err := databasetest.Newest(t.Context(), db); return err }}, // finds nothing
		{"", func() error {
			return databasetest.Append(t.Context(), db, func(*models.Plan) (*models.Change, error) {
				return nil, rejection
			})
		}},
		{"", func() error {
			gone, leave := context.WithCancel(t.Context())
			leave()
			return db.AppendAudit(gone, models.Entry{})
		}},
		{"busy", func() (err error) { locked(func() { err = databasetest.Publish(db, "http://a/") }); return err }},
		{"full", func() error { defer sqlite.LimitPages(t, db)(); return databasetest.Publish(db, long) }},
		{"io", func() error { defer failWrites(t)(); return databasetest.Publish(db, "http://a/") }},
		{"other", func() error {
			exec(t, outside(t, path), `DROP TABLE audit`)
			return db.AppendAudit(t.Context(), models.Entry{})
		}},
		{"other", func() error { _, err := db.Audit(t.Context(), "", 0, 1); return err }},
		{"readonly", func() error { sqlite.MakeReadOnly(t, db); return databasetest.Publish(db, "http://a/") }},
	} {
		if err := row.do(); err == nil {
			t.Fatalf("%q: no error", row.kind)
		}
	}
	const want = `
# HELP fleetconf_controller_database_errors_total Failed transactions and queries, by kind of error.
# TYPE fleetconf_controller_database_errors_total counter
fleetconf_controller_database_errors_total{kind="busy"} 1
fleetconf_controller_database_errors_total{kind="corrupt"} 0
fleetconf_controller_database_errors_total{kind="full"} 1
fleetconf_controller_database_errors_total{kind="io"} 1
fleetconf_controller_database_errors_total{kind="other"} 2
fleetconf_controller_database_errors_total{kind="readonly"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), errorsTotal); err != nil {
		t.Error(err)
	}
}

func TestMetrics_DamagedDatabase_Counted(t *testing.T) {
	path := newPath(t)
	db, reg := openMeasured(t, path)
	if err := databasetest.Publish(db, "http://a/"); err != nil {
		t.Fatal(err)
	}
	exec(t, outside(t, path), `PRAGMA wal_checkpoint(TRUNCATE)`)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const page = 4096
	damage := strings.Repeat("x", int(info.Size())-page) // of all pages but the first
	if _, err := file.WriteAt([]byte(damage), page); err != nil {
		t.Fatal(err)
	}
	if err := databasetest.Publish(db, "http://b/"); err == nil {
		t.Fatal("a damaged database accepted a version")
	}
	if n, err := testutil.GatherAndCount(reg, errorsTotal); err != nil || n != 6 {
		t.Errorf("got %d series of errors, %v, want 6", n, err)
	}
	families, _ := reg.Gather()
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if l := m.GetLabel()[0]; l.GetValue() == "corrupt" && m.GetCounter().GetValue() == 0 {
				t.Error("the damage was counted as another kind of error")
			}
		}
	}
}

func TestCollector_Files_Measured(t *testing.T) { synctest.Test(t, measuresFiles) }

func measuresFiles(t *testing.T) {
	path := newPath(t)
	db, _ := openMeasured(t, path)
	if err := databasetest.Publish(db, "http://a/"); err != nil {
		t.Fatal(err)
	}
	collector := sqlite.NewCollector(db)
	value := func(name, file string) float64 {
		t.Helper()
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(collector)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				if family.GetName() != "fleetconf_controller_"+name {
					continue
				}
				if file == "" || m.GetLabel()[0].GetValue() == file {
					return m.GetGauge().GetValue()
				}
			}
		}
		t.Fatalf("got no metric %s", name)
		return 0
	}
	for file, path := range map[string]string{"main": path, "wal": path + "-wal"} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := value("database_size_bytes", file); got != float64(info.Size()) || got == 0 {
			t.Errorf("size of %s: got %v, want %d", file, got, info.Size())
		}
	}
	if got := value("database_ready", ""); got != 1 {
		t.Errorf("before the failure: got ready %v, want 1", got)
	}
	if err := os.Rename(path, path+".gone"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second)
	if got := value("database_ready", ""); got != 1 {
		t.Errorf("within five seconds: got ready %v, want the last answer, because Ping may write", got)
	}
	time.Sleep(time.Second)
	if ready, size := value("database_ready", ""), value("database_size_bytes", "main"); ready != 0 || size != 0 {
		t.Errorf("without its file: got ready %v and %v bytes, want 0 and 0", ready, size)
	}
}
