package census

import (
	"iter"
	"sort"
	"sync"
	"sync/atomic"
)

// table iterates over all agents without blocking polls. An iteration over a million takes
// a few milliseconds.
type table struct {
	mu      sync.RWMutex // guards the rest, but not the fields of a row
	rows    rows
	removed int // the number of rows of removed agents
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
	seq      int64
	member   *Member
	removed  atomic.Bool
	hostname atomic.Pointer[string]
	head     hostnameHead
}

// after returns the rows of the current agents with a higher seq, in the order of
// registration.
func (t *table) after(seq int64) iter.Seq[*row] {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.rows.after(seq)
}

// add appends a new agent.
func (t *table) add(m *Member, hostname string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m.agent.Lock()
	defer m.agent.Unlock()
	t.rows.add(m, hostname)
}

// remove removes an agent.
func (t *table) remove(m *Member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m.agent.Lock()
	m.removed = true
	m.row.removed.Store(true)
	m.agent.Unlock()
	if t.removed++; t.removed > chunkRows && t.removed > t.rows.n/2 {
		t.compact()
	}
}

// compact copies the rows of the current agents to new chunks. Iterations over the old
// chunks continue undisturbed. The caller holds mu.
func (t *table) compact() {
	var kept rows
	for row := range t.rows.after(0) {
		m := row.member
		m.agent.Lock()
		kept.add(m, *m.row.hostname.Load())
		m.agent.Unlock()
	}
	t.rows, t.removed = kept, 0
}

// add appends the row of an agent. The caller holds the agent's lock.
func (r *rows) add(m *Member, hostname string) {
	if r.n == len(r.chunks)*chunkRows {
		r.chunks = append(r.chunks[:len(r.chunks):len(r.chunks)], make([]row, chunkRows))
	}
	row := r.at(r.n)
	row.seq, row.member = m.Seq, m
	row.show(hostname)
	m.row = row
	r.n++
}

func (r rows) at(i int) *row { return &r.chunks[i/chunkRows][i%chunkRows] }

// after returns the rows with a higher seq, except those of removed agents.
func (r rows) after(seq int64) iter.Seq[*row] {
	first := sort.Search(r.n, func(i int) bool { return r.at(i).seq > seq })
	return func(yield func(*row) bool) {
		for i := first; i < r.n; i++ {
			if row := r.at(i); !row.removed.Load() && !yield(row) {
				return
			}
		}
	}
}

// show updates the hostname of a row.
func (r *row) show(hostname string) {
	if shown := r.hostname.Load(); shown == nil || *shown != hostname {
		stored := hostname // escapes, as hostname must not: most calls change nothing
		r.hostname.Store(&stored)
		r.head.store(hostname)
	}
}

// set stores v unless a has it: a load is cheaper, and most polls change nothing.
func set(a *atomic.Int64, v int64) {
	if a.Load() != v {
		a.Store(v)
	}
}
