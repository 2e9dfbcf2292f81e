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

// Announcer sends announcements to the agents that are subscribed at that moment.
type Announcer interface {
	// Announce returns nil once the broker has accepted a. Agents may still miss it.
	// It returns soon after ctx ends.
	Announce(ctx context.Context, a models.Announcement) error
}

const (
	// announceTimeout is how long a broker may take to accept an announcement.
	announceTimeout = 5 * time.Second
	// announceRetry is the shortest time to the retry of a failed announcement. The
	// longest is twice that.
	announceRetry = time.Second
	// repeatFirst is the time after which an announcement that failed at first is
	// repeated. The time to the next repetition doubles, up to repeatLimit: agents that
	// lost the same broker reconnect one by one, and receive only later announcements.
	repeatFirst = time.Second
	repeatLimit = 32 * time.Second
)

// Announcements announces each version after its commit, in a loop of its own. So a
// broker that is down or unresponsive delays no publish. A failed announcement is
// retried while its version is the newest, and repeated a few times after it succeeds.
type Announcements struct {
	publisher *Publisher
	announcer Announcer
	pace      int // agents a second
	log       logrus.FieldLogger

	lost atomic.Pointer[error] // why the last announcement failed; nil if it did not
}

// NewAnnouncements returns the announcements of the versions of publisher. Each asks the
// fleet to spread its fetches over the time that pace takes, in agents a second.
func NewAnnouncements(publisher *Publisher, announcer Announcer, pace int, log logrus.FieldLogger) *Announcements {
	return &Announcements{publisher: publisher, announcer: announcer, pace: pace, log: log}
}

// Lost returns why the last announcement failed, or nil if it did not.
func (a *Announcements) Lost() error {
	if lost := a.lost.Load(); lost != nil {
		return *lost
	}
	return nil
}

// Run announces each version until ctx ends, and returns nil. It begins with the newest
// version, because a crash may have prevented its announcement.
func (a *Announcements) Run(ctx context.Context) error {
	var announced *models.Release
	var again <-chan time.Time // when to announce again; nil for never
	var repeat time.Duration   // the time from the next success to its repetition; 0 for none
	for {
		published := a.publisher.Changed() // before the plan is read, so that no change is missed
		if current := a.publisher.Plan().Newest; current != announced {
			again = nil
			if err := a.announce(ctx, current); err != nil {
				again, repeat = time.After(announceRetry+rand.N(announceRetry)), repeatFirst
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
		return err // the controller is stopping: not a failure of the broker
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = errSlowBroker
	}
	a.note(cfg.Version, err)
	return err
}

var errSlowBroker = errors.New("the broker did not answer within " + announceTimeout.String())

// note records the result of an announcement, and logs the first failure and the first
// success after it.
func (a *Announcements) note(version int64, err error) {
	var lost *error
	if err != nil {
		lost = &err
	}
	was := a.lost.Swap(lost)
	log := a.log.WithField("version", version)
	switch {
	case err != nil && was == nil:
		log.WithError(err).WithField("advice", "agents follow by polling; the announcement is retried").
			Warn("Announcements lost")
	case err != nil:
		log.WithError(err).Debug("Announcement failed")
	case was != nil:
		log.Info("Announcements back")
	default:
		log.Debug("Version announced")
	}
}
