package poller

import (
	"context"
	"fmt"
	"time"

	"github.com/fleetconf/fleetconf/pkg/backoff"
)

// saveTimeout is how long the loops wait for the cache. A disk may hang forever:
// then the agent goes on in memory, and says so.
const saveTimeout = 2 * time.Second

// saving is the progress of the saver. Poller.mu guards it, and is never held
// while the cache writes.
type saving struct {
	wanted  int           // number of changes of the state
	saved   int           // how many of them the cache has
	tried   int           // how many of them Save has returned for, also with an error
	attempt int           // the number of the Save in progress, or of the last one
	running bool          // a Save is in progress
	hanging bool          // it has taken longer than saveTimeout
	changed chan struct{} // closed and replaced when tried or hanging changes
}

func (s *saving) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// save has the saver write the state. The caller holds mu, and calls persist
// without it before it does what must not happen before the state is saved.
func (p *Poller) save() {
	p.saving.wanted++
	wake(p.saveNeeded)
}

// persist waits until the cache has the state of this moment, or has failed to
// write it, or hangs. It returns immediately if there is nothing to write.
func (p *Poller) persist(ctx context.Context) {
	p.mu.Lock()
	wanted := p.saving.wanted
	p.mu.Unlock()
	for {
		p.mu.Lock()
		done, changed := p.saving.tried >= wanted || p.saving.hanging, p.saving.changed
		p.mu.Unlock()
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

// saver writes the newest state to the cache whenever it changes, and again after
// a failure, until ctx ends; what is then unsaved it writes once more.
func (p *Poller) saver(ctx context.Context) {
	again, retry := backoff.New(retryFirst, saveLimit), (<-chan time.Time)(nil)
	for ended := false; !ended; {
		select {
		case <-p.saveNeeded:
		case <-retry:
		case <-ctx.Done():
			ended = true
		}
		retry = nil
		if p.saveNewest() {
			again.Reset()
		} else {
			retry = time.After(again.Next(0))
		}
	}
}

// saveNewest writes the state if it has changed, and reports whether the cache has
// it.
func (p *Poller) saveNewest() bool {
	p.mu.Lock()
	if p.saving.saved == p.saving.wanted {
		p.mu.Unlock()
		return true
	}
	p.saving.attempt++
	p.saving.running = true
	state, number, attempt := p.state, p.saving.wanted, p.saving.attempt
	p.mu.Unlock()
	watch := time.AfterFunc(saveTimeout, func() { p.hangs(attempt) })
	err := p.Cache.Save(state)
	watch.Stop()
	p.Metrics.saved(err)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.saving.tried, p.saving.running, p.saving.hanging = number, false, false
	if err == nil {
		p.saving.saved = number
		p.secretSafe = state.Identity.AgentSecret != ""
	}
	p.cacheErr.note(p.Log, err, "Cache cannot be written", "Cache can be written again")
	p.saving.broadcast()
	return err == nil
}

// hangs notes that an attempt to write has not ended yet.
func (p *Poller) hangs(attempt int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.saving.running || p.saving.attempt != attempt {
		return // it has ended just now
	}
	p.saving.hanging = true
	p.cacheErr.note(p.Log, errHangs, "Cache cannot be written", "")
	p.saving.broadcast()
}

var errHangs = fmt.Errorf("the disk did not answer within %s", saveTimeout)
