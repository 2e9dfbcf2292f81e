// Command bench-push measures how a new version reaches a fleet, by every
// transport and by polling alone, in one run on one machine: how long it takes,
// what a waiting agent costs the controller and the network, and how agents
// reconnect to a restarted controller. It starts the controllers and brokers
// itself, and simulates the agents: see package swarm. The agents run in
// processes of their own, which execute this program again, as many as it takes
// to open all their connections. The tables on standard output are Markdown;
// progress goes to standard error.
//
// No figure makes it fail. The exit status is 1 if an agent did not get a version
// or did not reconnect, or if a measurement failed, and 2 for an invalid command
// line.
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

// swarmMode is the only argument of a process that runs a part of the swarm. The
// parent process controls it over standard input and output; it ends when they are
// closed.
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

var errUsage = errors.New("the command line is invalid") // after the reason was printed

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

	// Real agents have fixed values; a quick run has shorter ones.
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
	flags.StringVar(&o.natsServer, "nats-server", "bin/nats-server",
		"the NATS server's `program`, for fleets with too many connections for the controller")
	flags.IntVar(&o.files, "files", 0, "the limit of open files of each process; 0 for the system's limit")
	flags.Var(&o.agents, "agents", "the sizes of the fleet to publish to, comma-separated `numbers`")
	flags.Var(&o.transports, "transports", "`which` transports, comma-separated")
	flags.IntVar(&o.publishes, "publishes", 5, "the number of publishes that each median is taken of")
	flags.DurationVar(&o.idle, "idle", 10*time.Minute, "how long to measure idle agents")
	flags.IntVar(&o.idleAgents, "idle-agents", 1_000, "the number of idle agents of each transport")
	flags.IntVar(&o.reconnectAgents, "reconnect-agents", 10_000, "the number of agents whose controller is killed")
	flags.DurationVar(&o.away, "away", time.Minute, "how long the controller is down")
	flags.Var(&o.parts, "parts", "`which` of publish, idle and reconnect to measure, comma-separated")
	flags.BoolVar(&o.quick, "quick", false,
		"run in less than a minute, to test this program; the figures are not meaningful")
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
		bad = "unexpected argument " + flags.Arg(0)
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

// run registers a fleet once, and uses copies of its database on every stage:
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
		if ctx.Err() != nil { // the cause of any failure
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		lost += n
	}
	b.logf("Done")
	if lost > 0 {
		return fmt.Errorf("%d agents did not get a version in time, or did not reconnect; see the tables", lost)
	}
	return nil
}

// logf prints progress.
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
	// connectionShare is the percentage of a process's open files that may be
	// connections of agents. The others are its own files, and connections of agents
	// that reconnect before the old connection is closed.
	connectionShare = 80
	// minFiles is the lowest limit with which a controller works.
	minFiles = 300
)

// checkLimits raises the limit of open files as far as allowed, for this program and
// its children. It returns an error if the limit is too low or a program is missing.
func (b *bench) checkLimits() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if raised := (syscall.Rlimit{Cur: 1 << 17, Max: 1 << 17}); limit.Max < raised.Max &&
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
		limit = raised
	}
	if b.files > 0 { // Go programs raise their soft limit to the hard one
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
		return fmt.Errorf(
			"%d agents need more files than the %d that a controller may open: raise the limit (ulimit -Hn), "+
				"or measure fewer agents (see --help)", most, b.files)
	}
	if _, err := exec.LookPath(b.controller); err != nil {
		return fmt.Errorf("%w; build it with: make controller", err)
	}
	if _, err := exec.LookPath("redis-server"); err != nil && slices.Contains(b.transports, string(swarm.Redis)) {
		return errors.New(
			"redis-server is not installed: run scripts/install-deps.sh, or leave redis out of -transports")
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
	for _, program := range []*string{&b.controller, &b.natsServer} { // they run in another directory
		if *program, err = filepath.Abs(*program); err != nil {
			return err
		}
	}
	return nil
}

// embedsNATS reports whether the controller can run NATS for n agents: then it holds
// both connections of each.
func (b *bench) embedsNATS(n int) bool { return swarm.NATS.Connections()*n <= b.maxConnections }

// fleetSizes returns the sizes of the fleets to measure, ascending.
func (b *bench) fleetSizes() []int {
	var sizes []int
	for part, needs := range map[string][]int{"publish": b.agents, "idle": {b.idleAgents},
		"reconnect": {b.reconnectAgents}} {
		if slices.Contains(b.parts, part) {
			sizes = append(sizes, needs...)
		}
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

// printHeader prints the machine and the build.
func (b *bench) printHeader(w io.Writer) {
	build := "unknown build"
	if out, err := exec.CommandContext(b.ctx, b.controller, "--version").Output(); err == nil {
		build, _, _ = strings.Cut(strings.TrimSpace(string(out)), " (")
	}
	fmt.Fprintf(w,
		"%d cores%s, %s/%s, %s, %s, %s. All processes and all agents on this one machine, over loopback.\n",
		runtime.NumCPU(), processor(),
		runtime.GOOS, runtime.GOARCH, runtime.Version(), time.Now().UTC().Format(time.DateOnly), build)
	if b.quick {
		fmt.Fprintln(w, "\nA quick run: the figures are not meaningful.")
	}
}

// processor returns the model of the CPU, if known.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return " of " + strings.TrimSpace(value)
		}
	}
	return ""
}

// counts is a flag: comma-separated numbers.
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
			return fmt.Errorf("%q is not a number of agents", text)
		}
		*c = append(*c, n)
	}
	return nil
}

// names is a flag: comma-separated names.
type names []string

func (n *names) String() string { return strings.Join(*n, ",") }

func (n *names) Set(value string) error {
	*n = strings.Split(value, ",")
	return nil
}

func (n names) within(known ...string) bool {
	return !slices.ContainsFunc(n, func(name string) bool { return !slices.Contains(known, name) })
}
