// Package notify carries the hint that a newer version exists from the
// controller to its agents, over a broker. A hint names a version and holds
// nothing of it: it may be lost, doubled, late or forged, and the worst that
// comes of it is one fetch too many, or one poll interval of delay.
//
// Each driver is a package beside this one, named for its broker. It knows how
// to send and to hear bytes, and nothing of what they say.
package notify

import (
	"context"
	"time"

	"github.com/fleetconf/fleetconf/pkg/models"
)

// Subject is where builds before fleets had ids broadcast hints: a Redis channel, a
// NATS subject.
const Subject = "fleetconf.config"

// SubjectOf is where hints for the agents of a fleet are broadcast: Subject itself
// where the fleet is not known.
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
	// SpreadMS is the time in milliseconds over which those who hear this are to
	// spread their fetches, so that the controller can serve all of them.
	SpreadMS int64 `json:"spread_ms"`
}

// Spread returns SpreadMS as a duration from 0 to models.MaxWait.
func (h Hint) Spread() time.Duration {
	return time.Duration(min(max(h.SpreadMS, 0), models.MaxWait.Milliseconds())) * time.Millisecond
}

// Encode writes a hint as a message.
func (h Hint) Encode() ([]byte, error) { return models.Encode(h) }

// Decode reads a message. The error is a *models.Invalid that says why it is no
// hint. Members that a newer controller may have added are passed over.
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

// Announcer sends messages to all who listen at that moment.
type Announcer interface {
	// Announce returns nil when the broker has taken the message, which says
	// nothing of who heard it. It returns when ctx ends.
	Announce(ctx context.Context, subject string, message []byte) error
}

// Subscriber listens to what is announced.
type Subscriber interface {
	// Run tells r what it hears on subject until ctx ends, and then returns nil. It never
	// gives up: a connection that is lost, or never was, is tried again for ever,
	// at moments that differ from one process to the next.
	Run(ctx context.Context, subject string, r Receiver) error
}

// Receiver is told by a Subscriber, one call at a time. Calls return at once.
type Receiver interface {
	// Subscribed: what is announced from now on is heard. What was announced
	// before was missed.
	Subscribed()
	// Lost: nothing is heard until Subscribed. It is told once for each loss,
	// also when there is no connection to begin with. The error holds no secret.
	Lost(err error)
	// Received: a message came, anybody's. It must not be kept.
	Received(message []byte)
}
