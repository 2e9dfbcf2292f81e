// Package broadcast wakes all that wait for one event.
package broadcast

import (
	"slices"
	"sync"
)

// Signal is a wake-up that all waiters share. Its zero value is ready.
type Signal struct {
	mu    sync.Mutex
	next  chan struct{} // nil while no goroutine waits
	funcs []*func()
}

// Next returns a channel that the next Send closes. An event after the call is not
// missed.
func (s *Signal) Next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(chan struct{})
	}
	return s.next
}

// Notify has each Send call f, which must not block, until stop is called.
func (s *Signal) Notify(f func()) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.funcs = append(s.funcs, &f)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i := slices.Index(s.funcs, &f); i >= 0 {
			s.funcs = slices.Delete(s.funcs, i, i+1)
		}
	}
}

// Send wakes all waiters.
func (s *Signal) Send() {
	s.mu.Lock()
	if s.next != nil {
		close(s.next)
		s.next = nil
	}
	funcs := slices.Clone(s.funcs)
	s.mu.Unlock()
	for _, f := range funcs {
		(*f)()
	}
}
