// Package broadcast wakes all waiters of an event.
package broadcast

import (
	"slices"
	"sync"
)

// Signal is an event that may occur repeatedly. The zero value is ready for use, and its
// methods may be called concurrently.
type Signal struct {
	mu    sync.Mutex    // guards the rest
	next  chan struct{} // nil while Next was not called since the last Send
	funcs []*func()     // registered by Notify
}

// Next returns a channel that the next Send closes.
func (s *Signal) Next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(chan struct{})
	}
	return s.next
}

// Notify makes each Send call f until stop is called. f must not block. It may be called
// once more if stop and Send are concurrent.
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

// Send closes the channel of Next, and calls the functions of Notify.
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
