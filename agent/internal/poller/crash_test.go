package poller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// mortal kills a poller at its n-th step. There is a step before and a step after each
// call: if the poller dies before a save, the cache holds the old state, after it the new
// one.
type mortal struct {
	*world
	kill context.CancelFunc
	die  int // 0: never

	mu    sync.Mutex
	steps int
	dead  bool
}

// step counts a step, and reports whether the poller is alive. A dead one makes no calls.
func (m *mortal) step() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps++
	if m.steps == m.die {
		m.dead = true
		m.kill()
	}
	return !m.dead
}

// around makes call between two steps.
func around[T any](m *mortal, call func() (T, error)) (T, error) {
	var zero T
	if !m.step() {
		return zero, context.Canceled
	}
	v, err := call()
	if !m.step() {
		return zero, context.Canceled
	}
	return v, err
}

func (m *mortal) Register(
	ctx context.Context, as protocol.Identity, self wire.RegisterRequest,
) (protocol.Registration, error) {
	return around(m, func() (protocol.Registration, error) { return m.controller.Register(ctx, as, self) })
}

func (m *mortal) Fetch(ctx context.Context, id protocol.Identity, q protocol.Query) (protocol.Answer, error) {
	return around(m, func() (protocol.Answer, error) { return m.controller.Fetch(ctx, id, q) })
}

func (m *mortal) Report(ctx context.Context, id protocol.Identity, report wire.Report) error {
	_, err := around(m, func() (struct{}, error) { return struct{}{}, m.controller.Report(ctx, id, report) })
	return err
}

func (m *mortal) Deregister(ctx context.Context, id protocol.Identity) error {
	_, err := around(m, func() (struct{}, error) { return struct{}{}, m.controller.Deregister(ctx, id) })
	return err
}

func (m *mortal) Running(ctx context.Context) (wire.WorkerState, error) {
	return around(m, func() (wire.WorkerState, error) { return m.worker.Running(ctx) })
}

func (m *mortal) Push(ctx context.Context, config wire.WorkerConfig) error {
	_, err := around(m, func() (struct{}, error) { return struct{}{}, m.worker.Push(ctx, config) })
	return err
}

func (m *mortal) Load() (state.Stored, error) { return around(m, m.cache.Load) }

func (m *mortal) Save(stored state.Stored) error {
	_, err := around(m, func() (struct{}, error) { return struct{}{}, m.cache.Save(stored) })
	return err
}

// history is a random sequence of events for one agent.
type history struct {
	publications []publication
	crashes      []int // the step at which each life of the agent ends
	restarts     []time.Duration
	outages      []span
	failsPushes  []span
	refused      int64
}

const eventful = 20 * time.Minute

func drawHistory(t *rapid.T) history {
	moment := rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(eventful)).Draw(t, "at"))
	})
	spans := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) span {
		from := moment.Draw(t, "from")
		return span{from, from + time.Duration(rapid.Int64Range(0, int64(3*time.Minute)).Draw(t, "for"))}
	}), 0, 3)
	h := history{
		crashes:     rapid.SliceOfN(rapid.IntRange(1, 60), 0, 12).Draw(t, "crashes"),
		restarts:    rapid.SliceOfN(moment, 0, 4).Draw(t, "restarts"),
		outages:     spans.Draw(t, "outages"),
		failsPushes: spans.Draw(t, "failsPushes"),
		refused:     rapid.Int64Range(0, 6).Draw(t, "refused"),
	}
	versions := rapid.SliceOfN(rapid.Int64Range(1, 6), 1, 8).Draw(t, "versions")
	times := rapid.SliceOfN(moment, len(versions), len(versions)).Draw(t, "times")
	slices.Sort(times)
	slices.Sort(h.restarts)
	for i, v := range versions { // a lower version after a higher one: a restored controller, and a resume
		h.publications = append(h.publications, published(times[i], v))
	}
	return h
}

// play runs an agent through h and returns which law was broken, "" for none.
func (h history) play() (fault string) {
	s := scenario{
		controller: &fakeController{
			because: wire.OlderResume, publications: h.publications, down: h.outages, withholds: true,
		},
		worker: &fakeWorker{restarts: h.restarts, failsPushes: h.failsPushes, refuses: refuse(h.refused)},
	}
	w := s.world()
	lives := append(slices.Clone(h.crashes), 0)
	for _, die := range lives {
		ctx, kill := context.WithCancel(context.Background())
		m := &mortal{world: w, kill: kill, die: die}
		parts := w.Parts
		parts.Source, parts.Sink, parts.Cache = m, m, m
		ended := make(chan error)
		go func() { ended <- New(parts).Run(ctx) }() // ends with kill
		if die == 0 {
			time.Sleep(max(0, eventful+4*time.Minute-w.worker.now()) + 11*time.Minute)
			kill()
		}
		<-ended
		kill()
		if fault := h.broken(w); fault != "" {
			return fault
		}
		time.Sleep(100 * time.Millisecond)
	}
	return h.unhealed(w)
}

// broken checks the laws that hold at every moment, and so after a crash.
func (h history) broken(w *world) string {
	offered := map[int64]bool{}
	for _, p := range h.publications {
		offered[p.Config.Version] = true
	}
	accepted := map[string]bool{"": true}
	for _, p := range w.worker.pushes {
		if !offered[p.version] {
			return fmt.Sprintf("law 2: version %d was pushed and never published", p.version)
		}
		if p.taken {
			accepted[release(p.version, 30).ETag] = true
		}
	}
	for _, etag := range w.controller.etags() {
		if !accepted[etag] {
			return fmt.Sprintf("law 4: If-None-Match %s, which the worker never accepted", etag)
		}
	}
	if good := w.cache.content().LastGood; good != nil && !accepted[good.ETag] {
		return fmt.Sprintf("law 15: version %d is last good, and the worker never accepted it", good.Config.Version)
	}
	return ""
}

// unhealed checks the laws that hold after some time without faults.
func (h history) unhealed(w *world) string {
	current := h.publications[len(h.publications)-1].Config.Version
	running, err := w.worker.state()
	if current == h.refused {
		if err == nil && running.Version == h.refused {
			return "law 15: the worker runs what it refused"
		}
		if good := w.cache.content().LastGood; good != nil && running.Version != good.Config.Version {
			return fmt.Sprintf(
				"law 5: the worker runs version %d, last good is %d", running.Version, good.Config.Version,
			)
		}
		return ""
	}
	if err != nil || running.Version != current {
		return fmt.Sprintf("law 5: the worker runs version %d (%v), current is %d", running.Version, err, current)
	}
	if held := w.cache.content(); held.Candidate != nil || held.LastGood == nil ||
		held.LastGood.Config.Version != current {
		return fmt.Sprintf("cache holds %+v, current is %d", held, current)
	}
	// A controller that returned to the version that runs looks like one that does not
	// offer what was refused: then the failure stays the last report.
	reports := w.controller.reports()
	last := reports[len(reports)-1]
	if last != (wire.Report{Version: current, Status: wire.Applied}) && last.Version != h.refused {
		return fmt.Sprintf("the last report is %+v, current is %d", last, current)
	}
	return ""
}

// Whatever happens, and at whichever step the agent dies, the worker gets only what the
// controller published, the cache holds the old state or the new one, and in the end the
// controller, the cache and the worker agree.
func TestRun_AnyHistory_Converges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) { // 100 histories; make check-long plays more
		h := drawHistory(rt)
		var fault string
		synctest.Test(t, func(*testing.T) { fault = h.play() })
		if fault != "" {
			rt.Fatalf("%s", fault)
		}
	})
}

// The agent dies before and after each call that follows a publish.
func TestRun_CrashAtEveryStep_Converges(t *testing.T) {
	for die := 1; die <= 60; die++ {
		synctest.Test(t, func(t *testing.T) {
			h := history{
				publications: []publication{published(0, 1), published(20*time.Second, 2)}, crashes: []int{die, die},
			}
			if fault := h.play(); fault != "" {
				t.Errorf("crash at step %d: %s", die, fault)
			}
		})
	}
}
