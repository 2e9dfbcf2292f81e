package registry

import (
	"iter"
	"sort"
	"sync"
	"sync/atomic"
)

// table finds agents by id, and iterates over all of them without blocking polls. An
// iteration over a million takes a few milliseconds.
type table struct {
	mu           sync.RWMutex // guards the rest, but not the fields of a row
	byID         map[string]*Agent
	rows         rows
	deregistered int // the number of rows of removed agents
}

// rows has a row for each agent in the order of registration, including removed ones. A
// copy is a snapshot, because rows are only appended.
type rows struct {
	chunks [][]row // of chunkRows each, so that no row ever moves
	n      int     // the number of rows in use
}

const chunkRows = 1024

// row has the fields that iterations read. Rows are adjacent in memory, and are read
// without a lock, so a concurrent change may be visible in some fields only.
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

// count returns the number of agents.
func (t *table) count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// after returns the rows of the current agents with a higher seq, in the order of
// registration.
func (t *table) after(seq int64) iter.Seq[*row] {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.rows.after(seq)
}

// add appends a new agent.
func (t *table) add(live *Agent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[live.id] = live
	live.mu.Lock()
	defer live.mu.Unlock()
	t.rows.add(live)
}

// remove removes an agent.
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

// compact copies the rows of the current agents to new chunks. Iterations over the old
// chunks continue undisturbed. The caller holds mu.
func (t *table) compact() {
	var kept rows
	for row := range t.rows.after(0) {
		row.live.mu.Lock()
		kept.add(row.live)
		row.live.mu.Unlock()
	}
	t.rows, t.deregistered = kept, 0
}

// add appends the row of an agent. The caller holds the agent's lock.
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

// after returns the rows with a higher seq, except those of removed agents.
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

// show updates what iterations and the index read of the agent. The caller holds the
// agent's lock.
func (a *Agent) show() {
	set(&a.seen, a.agent.Seen().UnixMicro())
	set(&a.interval, int64(a.agent.PollInterval))
	if shown := a.row.hostname.Load(); shown == nil || *shown != a.agent.Hostname {
		hostname := a.agent.Hostname
		a.row.hostname.Store(&hostname)
		a.row.head.store(hostname)
	}
}

// set stores v unless a has it: a load is cheaper, and most polls change nothing.
func set(a *atomic.Int64, v int64) {
	if a.Load() != v {
		a.Store(v)
	}
}
