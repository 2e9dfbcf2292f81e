// Command bench-push measures how a new version reaches a fleet, by every
// transport and by polling alone, side by side in one run on one machine: how
// long it takes, what an agent that waits costs the controller and the network,
// and what comes back when a controller does. It starts the controllers and
// brokers itself, and simulates the agents: see package swarm. They live in
// processes of their own, which are this program again, as many as it takes to
// open all their connections. The tables on standard output are Markdown;
// progress goes to standard error.
//
// No figure makes it fail. Its exit status is 1 when an agent did not get a
// version or did not come back, or when a measurement could not be made, and 2
// when the command line cannot be used.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fleetconf/fleetconf/test/internal/swarm"
)

// swarmMode is the only argument of a process that holds a swarm. It is a matter
// of this program alone: the other end of its standard input and output commands
// it, and when they are closed it ends.
const swarmMode = "swarm"

func main() {
	if slices.Equal(os.Args[1:], []string{swarmMode}) {
		if err := swarm.Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench-push swarm:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench-push:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("the command line cannot be used") // and why was said

// bench is one run.
type bench struct {
	options
	ctx            context.Context
	began          time.Time
	progress       io.Writer
	dir            string // of all files; removed at the end
	self           string // this program
	maxConnections int    // for connections, in a process
	fleet          fleet
}

// options are the command line.
type options struct {
	controller      string
	natsServer      string
	files           int
	agents          counts
	transports      names
	publishes       int
	idle            time.Duration
	idleAgents      int
	reconnectAgents int
	away            time.Duration
	parts           names
	quick           bool

	// Real agents have fixed ones; a quick run has shorter.
	interval  time.Duration // of polling
	cutSpread time.Duration
	pause     time.Duration // between two publishes
	steady    time.Duration // before the controller is killed
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{
		agents:     counts{1_000, 10_000},
		transports: names{string(swarm.LongPoll), string(swarm.Redis), string(swarm.NATS), string(swarm.None)},
		parts:      names{"publish", "idle", "reconnect"},
		interval:   30 * time.Second, cutSpread: 30 * time.Second, pause: time.Second, steady: time.Minute,
	}
	flags := flag.NewFlagSet("bench-push", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.controller, "controller", "bin/controller", "the controller's `program`")
	flags.StringVar(&o.natsServer, "nats-server", "bin/nats-server", "the NATS server's `program`, for fleets of which the controller cannot open all connections twice")
	flags.IntVar(&o.files, "files", 0, "how many files a process may open at most; 0 for as many as the system allows")
	flags.Var(&o.agents, "agents", "how many agents a publish is to reach, `numbers` with commas between")
	flags.Var(&o.transports, "transports", "`which`, with commas between")
	flags.IntVar(&o.publishes, "publishes", 5, "how many publishes each figure is the median of")
	flags.DurationVar(&o.idle, "idle", 10*time.Minute, "how long to watch agents to which nothing happens")
	flags.IntVar(&o.idleAgents, "idle-agents", 1_000, "how many of each transport")
	flags.IntVar(&o.reconnectAgents, "reconnect-agents", 10_000, "how many agents lose their controller")
	flags.DurationVar(&o.away, "away", time.Minute, "for how long")
	flags.Var(&o.parts, "parts", "`which` of publish, idle and reconnect to measure, with commas between")
	flags.BoolVar(&o.quick, "quick", false, "see in less than a minute that this program works; its figures say little")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return o, err
	} else if err != nil {
		return o, errUsage
	}
	if o.quick {
		o.agents, o.publishes, o.idleAgents, o.reconnectAgents = counts{200}, 2, 200, 200
		o.idle, o.away, o.steady = 5*time.Second, time.Second, 2*time.Second
		o.interval, o.cutSpread, o.pause = 3*time.Second, time.Second, 200*time.Millisecond
	}
	var bad string
	switch {
	case flags.NArg() > 0:
		bad = flags.Arg(0) + " is not understood"
	case o.publishes < 1 || o.idleAgents < 1 || o.reconnectAgents < 1:
		bad = "-publishes, -idle-agents and -reconnect-agents must be 1 or more"
	case o.files != 0 && o.files < minFiles:
		bad = fmt.Sprintf("-files must be %d or more, or 0", minFiles)
	case o.idle < time.Second || o.away < time.Second:
		bad = "-idle and -away must be 1s or more"
	case !o.transports.within(string(swarm.LongPoll), string(swarm.Redis), string(swarm.NATS), string(swarm.None)):
		bad = "-transports must be of longpoll, redis, nats and none"
	case !o.parts.within("publish", "idle", "reconnect"):
		bad = "-parts must be of publish, idle and reconnect"
	}
	if bad != "" {
		fmt.Fprintln(stderr, "bench-push:", bad)
		return o, errUsage
	}
	return o, nil
}

// run registers a fleet once, and has copies of it on every stage:
//
//	   bench ──publish──▶ controller
//	     │                 ▲      │
//	swarm.Remote         poll     ▼
//	     ├──▶ swarm.Serve ─┤    broker  (redis-server; NATS within the controller, or nats-server)
//	     └──▶ swarm.Serve ─┘      │
//	               ▲─────hint─────┘
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	b := &bench{options: o, ctx: ctx, began: time.Now(), progress: stderr}
	if err := b.checkLimits(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "fleetconf-bench-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()

	if err := b.registerFleet(); err != nil {
		return err
	}
	b.printHeader(stdout)
	lost := 0
	for _, part := range []struct {
		name    string
		measure func(io.Writer) (lost int, err error)
	}{{"publish", b.measurePublish}, {"idle", b.measureIdle}, {"reconnect", b.measureReconnect}} {
		if !slices.Contains(b.parts, part.name) {
			continue
		}
		n, err := part.measure(stdout)
		if ctx.Err() != nil { // whatever failed for that
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		lost += n
	}
	b.logf("Done")
	if lost > 0 {
		return fmt.Errorf("%d agents did not get a version in time, or did not come back; the tables say where", lost)
	}
	return nil
}

// logf tells of the progress.
func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(b.progress, "[%6.1f s] %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// sleep returns after d, or with the error of the context.
func (b *bench) sleep(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
}

const (
	// connectionShare is the percentage of the files that a process may open which are
	// connections of agents, at most. The others are its own, and for agents that
	// come back before it has noticed that they left.
	connectionShare = 80
	// minFiles leave a controller enough of its own.
	minFiles = 300
)

// checkLimits raises the limit of open files as far as it may, for this program and
// those that it starts, and tells whether it is enough and all programs are there.
func (b *bench) checkLimits() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if raised := (syscall.Rlimit{Cur: 1 << 17, Max: 1 << 17}); limit.Max < raised.Max && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
		limit = raised
	}
	if b.files > 0 { // programs of Go raise theirs to what is allowed by themselves
		limit.Max = min(limit.Max, uint64(b.files))
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("set the limit of open files: %w", err)
	}
	b.files = int(min(limit.Cur, 1<<20))
	b.maxConnections = b.files * connectionShare / 100
	most := slices.Max(b.fleetSizes())
	if most > b.maxConnections {
		return fmt.Errorf("%d agents are more than a controller has room for, which may open %d files: raise the limit (ulimit -Hn), or measure with fewer; --help says how", most, b.files)
	}
	if _, err := exec.LookPath(b.controller); err != nil {
		return fmt.Errorf("%w; build it with: make controller", err)
	}
	if _, err := exec.LookPath("redis-server"); err != nil && slices.Contains(b.transports, string(swarm.Redis)) {
		return errors.New("redis-server is not installed: run scripts/install-deps.sh, or leave redis out of -transports")
	}
	if slices.Contains(b.transports, string(swarm.NATS)) && !b.embedsNATS(most) {
		if _, err := exec.LookPath(b.natsServer); err != nil {
			return fmt.Errorf("%w; build it with: make nats-server, or leave nats out of -transports", err)
		}
	}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	for _, program := range []*string{&b.controller, &b.natsServer} { // they are started elsewhere
		if *program, err = filepath.Abs(*program); err != nil {
			return err
		}
	}
	return nil
}

// embedsNATS reports whether NATS is within the controller, where both connections
// of each of n agents end.
func (b *bench) embedsNATS(n int) bool { return swarm.NATS.Connections()*n <= b.maxConnections }

// fleetSizes are the fleets that are needed, from the smallest to the largest.
func (b *bench) fleetSizes() []int {
	var sizes []int
	for part, needs := range map[string][]int{"publish": b.agents, "idle": {b.idleAgents}, "reconnect": {b.reconnectAgents}} {
		if slices.Contains(b.parts, part) {
			sizes = append(sizes, needs...)
		}
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

// printHeader says what was measured, and on what.
func (b *bench) printHeader(w io.Writer) {
	build := "unknown build"
	if out, err := exec.CommandContext(b.ctx, b.controller, "--version").Output(); err == nil {
		build, _, _ = strings.Cut(strings.TrimSpace(string(out)), " (")
	}
	fmt.Fprintf(w, "%d cores%s, %s/%s, %s, %s, %s. All processes and all agents on this one machine, over loopback.\n", runtime.NumCPU(), processor(),
		runtime.GOOS, runtime.GOARCH, runtime.Version(), time.Now().UTC().Format(time.DateOnly), build)
	if b.quick {
		fmt.Fprintln(w, "\nA quick run: it shows that the program works, and its figures say little.")
	}
}

// processor is what the machine calls its own, if it does.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return " of " + strings.TrimSpace(value)
		}
	}
	return ""
}

// counts is a flag: numbers with commas between.
type counts []int

func (c *counts) String() string {
	texts := make([]string, 0, len(*c))
	for _, n := range *c {
		texts = append(texts, strconv.Itoa(n))
	}
	return strings.Join(texts, ",")
}

func (c *counts) Set(value string) error {
	*c = nil
	for text := range strings.SplitSeq(value, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is no number of agents", text)
		}
		*c = append(*c, n)
	}
	return nil
}

// names is a flag: words with commas between.
type names []string

func (n *names) String() string { return strings.Join(*n, ",") }

func (n *names) Set(value string) error {
	*n = strings.Split(value, ",")
	return nil
}

func (n names) within(known ...string) bool {
	return !slices.ContainsFunc(n, func(name string) bool { return !slices.Contains(known, name) })
}
