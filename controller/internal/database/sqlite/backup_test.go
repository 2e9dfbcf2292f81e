package sqlite_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/controller/internal/database/databasetest"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
)

func silent(int, int) {}

// A backup is a consistent snapshot during writes, and a controller can run on it.
func TestBackup_DuringWrites_Consistent(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	for n := range 50 {
		if err := databasetest.Publish(db, fmt.Sprint("http://target/", n)); err != nil {
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
			if err := databasetest.Publish(db, fmt.Sprint("http://target/", n)); err != nil {
				stopped <- err
				return
			}
		}
	}()
	for n := range 5 {
		newest, err := databasetest.Newest(t.Context(), db)
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
			t.Errorf("the file: got %v, %v, want mode 0600", info.Mode(), err)
		}
		if files, _ := os.ReadDir(filepath.Dir(to)); len(files) != 1 {
			t.Errorf("got files beside the backup: %v", files)
		}
		saved := open(t, to)
		history, err := saved.Configs(t.Context(), 1<<62, 10000)
		if err != nil || int64(len(history)) != made.Newest || history[0].Version != made.Newest {
			t.Errorf("the copy has %d versions, %v, want %d", len(history), err, made.Newest)
		}
		_ = saved.Close()
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Errorf("a publish during the backups: %v", err)
	}
}

func TestBackup_ClosedDatabase_Copied(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	if err := databasetest.Publish(db, "http://a/"); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	made, err := sqlite.Backup(t.Context(), link, filepath.Join(t.TempDir(), "saved.db"), silent)
	if err != nil || made.Newest != 1 {
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
	for name, row := range map[string]struct{ from, to, want string }{
		"over another file":           {path, other, "exists already"},
		"over itself":                 {path, path, "exists already"},
		"over itself, through a link": {path, link, "exists already"},
		"as its own journal":          {path, path + "-journal", "a file of the database itself"},
		"into no folder":              {path, filepath.Join(dir, "none", "saved.db"), "no such file"},
		"of nothing":                  {filepath.Join(dir, "none.db"), filepath.Join(dir, "saved.db"), "DB_PATH"},
		"of what is no database":      {other, filepath.Join(dir, "saved.db"), "is no SQLite database"},
	} {
		_, err := sqlite.Backup(t.Context(), row.from, row.to, silent)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "saved.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a failed backup left a file")
	}
	if b, _ := os.ReadFile(other); string(b) != "precious" {
		t.Error("the other file was changed")
	}
	if _, err := os.Stat(filepath.Join(dir, "none.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a database was created where there was none")
	}
}
