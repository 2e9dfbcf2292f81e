// Package swarm is thousands of simulated agents: stand-ins for the loop of the
// real one, that load a controller and a broker as a fleet would, and cost the
// machine that both share as little as possible. An agent is one goroutine over
// raw connections. It speaks the HTTP contract, and the protocols of Redis and
// NATS, by hand. A Swarm is agents in this process, and Remote is agents in
// others, where one may not open as many connections.
//
// What they copy of a real agent: its requests, header by header; one
// connection to the controller, kept for 8 minutes of silence; the poll
// interval with 10 % of jitter; a long poll again right after each answer; the
// hint, the random part of its spread, and the fetch after it; the sweep beneath
// a broker; a report of each version that was applied; the wait after a cut, the
// back-off with full jitter, Retry-After as a floor; TCP keepalive or none.
//
// What they leave out: there is no worker and no cache, so that a version is
// applied the moment it was read; and they begin where a real fleet is after a
// while, at a random moment of their waits, and with the longest of them.
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

// Transport is how agents hear of a newer version, in the words of PUSH.
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

// Connections is how many an agent holds.
func (t Transport) Connections() int {
	if t.Brokered() {
		return 2
	}
	return 1
}

// Options say what the agents of a swarm do.
type Options struct {
	Transport  Transport
	Controller string     // host:port
	Broker     string     // host:port, with redis and nats
	Agents     []Identity // who they are

	PollInterval time.Duration // between two polls, until an answer names another
	CutSpread    time.Duration // who was cut off waits a random part of it; 0 for 30 s
	PerSecond    int           // how many connect in a second
	Began        time.Time     // where the seconds of Requests begin; zero for now
}

const (
	longestWait    = 300 * time.Second // of a long poll
	shortestWait   = 5 * time.Second
	cutShare       = 75                // percent of a wait that was cut are asked for from then on
	resyncEvery    = 300 * time.Second // beneath a broker, until an answer names another
	pingEvery      = 5 * time.Minute   // to a broker
	idleTimeout    = 8 * time.Minute   // of a connection to the controller, beneath a broker
	subscribeDelay = time.Second       // a random part of it passes between a subscription and the fetch after it
	cutSpread      = 30 * time.Second
	keepAlive      = 15 * time.Second // between two probes, where nobody is told of a newer version
	answerTimeout  = 10 * time.Second // that an answer may take beyond its wait
	dialTimeout    = 5 * time.Second
	retryFirst     = time.Second
	retryLimit     = 5 * time.Minute
	maxRetryAfter  = time.Hour // that Retry-After can ask for
)

// Swarm is simulated agents on their way, in this process.
type Swarm struct {
	options Options
	agents  []*agent
	began   time.Time
	stop    context.CancelFunc
	done    sync.WaitGroup

	requests [rateWindow]atomic.Int32 // by the second since began
	trouble  trouble
}

// rateWindow is how many seconds of requests are told apart.
const rateWindow = 1 << 14

// Start lets the agents begin, PerSecond of them in a second. They run until ctx
// ends or Stop is called.
func Start(ctx context.Context, options Options) *Swarm {
	if options.CutSpread == 0 {
		options.CutSpread = cutSpread
	}
	began := time.Now() // moved to options.Began, it still tells time without the wall clock
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
		s.done.Go(func() { // ends with ctx: Stop cuts what it waits for
			if a.sleep(time.Duration(i) * time.Second / time.Duration(options.PerSecond)) {
				a.run()
			}
		})
	}
	return s
}

// Stop cuts all connections and returns when the last agent has ended.
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

// Applied returns the moments at which agents applied version, or the later one
// that they run now; in the order of the agents, without those that did not.
func (s *Swarm) Applied(version int64) []time.Time {
	times := make([]time.Time, 0, len(s.agents))
	for _, a := range s.agents {
		if a.applied.Load() >= version {
			times = append(times, s.began.Add(time.Duration(a.appliedAt.Load())))
		}
	}
	return times
}

// Traffic is what all agents have sent and received until now.
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

// Requests returns how many requests were sent in each whole second from one
// moment to another. Those that found no listener are not among them.
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

// Trouble is what went wrong so far.
func (s *Swarm) Trouble() Trouble {
	s.trouble.mu.Lock()
	defer s.trouble.mu.Unlock()
	return s.trouble.Trouble
}

// Trouble is how often something went wrong, and an example.
type Trouble struct {
	Count   int    `json:"count"`
	Example string `json:"example"`
}

// String is "" for no trouble.
func (t Trouble) String() string {
	if t.Count == 0 {
		return ""
	}
	return fmt.Sprintf("%d, the first of %s", t.Count, t.Example)
}

// trouble is where agents note theirs.
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

// random is a random part of d.
func random(d time.Duration) time.Duration { return rand.N(d + 1) }
