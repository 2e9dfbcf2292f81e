package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fleetconf/fleetconf/test/internal/freeport"
	"github.com/fleetconf/fleetconf/test/internal/swarm"
)

var client = &http.Client{Timeout: 30 * time.Second}

// fleet is the registered agents, and databases that contain them.
type fleet struct {
	identities []swarm.Identity
	databases  map[int]string // by the number of agents, from the first on
}

// registerFleet registers the fleet once. A controller with a copy of the database
// accepts the agents' tokens.
func (b *bench) registerFleet() error {
	b.fleet.databases = map[int]string{}
	s := &stage{bench: b, name: "register", transport: swarm.None, database: filepath.Join(b.dir, "register.db")}
	defer s.close()
	if err := s.start(); err != nil {
		return err
	}
	if _, _, err := s.publish(); err != nil {
		return err
	}
	for _, size := range b.fleetSizes() {
		have := len(b.fleet.identities)
		b.logf("Registering agents %d to %d", have+1, size)
		more, err := swarm.Register(b.ctx, s.address, have, size, func(done int) {
			if (have+done)%2000 == 0 {
				b.logf("%d registered", have+done)
			}
		})
		if err != nil {
			return err
		}
		b.fleet.identities = append(b.fleet.identities, more...)
		copied := filepath.Join(b.dir, fmt.Sprintf("fleet-%d.db", size))
		backup, err := b.launch("backup", b.controller, []string{"backup", copied}, []string{"DB_PATH=" + s.database})
		if err != nil {
			return err
		}
		<-backup.ended
		if !backup.cmd.ProcessState.Success() {
			return fmt.Errorf("controller backup: %v\n%s", backup.cmd.ProcessState, backup.tail())
		}
		b.fleet.databases[size] = copied
	}
	return nil
}

// stage is a controller with its broker and agents.
type stage struct {
	*bench
	name      string
	transport swarm.Transport
	agents    int
	database  string

	address        string // of the controller
	broker         string
	controller     *process
	server         *process   // the broker's; nil without one, or if it is embedded
	swarmProcesses []*process // each runs a part of the swarm
	swarm          *swarm.Remote
	version        int64    // the newest
	baseline       measured // before agents connected
}

// open starts a stage on a copy of the fleet's database. No agent is connected.
func (b *bench) open(name string, transport swarm.Transport, agents int) (*stage, error) {
	s := &stage{bench: b, name: fmt.Sprintf("%s-%s-%d", name, transport, agents), transport: transport, agents: agents}
	s.database = filepath.Join(b.dir, s.name+".db")
	if err := copyFile(b.fleet.databases[agents], s.database); err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stage) open() error {
	var err error
	if s.transport.Brokered() {
		if s.broker, err = freeport.Address(); err != nil {
			return err
		}
	}
	switch {
	case s.transport == swarm.Redis:
		s.server, err = s.launch(s.name+"-redis-server", "redis-server",
			[]string{"--bind", "127.0.0.1", "--port", port(s.broker),
				"--save", "", "--appendonly", "no", "--maxclients", strconv.Itoa(s.files - 100)}, nil)
	case s.transport == swarm.NATS && !s.embedsNATS(s.agents):
		settings := filepath.Join(s.dir, s.name+".conf")
		if err := os.WriteFile(settings, fmt.Appendf(nil, natsSettings, s.broker), 0o600); err != nil {
			return err
		}
		s.server, err = s.launch(s.name+"-nats-server", s.natsServer, []string{"-c", settings}, nil)
	}
	if err != nil {
		return err
	}
	if s.server != nil {
		if err := s.server.await(s.ctx, acceptsTCP(s.broker)); err != nil {
			return err
		}
	}
	if err := s.start(); err != nil {
		return err
	}
	if _, _, err = s.publish(); err != nil { // so that caches are warm
		return err
	}
	if err := s.sleep(s.pause); err != nil {
		return err
	}
	s.baseline, err = s.measure()
	return err
}

// natsSettings are those settings of the embedded server that matter to subscribers.
const natsSettings = `
listen: %q
ping_interval: "10m"
max_payload: 64KB
max_pending: 1MB
write_deadline: "10s"
`

// start starts the controller, at its previous address if it has one.
func (s *stage) start() error {
	if s.address == "" {
		var err error
		if s.address, err = freeport.Address(); err != nil {
			return err
		}
	}
	env := []string{
		"PORT=" + port(s.address), "DB_PATH=" + s.database, "PUSH=" + string(s.transport), "LOG_LEVEL=warn",
		"LOG_FORMAT=json",
		"DEFAULT_POLL_INTERVAL=" + strconv.Itoa(int(s.interval/time.Second)),
	}
	switch s.transport {
	case swarm.Redis:
		env = append(env, "REDIS_URL=redis://"+s.broker)
	case swarm.NATS:
		if s.embedsNATS(s.agents) {
			env = append(env, "NATS_URL=embedded", "NATS_LISTEN="+s.broker)
		} else {
			env = append(env, "NATS_URL=nats://"+s.broker)
		}
	}
	var err error
	if s.controller, err = s.launch(s.name+"-controller", s.bench.controller, nil, env); err != nil {
		return err
	}
	if err := s.controller.await(s.ctx, healthy(s.address)); err != nil {
		return err
	}
	if s.transport == swarm.NATS {
		return s.controller.await(s.ctx, acceptsTCP(s.broker))
	}
	return nil
}

// close kills the processes of the stage.
func (s *stage) close() {
	for _, p := range append(s.swarmProcesses, s.controller, s.server) {
		if p != nil {
			p.kill()
		}
	}
}

// publish publishes a new version and returns it, and the time of the response.
func (s *stage) publish() (version int64, at time.Time, err error) {
	body := fmt.Sprintf(`{"url":"http://127.0.0.1:9/%s?%d"}`, s.name, time.Now().UnixNano())
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, "http://"+s.address+"/api/v1/config",
		strings.NewReader(body))
	if err != nil {
		return 0, at, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.SetBasicAuth("admin", "admin123")
	response, err := client.Do(request)
	if err != nil {
		return 0, at, fmt.Errorf("publish: %w", err)
	}
	at = time.Now()
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil {
		return 0, at, fmt.Errorf("publish: %w", err)
	}
	var done struct {
		Version int64 `json:"version"`
	}
	if err := json.Unmarshal(text, &done); err != nil || response.StatusCode != http.StatusOK {
		return 0, at, fmt.Errorf("publish: answered %d %s", response.StatusCode, text)
	}
	s.version = done.Version
	return done.Version, at, nil
}

// perSecond is the rate at which agents connect.
const perSecond = 1000

// connect starts the agents, and returns when each runs the newest version and waits
// for the next one.
func (s *stage) connect() error {
	each := s.maxConnections / s.transport.Connections()
	processes := (s.agents + each - 1) / each
	s.logf("%s: connecting %d agents, at most %d in a process", s.name, s.agents, (s.agents+processes-1)/processes)
	var pipes []io.ReadWriter
	for i := range processes {
		p, err := s.launchPiped(fmt.Sprintf("%s-swarm-%d", s.name, i+1), s.self, swarmMode)
		if err != nil {
			return err
		}
		s.swarmProcesses, pipes = append(s.swarmProcesses, p), append(pipes, p)
	}
	var err error
	s.swarm, err = swarm.Distribute(swarm.Options{
		Transport: s.transport, Controller: s.address, Broker: s.broker, Agents: s.fleet.identities[:s.agents],
		PollInterval: s.interval, CutSpread: s.cutSpread, PerSecond: perSecond,
	}, pipes)
	if err != nil {
		return err
	}
	limit := time.Minute + time.Duration(s.agents/perSecond)*2*time.Second
	n, err := s.awaitAll(time.Now().Add(limit))
	if err != nil || n == s.agents {
		return err
	}
	trouble, err := s.swarm.Trouble()
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: only %d of %d agents were idle within %s; failed requests: %s\n%s", s.name, n, s.agents,
		limit, trouble, s.controller.tail())
}

// countBehind returns how many agents do not run the newest version.
func (s *stage) countBehind() (int, error) {
	applied, err := s.swarm.Applied(s.version)
	return s.agents - len(applied), err
}

// awaitAll waits until all agents run the newest version and wait for the next one, or
// until the deadline. It returns how many do.
func (s *stage) awaitAll(deadline time.Time) (ready int, err error) {
	return s.await(s.agents, deadline)
}

// await is awaitAll for want agents.
func (s *stage) await(want int, deadline time.Time) (ready int, err error) {
	for {
		if ready, err = s.swarm.Ready(s.version); err != nil || ready >= want || time.Now().After(deadline) {
			return ready, err
		}
		if err := s.sleep(20 * time.Millisecond); err != nil {
			return ready, err
		}
		select {
		case <-s.controller.ended:
			return ready, fmt.Errorf("%s: the controller ended:\n%s", s.name, s.controller.tail())
		default:
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if closed := out.Close(); err == nil {
		err = closed
	}
	return err
}
