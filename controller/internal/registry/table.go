package registry

import (
	"iter"
	"sort"
	"sync"
	"sync/atomic"
)

// table finds an agent by its id, and reads all of them from end to end, a
// million in a few milliseconds, without holding up those that poll meanwhile.
type table struct {
	mu           sync.RWMutex // guards the rest, but not what a row holds
	byID         map[string]*Agent
	rows         rows
	deregistered int // rows of agents that were removed
}

// rows are the agents in the order of registration, those that were removed
// since too. A copy is what they were at that moment: rows are only ever added.
type rows struct {
	chunks [][]row // chunkRows each, so that no row ever moves
	n      int     // how many are in use
}

const chunkRows = 1024

// row is what is looked at when all agents are: side by side in memory, and
// read without a lock. Its values may be of two neighbouring moments.
type row struct {
	seq          int64
	live         *Agent
	deregistered atomic.Bool
	hostname     atomic.Pointer[string]
	head         hostnameHead
}

func newTable(size int) table { return table{byID: make(map[string]*Agent, size)} }

func (t *table) find(id []byte) *Agent {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[string(id)]
}

// count is how many agents there are.
func (t *table) count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// after returns the row of each agent that is there now and registered after the one
// of a seq, in the order of registration.
func (t *table) after(seq int64) iter.Seq[*row] {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.rows.after(seq)
}

// add puts a new agent at the end.
func (t *table) add(live *Agent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[live.id] = live
	live.mu.Lock()
	defer live.mu.Unlock()
	t.rows.add(live)
}

// remove takes an agent off.
func (t *table) remove(live *Agent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, live.id)
	live.mu.Lock()
	live.deregistered = true
	live.row.deregistered.Store(true)
	live.mu.Unlock()
	if t.deregistered++; t.deregistered > chunkRows && t.deregistered > t.rows.n/2 {
		t.compact()
	}
}

// compact leaves out the rows of agents that were removed, in chunks of their
// own: who reads the old ones is not disturbed. The caller holds mu.
func (t *table) compact() {
	var kept rows
	for row := range t.rows.after(0) {
		row.live.mu.Lock()
		kept.add(row.live)
		row.live.mu.Unlock()
	}
	t.rows, t.deregistered = kept, 0
}

// add appends the row of an agent, whose lock the caller holds.
func (r *rows) add(live *Agent) {
	if r.n == len(r.chunks)*chunkRows {
		r.chunks = append(r.chunks[:len(r.chunks):len(r.chunks)], make([]row, chunkRows))
	}
	row := r.at(r.n)
	row.seq, row.live = live.seq, live
	live.row = row
	live.show()
	r.n++
}

func (r rows) at(i int) *row { return &r.chunks[i/chunkRows][i%chunkRows] }

// after returns each row behind that of a seq, but those that are gone.
func (r rows) after(seq int64) iter.Seq[*row] {
	first := sort.Search(r.n, func(i int) bool { return r.at(i).seq > seq })
	return func(yield func(*row) bool) {
		for i := first; i < r.n; i++ {
			if row := r.at(i); !row.deregistered.Load() && !yield(row) {
				return
			}
		}
	}
}

// show brings the agent's row up to date. The caller holds the agent's lock.
func (a *Agent) show() {
	set(&a.seen, a.agent.Seen().UnixMicro())
	set(&a.interval, int64(a.agent.PollInterval))
	if shown := a.row.hostname.Load(); shown == nil || *shown != a.agent.Hostname {
		hostname := a.agent.Hostname
		a.row.hostname.Store(&hostname)
		a.row.head.store(hostname)
	}
}

// set stores v where it is not there already: to look is cheaper, and most of
// what a poll brings is known.
func set(a *atomic.Int64, v int64) {
	if a.Load() != v {
		a.Store(v)
	}
}
