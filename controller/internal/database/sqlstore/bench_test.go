package sqlstore_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlstore"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// One flush of 4096 agents that polled, of a fleet of as many and of a larger one, and
// one of agents that reported too.
func BenchmarkSavePresence_Flush4096(b *testing.B) {
	for _, row := range []struct {
		name     string
		fleet    int
		reported bool
	}{{"of_4096", 4096, false}, {"of_100000", 100_000, false}, {"of_100000_reported", 100_000, true}} {
		b.Run(row.name, func(b *testing.B) {
			db := openFleet(b, row.fleet)
			for b.Loop() {
				batch := make([]database.Presence, 4096)
				for i, agent := range rand.Perm(row.fleet)[:len(batch)] {
					said := models.Presence{
						LastPoll: models.Now(), PollInterval: 30 * time.Second, Transport: wire.LongPoll,
						Applied: 7, AppliedAt: models.Now(),
						Attempt: wire.Attempt{Version: 7, Status: wire.Applied, At: models.Now()},
					}
					batch[i] = database.Presence{Seq: int64(agent + 1), Presence: said, Reported: row.reported}
				}
				if err := db.SavePresence(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// openFleet opens a store with agents of Seq 1 to n.
func openFleet(b *testing.B, n int) *sqlite.DB {
	b.Helper()
	db, err := sqlite.Open(b.Context(), b.TempDir()+"/controller.db")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	if err := db.Fill(b.Context(), func(f *sqlstore.Filling) error {
		for i := range n {
			a := models.Agent{
				ID: fmt.Sprintf("0190a7c2-5b1e-7c3d-9f00-%012d", i), Hostname: fmt.Sprint("web-", i),
				Metadata: []byte(`{"os":"linux","kernel":"6.8.0","rack":"r17"}`),
			}
			if err := f.Agent(b.Context(), a); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	return db
}
