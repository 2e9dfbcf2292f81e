package publish

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Announcer tells the agents that listen at that moment of a version. It returns
// nil when the announcement was taken, which says nothing of who heard it, and
// not much later than ctx ends.
type Announcer interface {
	Announce(ctx context.Context, a models.Announcement) error
}

const (
	// announceTimeout is how long a broker may take.
	announceTimeout = 5 * time.Second
	// announceAgain is the time after which an announcement that failed is tried
	// again, or up to twice that.
	announceAgain = time.Second
	// repeatFirst is the time after which what could not be announced at first is
	// announced once more. The time to the next doubles, until repeatLimit: agents
	// that lost the same broker come back one by one, and hear only what is said
	// after that.
	repeatFirst = time.Second
	repeatLimit = 32 * time.Second
)

// Announcements go out after the commit, from a loop of their own: a broker that
// is down or hangs delays no publish. One that could not be sent is tried again
// while it is about the newest version, and then repeated a few times.
type Announcements struct {
	publisher *Publisher
	announcer Announcer
	pace      int // agents a second
	log       logrus.FieldLogger

	lost atomic.Pointer[error] // why the last one was not taken; nil while all is well
}

// NewAnnouncements returns the announcements of what publisher publishes. They ask
// the fleet to come at pace, in agents a second.
func NewAnnouncements(publisher *Publisher, announcer Announcer, pace int, log logrus.FieldLogger) *Announcements {
	return &Announcements{publisher: publisher, announcer: announcer, pace: pace, log: log}
}

// Lost is why agents are not told of new versions; nil while they are.
func (a *Announcements) Lost() error {
	if lost := a.lost.Load(); lost != nil {
		return *lost
	}
	return nil
}

// Run announces each version until ctx ends; the current one too, which a crash
// may have kept from it.
func (a *Announcements) Run(ctx context.Context) error {
	var announced *models.Release
	var again <-chan time.Time // nil: the last one need not be said again
	var repeat time.Duration   // until it is, after the next that is taken; 0 for never
	for {
		published := a.publisher.Changed() // before the look: what changes after it wakes
		if current := a.publisher.Plan().Newest; current != announced {
			again = nil
			if err := a.announce(ctx, current); err != nil {
				again, repeat = time.After(announceAgain+rand.N(announceAgain)), repeatFirst
			} else if announced = current; repeat > 0 {
				again = time.After(repeat)
				if repeat *= 2; repeat > repeatLimit {
					repeat = 0
				}
			}
		}
		select {
		case <-published:
		case <-again:
			announced = nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *Announcements) announce(ctx context.Context, cfg *models.Release) error {
	bounded, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	spread := time.Duration(a.publisher.fleet.Targets(time.Now())) * time.Second / time.Duration(a.pace)
	err := a.announcer.Announce(bounded, models.Announcement{Version: cfg.Version, ETag: cfg.ETag, Spread: spread})
	if err != nil && ctx.Err() != nil {
		return err // the controller stops: that is nobody's fault
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = errSlowBroker
	}
	a.note(cfg.Version, err)
	return err
}

var errSlowBroker = errors.New("the broker did not answer within " + announceTimeout.String())

// note logs when announcing begins to fail, and when it ends to.
func (a *Announcements) note(version int64, err error) {
	var lost *error
	if err != nil {
		lost = &err
	}
	was := a.lost.Swap(lost)
	log := a.log.WithField("version", version)
	switch {
	case err != nil && was == nil:
		log.WithError(err).Warn("Announcements lost; agents follow by polling, and this is tried again")
	case err != nil:
		log.WithError(err).Debug("Announcement failed")
	case was != nil:
		log.Info("Announcements back")
	default:
		log.Debug("Version announced")
	}
}
