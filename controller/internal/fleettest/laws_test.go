package fleettest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"pgregory.net/rapid"

	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/controller/internal/rollout"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// world is a controller on a real store, and a model of its state.
type world struct {
	path      string
	db        *sqlite.DB
	publisher *publish.Publisher
	agents    *registry.Registry
	rollout   *rollout.Rollouts

	published []models.Config // the acknowledged versions, in order
	frozen    bool
	fleet     [3]member
}

// member is the model of an agent and its worker.
type member struct {
	token   string
	runs    int64           // the version that its worker runs; 0 for none
	offered map[int64]bool  // the versions that it was ever offered
	refuses map[string]bool // the URLs that its worker refuses
	refused int64           // the version that it reported as refused; 0 for none
}

func (m *member) name(i int) string { return fmt.Sprint("a", i) }

// open starts a controller on the store, as after a crash.
func (w *world) open(t *rapid.T) {
	var err error
	log, _ := logtest.NewNullLogger()
	if w.db, err = sqlite.Open(t.Context(), w.path); err != nil {
		t.Fatalf("open: %v", err)
	}
	plan, err := publish.Load(t.Context(), w.db, fleettest.DefaultInterval)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	w.agents, err = registry.Open(
		t.Context(), w.db, plan, registry.Options{InactiveAfter: fleettest.InactiveAfter}, log,
	)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	w.publisher = publish.New(w.db, plan, w.agents, publish.Options{Tags: w.db.Tags()}, log)
	w.rollout = rollout.New(w.publisher, w.agents, w.db)
}

func (w *world) live(t *rapid.T, i int) *registry.Agent {
	m := &w.fleet[i]
	live := w.agents.Authenticate([]byte(m.name(i)), []byte(m.token))
	if live == nil {
		t.Fatalf("%s is not known, though its registration was acknowledged", m.name(i))
	}
	return live
}

func (w *world) newest() *models.Config {
	if len(w.published) == 0 {
		return nil
	}
	return &w.published[len(w.published)-1]
}

// acknowledged checks the outcome of a publish or rollback, and updates the model.
func (w *world) acknowledged(t *rapid.T, outcome models.Outcome, err error, want models.Content, restored int64) {
	if w.frozen {
		if err == nil {
			t.Fatalf("published while frozen: %+v", outcome.Config)
		}
		return
	}
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	before := w.newest()
	if same := before != nil && before.Content == want; outcome.Changed == same || outcome.Config.Content != want {
		t.Fatalf("got %+v, changed %v, want %+v, changed %v", outcome.Config, outcome.Changed, want, !same)
	}
	if !outcome.Changed {
		return
	}
	if outcome.Config.Version != int64(len(w.published))+1 || outcome.Config.RestoredFrom != restored {
		t.Fatalf(
			"got version %d restored from %d, want %d from %d", outcome.Config.Version, outcome.Config.RestoredFrom,
			len(w.published)+1, restored,
		)
	}
	w.published = append(w.published, *outcome.Config)
}

func (w *world) publish(t *rapid.T) {
	url := rapid.SampledFrom([]string{"http://a/", "http://b/", "http://c/"}).Draw(t, "url")
	want := models.Content{URL: url, PollInterval: fleettest.DefaultInterval}
	if rapid.Bool().Draw(t, "dry") {
		if _, err := w.publisher.PreviewPublish(t.Context(), fleettest.Draft(url)); (err != nil) != w.frozen {
			t.Fatalf("preview: %v", err)
		}
		return // check verifies that nothing was stored
	}
	outcome, err := w.publisher.Publish(t.Context(), fleettest.Draft(url))
	w.acknowledged(t, outcome, err, want, 0)
}

func (w *world) rollback(t *rapid.T) {
	if len(w.published) == 0 {
		return
	}
	version := rapid.Int64Range(1, int64(len(w.published))).Draw(t, "version")
	outcome, err := w.publisher.Rollback(t.Context(), version, models.Terms{})
	w.acknowledged(t, outcome, err, w.published[version-1].Content, version)
}

// poll simulates one poll: the agent sends the version that its worker runs, passes the
// offer to the worker, and reports the outcome, or crashes before the report.
func (w *world) poll(t *rapid.T) {
	i := rapid.IntRange(0, len(w.fleet)-1).Draw(t, "agent")
	m, live, current := &w.fleet[i], w.live(t, i), w.publisher.Plan().Config()
	desired, runs := int64(0), int64(0)
	if current != nil {
		if desired = current.Version; m.runs == desired {
			runs = desired
		}
	}
	w.agents.Poll(live, models.Poll{At: time.Now(), Interval: fleettest.DefaultInterval, Runs: runs})
	offer := fleettest.Offers(live, desired)
	if current == nil {
		return
	}
	if m.runs == desired {
		m.refused = 0
		return // unchanged, a 304
	}
	// Law 4: an agent is offered the newest version unless it runs or refused it.
	if want := m.refused != desired; offer != want {
		t.Fatalf(
			"%s runs %d and refused %d: version %d is offered %v, want %v", m.name(i), m.runs, m.refused, desired,
			offer, want,
		)
	}
	if !offer {
		return
	}
	m.offered[desired] = true
	attempt := wire.Attempt{Version: desired, At: models.Now()}
	if m.refuses[current.URL] {
		attempt.Status, attempt.Error = wire.Failed, "no "+current.URL
	} else {
		m.runs, attempt.Status = desired, wire.Applied
	}
	if rapid.IntRange(0, 3).Draw(t, "crash of the agent") == 0 {
		return // before the report
	}
	if _, err := w.agents.Report(t.Context(), live, attempt); err != nil {
		t.Fatalf("report: %v", err)
	}
	if m.refused = 0; attempt.Status == wire.Failed {
		m.refused = desired
	}
}

func (w *world) restartWorker(t *rapid.T) {
	m := &w.fleet[rapid.IntRange(0, len(w.fleet)-1).Draw(t, "agent")]
	url := rapid.SampledFrom([]string{"http://a/", "http://b/", "http://c/"}).Draw(t, "url")
	m.refuses[url] = !m.refuses[url] // restarted with other settings
}

func (w *world) retry(t *rapid.T) {
	i := rapid.IntRange(0, len(w.fleet)-1).Draw(t, "agent")
	if err := w.agents.Retry(t.Context(), w.fleet[i].name(i), fleettest.ByAdmin); err != nil {
		t.Fatalf("retry: %v", err)
	}
	w.fleet[i].refused = 0
}

func (w *world) freeze(t *rapid.T) {
	always := func(*models.Freeze) bool { return true }
	var err error
	if w.frozen = !w.frozen; w.frozen {
		err = w.publisher.Freeze(t.Context(), models.Freeze{Reason: "sale"}, fleettest.ByAdmin, always)
	} else {
		_, err = w.publisher.Unfreeze(t.Context(), fleettest.ByAdmin, always)
	}
	if err != nil {
		t.Fatalf("freeze %v: %v", w.frozen, err)
	}
}

// crash restarts the controller from what is stored, as after kill -9.
func (w *world) crash(t *rapid.T) {
	_ = w.db.Close()
	w.open(t)
}

// check compares the controller with the model.
func (w *world) check(t *rapid.T) {
	// Law 1: the stored versions are the acknowledged ones.
	history, err := w.publisher.History(t.Context(), 1<<62, 1000)
	if err != nil {
		t.Fatalf("history: %v", err)
	}
	for i := range history {
		if diff := cmp.Diff(w.published[len(history)-1-i], *history[i]); diff != "" {
			t.Fatalf("version %d, -acknowledged +stored:\n%s", history[i].Version, diff)
		}
	}
	if len(history) != len(w.published) {
		t.Fatalf("%d versions are stored, %d were acknowledged", len(history), len(w.published))
	}
	// Law 7: the version that was acknowledged last is current.
	if diff := cmp.Diff(w.newest(), w.publisher.Plan().Config(), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("current, -want +got:\n%s", diff)
	}
	for i := range w.fleet {
		m := &w.fleet[i]
		// Law 2: a worker runs only versions that were acknowledged and offered.
		if m.runs != 0 && (m.runs > int64(len(w.published)) || !m.offered[m.runs]) {
			t.Fatalf("%s runs version %d, which was not offered to it", m.name(i), m.runs)
		}
		agent, err := w.agents.Agent(m.name(i))
		if err != nil {
			t.Fatalf("%s: %v", m.name(i), err)
		}
		// Law 4: a version that the controller shows as applied was offered.
		if agent.Applied != 0 && !m.offered[agent.Applied] {
			t.Fatalf("%s is shown with version %d, which it was never offered", m.name(i), agent.Applied)
		}
	}
	for version := int64(1); version <= int64(len(w.published)); version++ {
		r, err := w.rollout.Rollout(t.Context(), version)
		if err != nil {
			t.Fatalf("rollout of %d: %v", version, err)
		}
		if r.Targets != len(w.fleet) || r.Applied+r.Failed+r.Pending+r.Offline != r.Targets {
			t.Fatalf("the rollout of %d does not add up: %+v", version, r.Figures)
		}
	}
}

// Laws 1, 2, 4 and 7 hold over any interleaving of publish, rollback, report, crash and
// restart.
func TestLaws_HoldOverAnyHistory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() { // fsync is cheap there
		if fast, err := os.MkdirTemp("/dev/shm", "fleetconf"); err == nil {
			dir = fast
			t.Cleanup(func() { _ = os.RemoveAll(fast) })
		}
	}
	empty := filepath.Join(dir, "empty.db") // migrated once, because that takes most of the time
	db, closeDB := fleettest.OpenStore(t, empty)
	for i := range (world{}).fleet {
		agents, _ := fleettest.OpenAgents(t, db)
		fleettest.Register(t, agents, fmt.Sprint("a", i))
	}
	closeDB()
	made, err := os.ReadFile(empty)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) { // make check-long plays more histories
		w := &world{path: filepath.Join(dir, "controller.db")}
		for _, suffix := range []string{"-wal", "-shm"} {
			_ = os.Remove(w.path + suffix)
		}
		if err := os.WriteFile(w.path, made, 0o600); err != nil {
			t.Fatal(err)
		}
		w.open(t)
		defer func() { _ = w.db.Close() }()
		for i := range w.fleet {
			m := &w.fleet[i]
			m.offered, m.refuses = map[int64]bool{}, map[string]bool{}
			_, m.token, _, err = w.agents.Register(t.Context(), registry.Registration{
				ID: m.name(i), Hostname: "h", Metadata: []byte("{}"), PollInterval: fleettest.DefaultInterval,
			})
			if err != nil {
				t.Fatalf("register: %v", err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"publish": w.publish, "rollback": w.rollback, "poll": w.poll, "poll again": w.poll,
			"poll once more": w.poll,
			"retry":          w.retry, "worker": w.restartWorker, "freeze": w.freeze, "crash": w.crash, "": w.check,
		})
	})
}
