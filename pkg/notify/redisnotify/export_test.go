package redisnotify

import "time"

// Hurry makes a driver of tests as impatient as they are.
func (d *Driver) Hurry(idle, answer time.Duration) { d.idle, d.answer = idle, answer }
