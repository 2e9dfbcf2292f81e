package main

import (
	"fmt"
	"io"
	"time"

	"github.com/fleetconf/fleetconf/test/internal/swarm"
)

// measureIdle measures idle agents of all transports at the same time. Each transport
// has a controller of its own. The CPU time of one more controller, without agents, is
// subtracted.
func (b *bench) measureIdle(w io.Writer) (lost int, err error) {
	var stages []*stage
	defer func() {
		for _, s := range stages {
			s.close()
		}
	}()
	empty, err := b.open("empty", swarm.LongPoll, b.idleAgents)
	if err != nil {
		return 0, err
	}
	stages = append(stages, empty)
	for _, name := range b.transports {
		s, err := b.open("idle", swarm.Transport(name), b.idleAgents)
		if err != nil {
			return 0, err
		}
		stages = append(stages, s)
		if err := s.connect(); err != nil {
			return 0, err
		}
	}
	if err := b.sleep(2 * b.pause); err != nil {
		return 0, err
	}
	before, err := measureAll(stages)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	b.logf("%d agents of each transport are idle for %s", b.idleAgents, b.idle)
	for left := b.idle; left > 0; left = b.idle - time.Since(began) {
		if err := b.sleep(min(left, time.Minute)); err != nil {
			return 0, err
		}
		b.logf("Idle for %s of %s", time.Since(began).Round(time.Second), b.idle)
	}
	took := time.Since(began)
	after, err := measureAll(stages)
	if err != nil {
		return 0, err
	}
	return b.reportIdle(w, stages, before, after, took)
}

func measureAll(stages []*stage) ([]measured, error) {
	all := make([]measured, 0, len(stages))
	for _, s := range stages {
		m, err := s.measure()
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// reportIdle prints what the agents of each stage used, and returns how many of them
// do not run the newest version. The first stage has no agents.
func (b *bench) reportIdle(w io.Writer, stages []*stage, before, after []measured, took time.Duration) (lost int,
	err error) {
	agents := int64(b.idleAgents)
	hourly := func(n int64) float64 { return float64(n) / float64(agents) / took.Hours() }
	idleCPU := after[0].controller.cpu - before[0].controller.cpu
	polling := 0.0
	for i, s := range stages {
		if s.swarm != nil && s.transport == swarm.None {
			polling = hourly(after[i].traffic.Minus(before[i].traffic).Bytes())
		}
	}
	t := newTable("transport", "KiB per agent", "CPU seconds per 10,000 agents and hour", "bytes per agent and hour",
		"payload", "packets", "of polling")
	var notes []string
	for i, s := range stages[1:] {
		before, after := before[i+1], after[i+1]
		traffic := after.traffic.Minus(before.traffic)
		cpu := max(after.controller.cpu-before.controller.cpu-idleCPU, 0)
		ratio := "–"
		if polling > 0 {
			ratio = fmt.Sprintf("%.1f %%", 100*hourly(traffic.Bytes())/polling)
		}
		t.row(b.label(string(s.transport)), kib((after.controller.memory-s.baseline.controller.memory)/agents),
			fmt.Sprintf("%.1f", 10_000*hourly(int64(cpu))/float64(time.Second)),
			formatCount(int64(hourly(traffic.Bytes()))), formatCount(int64(hourly(traffic.Payload))),
			formatCount(int64(hourly(traffic.Segments))), ratio)
		if note := b.brokerNote(s.transport, s.agents); note != "" {
			notes = append(notes, fmt.Sprintf("%s: %s", s.transport, note))
		}
		if s.server != nil {
			notes = append(notes, fmt.Sprintf(
				"%s: %s-server itself takes another %s KiB per agent, and %.1f CPU seconds "+
					"per 10,000 agents and hour.",
				s.transport, s.transport, kib((after.broker.memory-s.baseline.broker.memory)/agents),
				10_000*hourly(int64(after.broker.cpu-before.broker.cpu))/float64(time.Second)))
		}
		trouble, err := s.swarm.Trouble()
		if err != nil {
			return 0, err
		}
		if trouble.Count > 0 {
			notes = append(notes, fmt.Sprintf("%s: failed requests: %s.", s.transport, trouble))
		}
		missing, err := s.countBehind()
		if err != nil {
			return 0, err
		}
		if missing > 0 {
			lost += missing
			notes = append(notes, fmt.Sprintf("%s: %d agents do not run the newest version.", s.transport, missing))
		}
	}
	fmt.Fprintf(w, `
### Idle

The cost of idle agents: %s agents of each transport, measured for %s and extrapolated to an hour. Long polls are in
their steady state of 300 s; a real agent begins with 55 s. CPU time is the difference to a controller without agents.
Bytes are those of IP packets in both directions, with keepalive probes and bare acknowledgements; payload is the data
in TCP.

`, formatCount(agents), formatDuration(took.Round(time.Second)))
	t.print(w)
	printNotes(w, notes)
	return lost, nil
}
