package settings

import "slices"

// Push is how newer versions are announced and heard of. It is the same in a
// controller and in its agents.
type Push struct {
	Transport string `setting:"PUSH" default:"longpoll" usage:"how agents hear of a newer version at once: longpoll, redis, nats, or none for polling alone"`

	RedisURL Secret `setting:"REDIS_URL" default:"redis://localhost:6379" usage:"where Redis is"`
	NATSURL  Secret `setting:"NATS_URL" default:"nats://localhost:4222" usage:"where NATS is; several with commas between"`
}

// The values of PUSH.
const (
	PushLongPoll = "longpoll"
	PushRedis    = "redis"
	PushNATS     = "nats"
	PushNone     = "none"
)

// Validate names every setting that cannot be used.
func (p *Push) Validate() (faults Faults) {
	faults.Check(slices.Contains([]string{PushLongPoll, PushRedis, PushNATS, PushNone}, p.Transport), "PUSH",
		"is %q; it must be longpoll, redis, nats or none", p.Transport)
	return faults
}
