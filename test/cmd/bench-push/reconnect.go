package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/fleetconf/fleetconf/test/internal/swarm"
)

// reconnectTimeout is how long agents may take to reconnect: more than their longest
// back-off, which is two poll intervals.
const reconnectTimeout = 3 * time.Minute

// measureReconnect kills the controller of agents that long-poll, and measures how
// they reconnect.
func (b *bench) measureReconnect(w io.Writer) (lost int, err error) {
	s, err := b.open("reconnect", swarm.LongPoll, b.reconnectAgents)
	if err != nil {
		return 0, err
	}
	defer s.close()
	if err := s.connect(); err != nil {
		return 0, err
	}
	b.logf("%s: measuring the steady state for %s", s.name, b.steady)
	steadyFrom := time.Now()
	if err := b.sleep(b.steady); err != nil {
		return 0, err
	}
	steady, err := s.swarm.Requests(steadyFrom.Add(time.Second), time.Now())
	if err != nil {
		return 0, err
	}

	b.logf("%s: killing the controller for %s", s.name, b.away)
	s.controller.kill()
	if err := b.sleep(b.away); err != nil {
		return 0, err
	}
	launched := time.Now()
	if err := s.start(); err != nil {
		return 0, err
	}
	b.logf("%s: the controller is back", s.name)
	back := time.Now()
	var after [3]string // until 50 %, 99 % and all agents were back
	for i, share := range []int{50, 99, 100} {
		want := (s.agents*share + 99) / 100
		ready, err := s.await(want, back.Add(reconnectTimeout))
		if err != nil {
			return 0, err
		}
		b.logf("%s: %d of %d agents are back", s.name, ready, s.agents)
		if after[i] = "never"; ready >= want {
			after[i] = fmt.Sprintf("%.1f s", time.Since(back).Seconds())
		}
	}
	returning, err := s.swarm.Requests(launched, time.Now().Add(time.Second))
	if err != nil {
		return 0, err
	}

	_, at, err := s.publish()
	if err != nil {
		return 0, err
	}
	if _, err := s.awaitAll(at.Add(stragglerAfter)); err != nil {
		return 0, err
	}
	if lost, err = s.countBehind(); err != nil {
		return 0, err
	}

	rate, peak := average(steady), float64(slices.Max(returning))
	polling := float64(s.agents) / s.interval.Seconds()
	ratio := "–"
	if rate > 0 {
		ratio = fmt.Sprintf("%.1f", peak/rate)
	}
	fmt.Fprintf(w, `
### The controller is killed, and restarted after %s

%s agents long-poll. Requests are those that reached a controller; the peak is that after its return, until all agents
were back. Lost agents did not run a version that was then published, or were not back after %s. Peak to polling is
the ratio to the %.1f requests per second of a fleet that polls every %s: agents that lost push do that, after a random
part of the interval.

`, formatDuration(b.away), formatCount(int64(s.agents)), formatDuration(reconnectTimeout), polling,
		formatDuration(s.interval))
	t := newTable("agents", "steady requests/s", "peak requests in a second", "peak to steady", "peak to polling",
		"half back after", "99 % back after", "all back after", "lost")
	t.row(formatCount(int64(s.agents)), fmt.Sprintf("%.1f", rate), formatCount(int64(peak)), ratio,
		fmt.Sprintf("%.1f", peak/polling), after[0], after[1], after[2], formatCount(int64(lost)))
	t.print(w)
	return lost, nil
}

func average(counts []int) float64 {
	if len(counts) == 0 {
		return 0
	}
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return float64(sum) / float64(len(counts))
}
