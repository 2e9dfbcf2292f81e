package redisnotify

import "time"

// SetTimeouts replaces notify.Idle and notify.Answer.
func (d *Driver) SetTimeouts(idle, answer time.Duration) { d.idle, d.answer = idle, answer }
