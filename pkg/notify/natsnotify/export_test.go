package natsnotify

import "time"

// SetTimeouts makes a driver of tests as impatient as they are.
func (d *Driver) SetTimeouts(idle, answer time.Duration) { d.idle, d.answer = idle, answer }
