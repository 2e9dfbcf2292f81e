package models

import "time"

// Freeze is why, and until when, nothing is published.
type Freeze struct {
	Reason string
	Until  time.Time // zero: until it is lifted
	By     string
	At     time.Time
}

// HoldsAt reports whether the freeze is in force. A nil one never is.
func (f *Freeze) HoldsAt(now time.Time) bool {
	return f != nil && (f.Until.IsZero() || now.Before(f.Until))
}

// FrozenError is the error of a publish while a freeze holds.
type FrozenError struct{ Freeze Freeze }

func (e *FrozenError) Error() string {
	text := "publishing is frozen by " + e.Freeze.By + ": " + e.Freeze.Reason
	if !e.Freeze.Until.IsZero() {
		text += " (until " + e.Freeze.Until.Format(time.RFC3339) + ")"
	}
	return text
}
