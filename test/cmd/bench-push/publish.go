package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/fleetconf/fleetconf/test/internal/swarm"
)

// stragglerAfter is the time after which an agent that gets hints, but has not applied
// the version, is a straggler.
const stragglerAfter = 10 * time.Second

// reach is the spread of one version.
type reach struct {
	p50, p99, max time.Duration // from the response to the publish until an agent applied it
	stragglers    int
}

// publishes is the result of several publishes on one stage.
type publishes struct {
	reaches   []reach
	connected int64         // bytes of the controller's memory per agent, before the first
	after     int64         // and after the last
	cpu       time.Duration // of the controller, per agent and publish
	traffic   swarm.Traffic // of all agents and publishes
	broker    usage         // of a server of its own: memory per agent, CPU per agent and publish
	trouble   swarm.Trouble
}

func (b *bench) measurePublish(w io.Writer) (stragglers int, err error) {
	t := newTable("agents", "transport", "p50", "p99", "max", "worst max", "stragglers",
		"KiB per agent, waiting", "after", "CPU µs per agent and change", "bytes per agent and change", "payload")
	var notes []string
	for _, n := range b.agents {
		for _, name := range b.transports {
			got, err := b.publishTo(swarm.Transport(name), n)
			if err != nil {
				return 0, err
			}
			lost := 0
			for _, r := range got.reaches {
				lost += r.stragglers
			}
			stragglers += lost
			deliveries := int64(n * len(got.reaches))
			t.row(formatCount(int64(n)), b.label(name),
				milliseconds(got.median(func(r reach) time.Duration { return r.p50 })),
				milliseconds(got.median(func(r reach) time.Duration { return r.p99 })),
				milliseconds(got.median(func(r reach) time.Duration { return r.max })),
				milliseconds(got.worst()), formatCount(int64(lost)), kib(got.connected), kib(got.after),
				formatCount(got.cpu.Microseconds()),
				formatCount(got.traffic.Bytes()/deliveries), formatCount(got.traffic.Payload/deliveries))
			if note := b.brokerNote(swarm.Transport(name), n); note != "" {
				notes = append(notes, fmt.Sprintf("%s, %s agents: %s", name, formatCount(int64(n)), note))
			}
			if got.broker.memory > 0 {
				notes = append(notes, fmt.Sprintf(
					"%s, %s agents: %s-server itself takes another %s KiB per agent, "+
						"and %s µs of CPU per agent and change.",
					name, formatCount(int64(n)), name, kib(got.broker.memory),
					formatCount(got.broker.cpu.Microseconds())))
			}
			if got.trouble.Count > 0 {
				notes = append(notes, fmt.Sprintf("%s, %s agents: failed requests: %s.", name,
					formatCount(int64(n)), got.trouble))
			}
		}
	}
	fmt.Fprintf(w, `
### One publish, until the fleet runs it

Milliseconds from the response to the publish until simulated agents had applied the version: the median of %d
publishes, and the worst of them. Polling was measured for one publish. A straggler had not applied a version %s
after its publish. The controller's memory is the difference to the same agents registered, but not connected. A
change is the fetch, its report and, with longpoll, the next poll; for polling it is all polls of one interval. Bytes
are those of IP packets in both directions.

`, b.publishes, stragglerAfter)
	t.print(w)
	printNotes(w, notes)
	return stragglers, nil
}

// publishTo publishes to n waiting agents.
func (b *bench) publishTo(transport swarm.Transport, n int) (got publishes, err error) {
	s, err := b.open("publish", transport, n)
	if err != nil {
		return got, err
	}
	defer s.close()
	if err := s.connect(); err != nil {
		return got, err
	}
	if err := s.sleep(2 * s.pause); err != nil {
		return got, err
	}
	before, err := s.measure()
	if err != nil {
		return got, err
	}
	times := b.publishes
	if transport == swarm.None {
		times = 1
	}
	for range times {
		r, err := s.measureSpread()
		if err != nil {
			return got, err
		}
		got.reaches = append(got.reaches, r)
		s.logf("%s: version %d reached the last of %d agents after %s ms", s.name, s.version, n, milliseconds(r.max))
	}
	after, err := s.measure()
	if err != nil {
		return got, err
	}
	agents, deliveries := int64(n), time.Duration(n*times)
	got.connected, got.after = (before.controller.memory-s.baseline.controller.memory)/agents,
		(after.controller.memory-s.baseline.controller.memory)/agents
	got.cpu = (after.controller.cpu - before.controller.cpu) / deliveries
	got.traffic = after.traffic.Minus(before.traffic)
	got.broker = usage{(after.broker.memory - s.baseline.broker.memory) / agents,
		(after.broker.cpu - before.broker.cpu) / deliveries}
	got.trouble, err = s.swarm.Trouble()
	return got, err
}

// brokerNote describes where NATS ran; "" for other transports.
func (b *bench) brokerNote(transport swarm.Transport, n int) string {
	switch {
	case transport != swarm.NATS:
		return ""
	case b.embedsNATS(n):
		return "the server is embedded in the controller, and included in its figures."
	}
	return fmt.Sprintf(
		"a separate nats-server is used, because the controller may open only %s files, "+
			"too few for two connections of each agent.", formatCount(int64(b.files)))
}

// measureSpread publishes one version and measures its spread.
func (s *stage) measureSpread() (r reach, err error) {
	limit := stragglerAfter
	if s.transport == swarm.None {
		limit = s.interval + s.interval/10 + 2*time.Second
	}
	version, at, err := s.publish()
	if err != nil {
		return r, err
	}
	if _, err := s.awaitAll(at.Add(limit)); err != nil {
		return r, err
	}
	took := make([]time.Duration, 0, s.agents)
	applied, err := s.swarm.Applied(version)
	if err != nil {
		return r, err
	}
	for _, t := range applied {
		if d := t.Sub(at); d <= limit {
			took = append(took, max(d, 0)) // an agent may apply it before the response is here
		}
	}
	slices.Sort(took)
	r = reach{stragglers: s.agents - len(took)}
	if len(took) > 0 {
		r.p50, r.p99, r.max = took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	}
	if s.transport == swarm.None { // the traffic of exactly one interval counts
		if err := s.sleep(time.Until(at.Add(s.interval))); err != nil {
			return r, err
		}
	}
	if _, err := s.awaitAll(time.Now().Add(stragglerAfter)); err != nil { // else stragglers would count twice
		return r, err
	}
	return r, s.sleep(s.pause)
}

// measured is what a stage has used so far.
type measured struct {
	controller, broker usage
	traffic            swarm.Traffic
}

func (s *stage) measure() (m measured, err error) {
	if m.controller, err = s.controller.usage(); err != nil {
		return m, err
	}
	if s.server != nil {
		if m.broker, err = s.server.usage(); err != nil {
			return m, err
		}
	}
	if s.swarm != nil {
		m.traffic, err = s.swarm.Traffic()
	}
	return m, err
}

// median returns the median of a figure over the publishes.
func (p publishes) median(figure func(reach) time.Duration) time.Duration {
	figures := make([]time.Duration, 0, len(p.reaches))
	for _, r := range p.reaches {
		figures = append(figures, figure(r))
	}
	slices.Sort(figures)
	return figures[len(figures)/2]
}

func (p publishes) worst() (worst time.Duration) {
	for _, r := range p.reaches {
		worst = max(worst, r.max)
	}
	return worst
}
