package service

import (
	"context"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// FreezeStore keeps the freeze.
type FreezeStore interface {
	// Freeze returns the freeze that was stored last, nil where there is none.
	Freeze(ctx context.Context) (*models.Freeze, error)
	// SaveFreeze stores a freeze, or, if f is nil, that there is none, and the
	// entry with it.
	SaveFreeze(ctx context.Context, f *models.Freeze, entry models.Entry) error
}

// Frozen is the freeze that is in force, nil if none is.
func (c *Configs) Frozen() *models.Freeze {
	if f := c.freeze.Load(); f.HoldsAt(time.Now()) {
		return f
	}
	return nil
}

// Freeze lets nothing be published until the freeze ends or is lifted. allowed
// judges the preconditions of the caller against the freeze that is in force,
// nil for none. It returns models.ErrPrecondition if it is not allowed, and
// models.ErrBusy if its turn does not come.
func (c *Configs) Freeze(ctx context.Context, f models.Freeze, origin models.Origin, allowed func(*models.Freeze) bool) error {
	f.By, f.At = origin.Actor, models.Now()
	detail := f.Reason
	if !f.Until.IsZero() {
		detail += " (until " + f.Until.Format(time.RFC3339) + ")"
	}
	return c.setFreeze(ctx, &f, models.NewEntry(origin, models.ActionFreeze, 0, detail), allowed)
}

// Unfreeze lifts the freeze, if there is one. Its errors are those of Freeze.
func (c *Configs) Unfreeze(ctx context.Context, origin models.Origin, allowed func(*models.Freeze) bool) error {
	return c.setFreeze(ctx, nil, models.NewEntry(origin, models.ActionUnfreeze, 0, ""), allowed)
}

func (c *Configs) setFreeze(ctx context.Context, f *models.Freeze, entry models.Entry, allowed func(*models.Freeze) bool) error {
	if err := c.publishing.acquire(ctx); err != nil {
		return err
	}
	defer c.publishing.release()
	frozen := c.Frozen()
	switch {
	case !allowed(frozen):
		return models.ErrPrecondition
	case f == nil && frozen == nil:
		return nil
	case f == nil:
		entry.Detail = frozen.Reason
	}
	if err := c.store.SaveFreeze(context.WithoutCancel(ctx), f, entry); err != nil {
		return err
	}
	c.freeze.Store(f)
	return nil
}
