package poller

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/state"
	"github.com/fleetconf/fleetconf/pkg/backoff"
)

const (
	// saveTimeout is how long the loops wait for the cache. If a disk hangs, the agent
	// goes on in memory, and says so.
	saveTimeout = 2 * time.Second

	saveRetryFirst = time.Second
	saveRetryLimit = time.Minute
)

var errHangs = fmt.Errorf("the disk did not answer within %s", saveTimeout)

// saver is the progress of saving. Revisions are those of state.Machine.
type saver struct {
	wake  chan struct{} // holds one wake-up at most
	saved int           // the revision that the cache holds; runSaver alone uses it

	mu      sync.Mutex    // guards the rest; never held while the cache writes
	tried   int           // the newest revision for which Save has returned, also with an error
	attempt int           // number of the Save under way, or of the last one
	running bool          // a Save is under way
	hanging bool          // for longer than saveTimeout
	changed chan struct{} // closed and replaced when tried or hanging changes
}

// progress returns whether a revision is not waited for any more, and what is closed
// when that may change.
func (s *saver) progress(revision int) (done bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tried >= revision || s.hanging, s.changed
}

func (s *saver) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// persist waits until the cache holds the state of this moment, or has failed to write
// it, or hangs. Call it before what must not happen before the state is saved.
func (p *Poller) persist(ctx context.Context) {
	var revision int
	p.ask(func(m *state.Machine, _ time.Time) { _, revision = m.Stored() })
	for {
		done, changed := p.saver.progress(revision)
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// runSaver writes the newest state to the cache whenever it changes, and again after a
// failure, until ctx ends. Then it writes once more what is not saved.
func (p *Poller) runSaver(ctx context.Context) {
	backOff, retry := backoff.New(saveRetryFirst, saveRetryLimit), (<-chan time.Time)(nil)
	for ended := false; !ended; {
		select {
		case <-p.saver.wake:
		case <-retry:
		case <-ctx.Done():
			ended = true
		}
		retry = nil
		if p.saveNewest() {
			backOff.Reset()
		} else {
			retry = time.After(backOff.Next(0))
		}
	}
}

// saveNewest writes the state if it has changed, and reports whether the cache holds it.
func (p *Poller) saveNewest() bool {
	s := &p.saver
	var stored state.Stored
	var revision int
	p.ask(func(m *state.Machine, _ time.Time) { stored, revision = m.Stored() })
	if revision == s.saved {
		return true
	}
	s.mu.Lock()
	s.attempt++
	s.running = true
	attempt := s.attempt
	s.mu.Unlock()
	watch := time.AfterFunc(saveTimeout, func() { p.saveHangs(attempt, stored) })
	err := p.Cache.Save(stored)
	watch.Stop()
	p.Metrics.saved(err)

	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.saved = revision
	}
	p.handle(p.Log, func(m *state.Machine, _ time.Time) { m.Saved(stored, err) }) // before anyone goes on
	s.tried, s.running, s.hanging = revision, false, false
	s.broadcast()
	return err == nil
}

// saveHangs records that an attempt to save has not ended yet.
func (p *Poller) saveHangs(attempt int, stored state.Stored) {
	s := &p.saver
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running || s.attempt != attempt {
		return // it has just ended
	}
	p.handle(p.Log, func(m *state.Machine, _ time.Time) { m.Saved(stored, errHangs) })
	s.hanging = true
	s.broadcast()
}
