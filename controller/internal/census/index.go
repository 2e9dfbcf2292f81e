package census

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// index groups the agents by everything that counts depend on. A count visits the
// groups, which are few, instead of the agents. A publish moves no agent, because the
// key of a group does not depend on the plan.
type index struct {
	inactiveAfter time.Duration

	mu     sync.Mutex // guards the rest, and each agent's group, previous and next
	groups map[groupKey]*group
	errors map[int64]map[string]int // the numbers of agents by refused version and error message in their groupKey
	due    map[int64][]*Member      // by Member.due
	aged   int64                    // due has no key below this second
}

// groupKey has the properties that the agents of a group share.
type groupKey struct {
	models.Health
	transport wire.Transport
	mismatch  bool
}

// group is a linked list of the agents with one groupKey, in the order in which they
// joined it.
type group struct {
	groupKey
	count       int
	first, last *Member
}

func newIndex(inactiveAfter time.Duration, now time.Time) index {
	return index{
		inactiveAfter: inactiveAfter, groups: map[groupKey]*group{},
		errors: map[int64]map[string]int{}, due: map[int64][]*Member{}, aged: now.Unix(),
	}
}

// place moves an agent to its group, and schedules its next change of age. It does not
// lock the index if neither changes. The caller holds the agent's lock.
func (x *index) place(m *Member, agent *models.Agent, now time.Time) {
	age := models.AgeOf(now.Sub(agent.Seen()), agent.PollInterval, x.inactiveAfter)
	key := groupKey{Health: agent.Health(age), transport: agent.Transport, mismatch: agent.Mismatch}
	due := dueAt(agent.Seen(), age, agent.PollInterval, x.inactiveAfter)
	g := m.group.Load()
	if g != nil && g.Refused.Version == key.Refused.Version && g.Refused.Error == otherErrors {
		key.Refused.Error = otherErrors
	}
	if g != nil && g.groupKey == key && m.due.Load() <= due {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	key.Refused.Error = x.errorIn(key.Refused)
	x.move(m, key)
	x.schedule(m, due)
}

const (
	// maxErrors is the most error messages of a version that have groups of their own. It
	// keeps groups few when each agent's message is different.
	maxErrors = 100
	// otherErrors stands for all further ones.
	otherErrors = "other errors"
)

// errorIn returns the error message of a refusal in a groupKey. The caller holds mu.
func (x *index) errorIn(r models.Refusal) string {
	known := x.errors[r.Version]
	if _, ok := known[r.Error]; ok || r.Version == 0 || len(known) < maxErrors {
		return r.Error
	}
	return otherErrors
}

// countError counts an agent in, or out, of those with a refusal. The caller holds mu.
func (x *index) countError(r models.Refusal, n int) {
	if r.Version == 0 {
		return
	}
	known := x.errors[r.Version]
	if known == nil {
		known = map[string]int{}
		x.errors[r.Version] = known
	}
	if known[r.Error] += n; known[r.Error] == 0 {
		delete(known, r.Error)
	}
	if len(known) == 0 {
		delete(x.errors, r.Version)
	}
}

// remove removes an agent.
func (x *index) remove(m *Member) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.leave(m)
	m.due.Store(never)
}

// move moves an agent to the group of a key. The caller holds mu.
func (x *index) move(m *Member, key groupKey) {
	if g := m.group.Load(); g != nil && g.groupKey == key {
		return
	}
	x.leave(m)
	g := x.groups[key]
	if g == nil {
		g = &group{groupKey: key}
		x.groups[key] = g
	}
	m.previous = g.last
	m.group.Store(g)
	if g.last == nil {
		g.first = m
	} else {
		g.last.next = m
	}
	g.last = m
	g.count++
	x.countError(key.Refused, 1)
}

// leave removes an agent from its group, if it has one. The caller holds mu.
func (x *index) leave(m *Member) {
	g := m.group.Load()
	if g == nil {
		return
	}
	if m.previous == nil {
		g.first = m.next
	} else {
		m.previous.next = m.next
	}
	if m.next == nil {
		g.last = m.previous
	} else {
		m.next.previous = m.previous
	}
	m.previous, m.next = nil, nil
	m.group.Store(nil)
	x.countError(g.Refused, -1)
	if g.count--; g.count == 0 {
		delete(x.groups, g.groupKey)
	}
}

// never is Member.due of an agent whose age does not change anymore.
const never = math.MaxInt64

// dueAt returns when an agent that does not poll leaves an age, in seconds since 1970.
func dueAt(seen time.Time, age models.Age, interval, inactiveAfter time.Duration) int64 {
	unseen, leaves := models.NextAge(age, interval, inactiveAfter)
	if !leaves {
		return never
	}
	return seen.Add(unseen).Unix()
}

// schedule makes advance update an agent's age in the second due, unless an earlier
// update is scheduled, which schedules the next. The caller holds mu.
func (x *index) schedule(m *Member, due int64) {
	due = max(due, x.aged)
	if due >= m.due.Load() {
		return
	}
	m.due.Store(due)
	x.due[due] = append(x.due[due], m)
}

// advance updates the ages that have changed by now. The caller holds mu.
func (x *index) advance(now time.Time) {
	second := now.Unix()
	if second < x.aged-maxStep {
		x.restart(second, now)
	}
	if second-x.aged <= int64(len(x.due)) {
		for ; x.aged < second; x.aged++ {
			x.ageAll(x.aged, now)
		}
	} else { // long since the last call: visit the keys instead of each second
		x.aged = second
		for at := range x.due {
			if at < second {
				x.ageAll(at, now)
			}
		}
	}
	x.ageAll(second, now)
}

// maxStep is by how many seconds the clock may go backward without more work than that
// ages change so much later.
const maxStep = 2

// restart schedules every agent again, after the clock was set back. The caller holds mu.
func (x *index) restart(second int64, now time.Time) {
	var all []*Member
	for _, g := range x.groups {
		all = append(all, g.some(g.count)...)
	}
	x.aged = second
	clear(x.due)
	for _, m := range all {
		m.due.Store(never)
		x.schedule(m, x.ageOne(m, now))
	}
}

// ageAll updates the agents that are due in a second. The caller holds mu.
func (x *index) ageAll(at int64, now time.Time) {
	agents := x.due[at]
	delete(x.due, at)
	for _, m := range agents {
		if m.due.Load() != at {
			continue // rescheduled, or removed
		}
		m.due.Store(never)
		x.schedule(m, x.ageOne(m, now))
	}
}

// ageOne moves an agent to the group of its age, and returns the second in which it is
// due again. The caller holds mu.
func (x *index) ageOne(m *Member, now time.Time) (due int64) {
	key := m.group.Load().groupKey
	for {
		micros, interval := m.seen.Load(), time.Duration(m.interval.Load())
		seen := time.UnixMicro(micros)
		key.Age = models.AgeOf(now.Sub(seen), interval, x.inactiveAfter)
		x.move(m, key)
		if m.seen.Load() == micros { // else it polled meanwhile, and place may have read the old group
			return dueAt(seen, key.Age, interval, x.inactiveAfter)
		}
	}
}

// age updates the ages that have changed by now.
func (x *index) age(now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.advance(now)
}

// each calls visit for each group, with the ages of now. It holds mu meanwhile.
func (x *index) each(now time.Time, visit func(*group)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.advance(now)
	for _, g := range x.groups {
		visit(g)
	}
}

// some returns up to n agents of a group. The caller holds the index's mu.
func (g *group) some(n int) (agents []*Member) {
	for m := g.first; m != nil && len(agents) < n; m = m.next {
		agents = append(agents, m)
	}
	return agents
}

// earliest sorts agents by registration, and returns the first n.
func earliest(agents []*Member, n int) []*Member {
	slices.SortFunc(agents, func(a, b *Member) int { return cmp.Compare(a.Seq, b.Seq) })
	return agents[:min(n, len(agents))]
}
