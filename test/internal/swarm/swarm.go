// Package swarm simulates thousands of agents. They load a controller and a broker as
// a fleet would, and cost the machine that both share as little as possible. An agent
// is one goroutine over raw connections, with its own code for the HTTP contract and
// the protocols of Redis and NATS. A Swarm runs agents in this process; a Remote runs
// them in other processes, if one may not open enough connections.
//
// They copy these properties of a real agent: its requests, header by header; one
// connection to the controller, kept for 8 minutes of silence; the poll interval with
// 10 % of jitter; a long poll immediately after each response; the hint, a random part
// of its spread, and the fetch after it; the resync while connected to a broker; a
// report of each applied version; the wait after a cut, the back-off with full jitter,
// Retry-After as a minimum; TCP keepalive or none.
//
// They omit the worker and the cache, so that a version is applied when it is read.
// And they begin in the steady state of a fleet: at a random point of their waits, with
// the longest waits.
package swarm

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Transport is how agents receive hints, as in PUSH.
type Transport string

// The transports.
const (
	None     Transport = "none"
	LongPoll Transport = "longpoll"
	Redis    Transport = "redis"
	NATS     Transport = "nats"
)

// Brokered reports whether hints come over a connection of their own.
func (t Transport) Brokered() bool { return t == Redis || t == NATS }

// Connections returns the number of connections of an agent.
func (t Transport) Connections() int {
	if t.Brokered() {
		return 2
	}
	return 1
}

// Options are the options of a swarm.
type Options struct {
	Transport  Transport
	Controller string // host:port
	Broker     string // host:port, with redis and nats
	Agents     []Identity

	PollInterval time.Duration // until a response has another
	CutSpread    time.Duration // a cut agent waits a random part of it; 0 for 30 s
	PerSecond    int           // how many agents connect in a second
	Began        time.Time     // the first second of Requests; zero for now
}

const (
	longestWait    = 300 * time.Second // of a long poll
	shortestWait   = 5 * time.Second
	cutShare       = 75                // percent of a cut wait that later requests ask for
	resyncEvery    = 300 * time.Second // with a broker, until a response has another
	pingEvery      = 5 * time.Minute   // to a broker
	idleTimeout    = 8 * time.Minute   // of a connection to the controller, with a broker
	subscribeDelay = time.Second       // a random part of it passes between subscription and fetch
	cutSpread      = 30 * time.Second
	keepAlive      = 15 * time.Second // between two probes, without hints
	answerTimeout  = 10 * time.Second // of a response, in addition to its wait
	dialTimeout    = 5 * time.Second
	retryFirst     = time.Second
	retryLimit     = 5 * time.Minute
	maxRetryAfter  = time.Hour // the maximum of Retry-After
)

// Swarm is running simulated agents in this process.
type Swarm struct {
	options Options
	agents  []*agent
	began   time.Time
	stop    context.CancelFunc
	done    sync.WaitGroup

	requests [rateWindow]atomic.Int32 // per second since began
	trouble  trouble
}

// rateWindow is the number of seconds for which requests are counted.
const rateWindow = 1 << 14

// Start starts the agents, PerSecond of them in a second. They run until ctx ends or
// Stop is called.
func Start(ctx context.Context, options Options) *Swarm {
	if options.CutSpread == 0 {
		options.CutSpread = cutSpread
	}
	began := time.Now() // keeps its monotonic clock when moved to options.Began
	if !options.Began.IsZero() {
		began = began.Add(options.Began.Sub(began))
	}
	ctx, stop := context.WithCancel(ctx)
	s := &Swarm{options: options, began: began, stop: stop, agents: make([]*agent, len(options.Agents))}
	for i, identity := range options.Agents {
		a := &agent{
			swarm: s, ctx: ctx, interval: options.PollInterval, resync: resyncEvery,
			id:   identity.ID,
			auth: "Basic " + base64.StdEncoding.EncodeToString([]byte(identity.ID+":"+identity.Token)),
		}
		s.agents[i] = a
		s.done.Go(func() { // ends with ctx: Stop closes its connections
			if a.sleep(time.Duration(i) * time.Second / time.Duration(options.PerSecond)) {
				a.run()
			}
		})
	}
	return s
}

// Stop closes all connections and returns when the last agent has ended.
func (s *Swarm) Stop() {
	s.stop()
	for _, a := range s.agents {
		a.meter.end()
	}
	s.done.Wait()
}

// Ready counts the agents that have applied version or a later one, have
// reported it, and wait for the next.
func (s *Swarm) Ready(version int64) int {
	n := 0
	for _, a := range s.agents {
		if a.waiting.Load() && a.applied.Load() >= version {
			n++
		}
	}
	return n
}

// Applied returns the times at which agents applied version, or the later one that
// they run now, in the order of the agents. Other agents are omitted.
func (s *Swarm) Applied(version int64) []time.Time {
	times := make([]time.Time, 0, len(s.agents))
	for _, a := range s.agents {
		if a.applied.Load() >= version {
			times = append(times, s.began.Add(time.Duration(a.appliedAt.Load())))
		}
	}
	return times
}

// Traffic returns what all agents have sent and received so far.
func (s *Swarm) Traffic() (t Traffic, err error) {
	for _, a := range s.agents {
		got, err := a.meter.read()
		if err != nil {
			return t, err
		}
		t = t.Plus(got)
	}
	return t, nil
}

// Requests returns the number of requests in each whole second between two times.
// Requests that found no listener do not count.
func (s *Swarm) Requests(from, to time.Time) []int {
	first, last := s.second(from), s.second(to)
	counts := make([]int, 0, last-first)
	for i := first; i < last; i++ {
		counts = append(counts, int(s.requests[i].Load()))
	}
	return counts
}

func (s *Swarm) second(t time.Time) int {
	return int(min(max(t.Sub(s.began)/time.Second, 0), rateWindow-1))
}

// Trouble returns the failures so far.
func (s *Swarm) Trouble() Trouble {
	s.trouble.mu.Lock()
	defer s.trouble.mu.Unlock()
	return s.trouble.Trouble
}

// Trouble is the number of failures, and an example.
type Trouble struct {
	Count   int    `json:"count"`
	Example string `json:"example"`
}

// String returns "" if there were no failures.
func (t Trouble) String() string {
	if t.Count == 0 {
		return ""
	}
	return fmt.Sprintf("%d, the first of %s", t.Count, t.Example)
}

// trouble collects the failures of the agents.
type trouble struct {
	mu sync.Mutex // guards what follows
	Trouble
}

func (t *trouble) note(id string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Count++; t.Example == "" {
		t.Example = id + ": " + err.Error()
	}
}

// random returns a random part of d.
func random(d time.Duration) time.Duration { return rand.N(d + 1) }
