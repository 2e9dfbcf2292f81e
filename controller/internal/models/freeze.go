package models

import "time"

// Freeze blocks publishes and rollbacks.
type Freeze struct {
	Reason string
	Until  time.Time // when it ends; zero: when it is lifted
	By     string    // the account that set it
	At     time.Time // when it was set
}

// InForceAt reports whether the freeze is in force. A nil freeze never is.
func (f *Freeze) InForceAt(now time.Time) bool {
	return f != nil && (f.Until.IsZero() || now.Before(f.Until))
}

// FrozenError is the error of a publish while a freeze is in force.
type FrozenError struct{ Freeze Freeze }

func (e *FrozenError) Error() string {
	text := "publishing is frozen by " + e.Freeze.By + ": " + e.Freeze.Reason
	if !e.Freeze.Until.IsZero() {
		text += " (until " + e.Freeze.Until.Format(time.RFC3339) + ")"
	}
	return text
}
