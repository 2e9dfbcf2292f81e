package service

import (
	"context"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// acquireTimeout is how long a write waits for those before it. It is less than a
// caller's own, so that the caller learns that nothing was done.
const acquireTimeout = 10 * time.Second

// semaphore lets one write through at a time. Unlike a mutex it can be left: a
// caller that has gone must not have its write done later.
type semaphore chan struct{}

func newSemaphore() semaphore { return make(semaphore, 1) }

// acquire returns when it is the caller's turn, or with the error of ctx, or with
// models.ErrBusy after patience.
func (t semaphore) acquire(ctx context.Context) error {
	timer := time.NewTimer(acquireTimeout)
	defer timer.Stop()
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return models.ErrBusy
	}
}

// release lets the next write through.
func (t semaphore) release() { <-t }
