package swarm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Remote and Serve exchange one JSON document per line: first the Options, then pairs
// of a question and its reply. All processes read the clock of one machine.

// The questions, which are the methods of Swarm.
const (
	ready    = "ready"
	applied  = "applied"
	traffic  = "traffic"
	requests = "requests"
	troubles = "trouble"
)

type question struct {
	Ask     string    `json:"ask"`
	Version int64     `json:"version,omitempty"` // of ready and applied
	From    time.Time `json:"from,omitzero"`     // of requests
	To      time.Time `json:"to,omitzero"`
}

type reply struct {
	Error    string  `json:"error,omitempty"`
	Ready    int     `json:"ready,omitempty"`
	Applied  []int64 `json:"applied,omitempty"` // Unix nanoseconds
	Traffic  Traffic `json:"traffic,omitzero"`
	Requests []int   `json:"requests,omitempty"` // by the second
	Trouble  Trouble `json:"trouble,omitzero"`
}

// Serve runs a swarm for a Remote that writes to in and reads from out. It returns when
// in ends.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	questions, replies := json.NewDecoder(in), json.NewEncoder(out)
	var options Options
	if err := questions.Decode(&options); err != nil {
		return fmt.Errorf("read the options: %w", err)
	}
	s := Start(ctx, options)
	defer s.Stop()
	for {
		var q question
		if err := questions.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a question: %w", err)
		}
		if err := replies.Encode(s.reply(q)); err != nil {
			return fmt.Errorf("reply: %w", err)
		}
	}
}

func (s *Swarm) reply(q question) (r reply) {
	var err error
	switch q.Ask {
	case ready:
		r.Ready = s.Ready(q.Version)
	case applied:
		for _, t := range s.Applied(q.Version) {
			r.Applied = append(r.Applied, t.UnixNano())
		}
	case traffic:
		r.Traffic, err = s.Traffic()
	case requests:
		r.Requests = s.Requests(q.From, q.To)
	case troubles:
		r.Trouble = s.Trouble()
	default:
		err = fmt.Errorf("%q is unknown", q.Ask)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// Remote is a swarm in other processes, a part in each. Its methods are those of Swarm,
// for all parts together; they fail if a process has ended.
type Remote struct{ parts []part }

type part struct {
	questions *json.Encoder
	replies   *json.Decoder
}

// Distribute starts the agents in the processes at the other ends of pipes, which run
// Serve. Each gets the same number of agents, ±1.
func Distribute(options Options, pipes []io.ReadWriter) (*Remote, error) {
	r := &Remote{}
	if options.Began.IsZero() {
		options.Began = time.Now()
	}
	options.PerSecond = max(options.PerSecond/len(pipes), 1)
	agents := options.Agents
	for i, pipe := range pipes {
		p := part{json.NewEncoder(pipe), json.NewDecoder(pipe)}
		options.Agents = agents[i*len(agents)/len(pipes) : (i+1)*len(agents)/len(pipes)]
		if err := p.questions.Encode(options); err != nil {
			return nil, fmt.Errorf("start a swarm: %w", err)
		}
		r.parts = append(r.parts, p)
	}
	return r, nil
}

// Ready counts the agents that have applied version or a later one, have
// reported it, and wait for the next.
func (r *Remote) Ready(version int64) (int, error) {
	all, err := r.ask(question{Ask: ready, Version: version})
	return all.Ready, err
}

// Applied returns the times at which agents applied version, or the later one that they
// run now. Other agents are omitted.
func (r *Remote) Applied(version int64) ([]time.Time, error) {
	all, err := r.ask(question{Ask: applied, Version: version})
	times := make([]time.Time, 0, len(all.Applied))
	for _, t := range all.Applied {
		times = append(times, time.Unix(0, t))
	}
	return times, err
}

// Traffic returns what all agents have sent and received so far.
func (r *Remote) Traffic() (Traffic, error) {
	all, err := r.ask(question{Ask: traffic})
	return all.Traffic, err
}

// Requests returns the number of requests in each whole second between two times.
// Requests that found no listener do not count.
func (r *Remote) Requests(from, to time.Time) ([]int, error) {
	all, err := r.ask(question{Ask: requests, From: from, To: to})
	return all.Requests, err
}

// Trouble returns the failures so far.
func (r *Remote) Trouble() (Trouble, error) {
	all, err := r.ask(question{Ask: troubles})
	return all.Trouble, err
}

// ask sends a question to all parts concurrently, and merges their replies.
func (r *Remote) ask(q question) (all reply, err error) {
	replies, failures := make([]reply, len(r.parts)), make([]error, len(r.parts))
	var group sync.WaitGroup
	for i, p := range r.parts {
		group.Go(func() { replies[i], failures[i] = p.ask(q) })
	}
	group.Wait()
	for _, one := range replies {
		all = all.plus(one)
	}
	return all, errors.Join(failures...)
}

func (p part) ask(q question) (r reply, err error) {
	if err := p.questions.Encode(q); err != nil {
		return r, fmt.Errorf("ask a swarm: %w", err)
	}
	if err := p.replies.Decode(&r); err != nil {
		return r, fmt.Errorf("read from a swarm: %w", err)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// plus merges two replies, whose seconds are the same.
func (r reply) plus(o reply) reply {
	r.Ready += o.Ready
	r.Applied = append(r.Applied, o.Applied...)
	r.Traffic = r.Traffic.Plus(o.Traffic)
	counts := slices.Clone(r.Requests)
	for i, n := range o.Requests {
		if i == len(counts) {
			counts = append(counts, 0)
		}
		counts[i] += n
	}
	r.Requests = counts
	r.Trouble.Count += o.Trouble.Count
	if r.Trouble.Example == "" {
		r.Trouble.Example = o.Trouble.Example
	}
	return r
}
