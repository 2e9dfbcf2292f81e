package sqlite_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/fleetconf/fleetconf/controller/internal/database/databasetest"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
)

// Open rejects a damaged database file and does not change it, or opens it.
func FuzzOpen_DamagedFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "controller.db")
	db, err := sqlite.Open(f.Context(), path)
	if err != nil {
		f.Fatal(err)
	}
	for _, url := range []string{"http://a/", "http://b/"} {
		if err := databasetest.Publish(db, url); err != nil {
			f.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		f.Fatal(err)
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte("x"), uint32(0))         // the magic
	f.Add(uint32(16), []byte{0, 1}, uint32(0))       // the size of a page
	f.Add(uint32(18), []byte{9, 9}, uint32(0))       // the format
	f.Add(uint32(28), []byte{0xff, 0xff}, uint32(0)) // the number of pages
	f.Add(uint32(60), []byte{0, 0, 0, 9}, uint32(0)) // the user version
	f.Add(uint32(100), []byte{0}, uint32(0))         // the schema's page
	f.Add(uint32(4096), bytes.Repeat([]byte{0}, 64), uint32(0))
	f.Add(uint32(0), []byte{}, uint32(1)) // cut off
	f.Add(uint32(0), []byte{}, uint32(4096))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut uint32) {
		content := bytes.Clone(sound)
		copy(content[int(at)%len(content):], patch)
		content = content[:len(content)-int(cut)%len(content)]
		path := newPath(t)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := sqlite.Open(t.Context(), path)
		if err == nil {
			_ = db.Ping(t.Context())
			if err := db.Close(); err != nil {
				t.Log(err)
			}
			return
		}
		after, readErr := os.ReadFile(path)
		if readErr != nil || !bytes.Equal(after, content) {
			t.Errorf("rejected with %v, and changed: %v", err, readErr)
		}
	})
}
