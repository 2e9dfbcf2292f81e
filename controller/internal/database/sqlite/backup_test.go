package sqlite_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

func silent(int, int) {}

// A backup is whole and of one moment, whatever is written meanwhile, and a
// controller can run on it.
func TestBackup_DuringWrites_Consistent(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	for n := range 50 {
		if err := append1(db, fmt.Sprint("http://target/", n)); err != nil {
			t.Fatal(err)
		}
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 50; ; n++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := append1(db, fmt.Sprint("http://target/", n)); err != nil {
				stopped <- err
				return
			}
		}
	}()
	for n := range 5 {
		newest, err := newestOf(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), "saved.db")
		made, err := sqlite.Backup(t.Context(), path, to, silent)
		if err != nil {
			t.Fatalf("backup %d: %v", n, err)
		}
		if made.Newest < newest.Version || made.Epoch != db.Tags().Epoch || made.Bytes == 0 {
			t.Errorf("got %+v, want at least version %d, which was acknowledged before", made, newest.Version)
		}
		if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file: got %v, %v, want it for this user's eyes only", info.Mode(), err)
		}
		if files, _ := os.ReadDir(filepath.Dir(to)); len(files) != 1 {
			t.Errorf("beside the backup lie %v", files)
		}
		saved := open(t, to)
		history, err := saved.Configs(t.Context(), 1<<62, 10000)
		if err != nil || int64(len(history)) != made.Newest || history[0].Version != made.Newest {
			t.Errorf("the copy holds %d versions, %v, want %d", len(history), err, made.Newest)
		}
		_ = saved.Close()
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Errorf("a publish meanwhile: %v", err)
	}
}

func TestBackup_ClosedDatabase_Copied(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	if err := append1(db, "http://a/"); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if made, err := sqlite.Backup(t.Context(), link, filepath.Join(t.TempDir(), "saved.db"), silent); err != nil || made.Newest != 1 {
		t.Errorf("got %+v, %v, want version 1", made, err)
	}
}

func TestBackup_HarmfulTarget_Rejected(t *testing.T) {
	path := newPath(t)
	_ = open(t, path)
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct{ from, to, words string }{
		"over another file":           {path, other, "exists already"},
		"over itself":                 {path, path, "exists already"},
		"over itself, through a link": {path, link, "exists already"},
		"as its own journal":          {path, path + "-journal", "a file of the database itself"},
		"into no folder":              {path, filepath.Join(dir, "none", "saved.db"), "no such file"},
		"of nothing":                  {filepath.Join(dir, "none.db"), filepath.Join(dir, "saved.db"), "DB_PATH"},
		"of what is no database":      {other, filepath.Join(dir, "saved.db"), "is no SQLite database"},
	} {
		_, err := sqlite.Backup(t.Context(), row.from, row.to, silent)
		if err == nil || !strings.Contains(err.Error(), row.words) {
			t.Errorf("%s: got %v, want %q", name, err, row.words)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "saved.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a failed backup left a file")
	}
	if b, _ := os.ReadFile(other); string(b) != "precious" {
		t.Error("the other file was written to")
	}
	if _, err := os.Stat(filepath.Join(dir, "none.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a database was made where there was none")
	}
}

func TestAppend_AboveReportedVersions_NoGapError(t *testing.T) {
	db := open(t, newPath(t))
	above := func(version, above int64) error {
		return appendChange(t.Context(), db, func(plan *models.Plan) (*models.Change, error) {
			return &models.Change{Config: config(version, fmt.Sprint("http://target/", version)), Observed: &models.Observed{Highest: max(above, plan.Observed.Highest)}}, nil
		})
	}
	for _, row := range []struct {
		version, above int64
		want           bool
	}{{1, 0, true}, {3, 0, false}, {10, 9, true}, {12, 0, false}, {11, 0, true}, {12, 9, true}} {
		if err := above(row.version, row.above); (err == nil) != row.want {
			t.Errorf("version %d above %d: got %v, want stored %v", row.version, row.above, err, row.want)
		}
	}
	if r, err := observed(t.Context(), db); err != nil || r.Highest != 9 {
		t.Errorf("got %+v, %v, want 9 kept", r, err)
	}
}

func TestAudit_IsAppendOnly(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	entry := models.Entry{At: time.Date(2026, 11, 24, 2, 0, 0, 0, time.UTC), Origin: models.Origin{Actor: "admin", SourceIP: "192.0.2.1"}, Action: models.ActionPublish, Version: 1, Detail: "why"}
	if err := db.AppendAudit(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	raw := outside(t, path)
	for _, statement := range []string{`UPDATE audit SET actor = 'nobody'`, `DELETE FROM audit`} {
		if _, err := raw.ExecContext(t.Context(), statement); err == nil {
			t.Errorf("%s: got no error", statement)
		}
	}
	entry.Seq = 1
	if got, err := db.Audit(t.Context(), "", 0, 10); err != nil || !cmp.Equal([]models.Entry{entry}, got) {
		t.Errorf("got %+v, %v, want %+v", got, err, entry)
	}
}

// A change is stored whole or not at all: here its audit entry cannot be.
func TestAppend_PartOfAChangeFails_NothingStored(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	if _, err := outside(t, path).ExecContext(t.Context(), `CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END`); err != nil {
		t.Fatal(err)
	}
	err := appendChange(t.Context(), db, func(*models.Plan) (*models.Change, error) {
		return &models.Change{Config: config(1, "http://a/"), Audit: []models.Entry{{Action: models.ActionPublish}}}, nil
	})
	if err == nil {
		t.Error("got no error")
	}
	if _, err := newestOf(t.Context(), db); !errors.Is(err, models.ErrNotFound) {
		t.Errorf("the version: got %v, want it not stored", err)
	}
}
