// Package broadcast wakes all goroutines that wait for one event.
package broadcast

import "sync"

// Signal is a wake-up that all waiters share. Its zero value is ready.
type Signal struct {
	mu   sync.Mutex
	next chan struct{} // nil while none waits
}

// Next returns a channel that the next Send closes. What changes after the call is not
// missed.
func (s *Signal) Next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(chan struct{})
	}
	return s.next
}

// Send wakes all waiters.
func (s *Signal) Send() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		close(s.next)
		s.next = nil
	}
}
