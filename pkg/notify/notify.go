// Package notify sends the hint that a newer version exists from the controller to its agents,
// over a broker. A hint names a version and holds no content. If it is lost, duplicated, late
// or forged, the worst result is one needless fetch or one poll interval of delay.
//
// Each driver is a package of its own, named for its broker. It sends and receives bytes and
// does not interpret them.
package notify

import (
	"context"
	"time"

	"github.com/fleetconf/fleetconf/pkg/models"
)

// Subject is the Redis channel or NATS subject of builds without fleet ids.
const Subject = "fleetconf.config"

// SubjectOf returns the subject of a fleet, or Subject if fleet is empty.
func SubjectOf(fleet string) string {
	if fleet == "" {
		return Subject
	}
	return Subject + "." + fleet
}

// Hint says that a version exists.
type Hint struct {
	Version int64  `json:"version"`
	ETag    string `json:"etag"`
	// SpreadMS is the time in milliseconds over which receivers must spread their fetches, so
	// that the controller can serve all of them.
	SpreadMS int64 `json:"spread_ms"`
}

// Spread returns SpreadMS as a duration from 0 to models.MaxWait.
func (h Hint) Spread() time.Duration {
	return time.Duration(min(max(h.SpreadMS, 0), models.MaxWait.Milliseconds())) * time.Millisecond
}

// Encode returns the message of a hint.
func (h Hint) Encode() ([]byte, error) { return models.Encode(h) }

// Decode returns the hint of a message. The error is a *models.Invalid. Unknown members are
// ignored: a newer controller may add some.
func Decode(message []byte) (Hint, error) {
	if len(message) > models.MaxHintBytes {
		return Hint{}, models.Bad("", "message is longer than %d bytes", models.MaxHintBytes)
	}
	h, err := models.DecodeOpen[Hint](message)
	switch {
	case err != nil:
		return Hint{}, err
	case h.Version < 1:
		return Hint{}, models.Bad("version", "must be 1 or more")
	case len(h.ETag) > models.MaxETagBytes:
		return Hint{}, models.Bad("etag", "is longer than %d bytes", models.MaxETagBytes)
	}
	return h, nil
}

// Announcer broadcasts messages.
type Announcer interface {
	// Announce returns nil when the broker has accepted the message, which does not mean that
	// any subscriber received it. It returns when ctx ends.
	Announce(ctx context.Context, subject string, message []byte) error
}

// Subscriber receives announcements.
type Subscriber interface {
	// Run passes the messages on subject to r until ctx ends, and then returns nil. It
	// reconnects forever, with jittered backoff.
	Run(ctx context.Context, subject string, r Receiver) error
}

// Receiver is called by a Subscriber, one call at a time. Its methods do not block.
type Receiver interface {
	// Subscribed reports that messages are received from now on. Earlier ones were missed.
	Subscribed()
	// Lost reports that no message is received until Subscribed. It is called once per loss,
	// also if the first connection fails. The error holds no secret.
	Lost(err error)
	// Received passes a message, which may be of any sender. It must not retain message.
	Received(message []byte)
}
