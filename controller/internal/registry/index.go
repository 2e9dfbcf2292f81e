package registry

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
	due    map[int64][]*Agent // by Agent.due
	aged   int64              // due has no key below this second
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
	first, last *Agent
}

func newIndex(inactiveAfter time.Duration, now time.Time) index {
	return index{
		inactiveAfter: inactiveAfter, groups: map[groupKey]*group{}, due: map[int64][]*Agent{}, aged: now.Unix(),
	}
}

// place moves an agent to its group, and schedules its next change of age. It does not
// lock the index if neither changes. The caller holds the agent's lock.
func (x *index) place(live *Agent, now time.Time) {
	if live.deregistered {
		return
	}
	agent := &live.agent
	age := models.AgeOf(now.Sub(agent.Seen()), agent.PollInterval, x.inactiveAfter)
	key := groupKey{Health: agent.Health(age), transport: agent.Transport, mismatch: agent.Mismatch}
	due := dueAt(agent.Seen(), age, agent.PollInterval, x.inactiveAfter)
	if g := live.group.Load(); g != nil && g.groupKey == key && live.due.Load() <= due {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.move(live, key)
	x.schedule(live, due)
}

// remove removes an agent.
func (x *index) remove(live *Agent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.leave(live)
	live.due.Store(never)
}

// move moves an agent to the group of a key. The caller holds mu.
func (x *index) move(live *Agent, key groupKey) {
	if g := live.group.Load(); g != nil && g.groupKey == key {
		return
	}
	x.leave(live)
	g := x.groups[key]
	if g == nil {
		g = &group{groupKey: key}
		x.groups[key] = g
	}
	live.previous = g.last
	live.group.Store(g)
	if g.last == nil {
		g.first = live
	} else {
		g.last.next = live
	}
	g.last = live
	g.count++
}

// leave removes an agent from its group, if it has one. The caller holds mu.
func (x *index) leave(live *Agent) {
	g := live.group.Load()
	if g == nil {
		return
	}
	if live.previous == nil {
		g.first = live.next
	} else {
		live.previous.next = live.next
	}
	if live.next == nil {
		g.last = live.previous
	} else {
		live.next.previous = live.previous
	}
	live.previous, live.next = nil, nil
	live.group.Store(nil)
	if g.count--; g.count == 0 {
		delete(x.groups, g.groupKey)
	}
}

// never is Agent.due of an agent whose age does not change anymore.
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
func (x *index) schedule(live *Agent, due int64) {
	due = max(due, x.aged)
	if due >= live.due.Load() {
		return
	}
	live.due.Store(due)
	x.due[due] = append(x.due[due], live)
}

// advance updates the ages that have changed by now. The caller holds mu.
func (x *index) advance(now time.Time) {
	second := now.Unix()
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

// ageAll updates the agents that are due in a second. The caller holds mu.
func (x *index) ageAll(at int64, now time.Time) {
	agents := x.due[at]
	delete(x.due, at)
	for _, live := range agents {
		if live.due.Load() != at {
			continue // rescheduled, or removed
		}
		live.due.Store(never)
		x.schedule(live, x.ageOne(live, now))
	}
}

// ageOne moves an agent to the group of its age, and returns the second in which it is
// due again. The caller holds mu.
func (x *index) ageOne(live *Agent, now time.Time) (due int64) {
	key := live.group.Load().groupKey
	for {
		micros, interval := live.seen.Load(), time.Duration(live.interval.Load())
		seen := time.UnixMicro(micros)
		key.Age = models.AgeOf(now.Sub(seen), interval, x.inactiveAfter)
		x.move(live, key)
		if live.seen.Load() == micros { // else it polled meanwhile, and place may have read the old group
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
func (g *group) some(n int) (agents []*Agent) {
	for live := g.first; live != nil && len(agents) < n; live = live.next {
		agents = append(agents, live)
	}
	return agents
}

// earliest sorts agents by registration, and returns the first n.
func earliest(agents []*Agent, n int) []*Agent {
	slices.SortFunc(agents, func(a, b *Agent) int { return cmp.Compare(a.seq, b.seq) })
	return agents[:min(n, len(agents))]
}
