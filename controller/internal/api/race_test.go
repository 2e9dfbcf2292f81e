package api_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// An agent that runs a later version than a restored store has is never offered an older one,
// even if a publish happens during its poll.
func TestConflict_PublishDuringPolls_NeverOffersOlderVersion(t *testing.T) {
	s := newSystem(t)
	ahead := s.register("ahead")
	version := int64(1)
	s.publish("http://h/0")
	for i := range 150 {
		runs := version + 1
		tag := s.laterETag(runs)
		var done atomic.Bool
		var polls sync.WaitGroup
		for range 2 {
			polls.Go(func() {
				for !done.Load() {
					resp := s.poll(ahead, tag)
					if got := versionOf(resp.Header.Get("ETag")); resp.StatusCode == 200 && got < runs {
						t.Errorf("an agent that runs version %d was offered %d", runs, got)
						return
					}
				}
			})
		}
		s.poll(ahead, tag) // starts the conflict
		s.publish(fmt.Sprint("http://h/", i+1))
		done.Store(true)
		polls.Wait()
		if t.Failed() {
			return
		}
		version = runs + 1
	}
}

func versionOf(tag string) (version int64) {
	_, _ = fmt.Sscanf(tag, `"%d-`, &version)
	return version
}
