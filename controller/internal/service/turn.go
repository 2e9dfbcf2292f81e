package service

import (
	"context"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// patience is how long a write waits for those before it. It is less than a
// caller's own, so that the caller learns that nothing was done.
const patience = 10 * time.Second

// turn lets one write through at a time. Unlike a mutex it can be left: a
// caller that has gone must not have its write done later.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take returns when it is the caller's turn, or with the error of ctx, or with
// models.ErrBusy after patience.
func (t turn) take(ctx context.Context) error {
	timer := time.NewTimer(patience)
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

// give lets the next write through.
func (t turn) give() { <-t }
