package main

import (
	"context"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/broker"
	"github.com/fleetconf/fleetconf/controller/internal/config"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/drivers"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

// announcer returns the announcer that the settings select, and a function that stops the
// embedded broker, if there is one. External brokers need not be reachable.
func announcer(set config.Settings, log logrus.FieldLogger) (a notify.Announcer, stop func(), err error) {
	if set.Embedded() {
		return startEmbedded(set, log)
	}
	driver, err := drivers.New(set.Push, program.Name)
	if err != nil {
		return nil, nil, err
	}
	if driver == nil {
		return notify.Nop{}, func() {}, nil
	}
	return driver, func() {}, nil
}

// brokerOf returns the broker that versions are announced over, "" for none.
func brokerOf(set config.Settings) wire.Transport {
	if set.Transport == settings.PushRedis || set.Transport == settings.PushNATS {
		return wire.Transport(set.Transport)
	}
	return ""
}

// announcing returns an announcer to the subjects of a fleet. Announcements over a broker are
// counted in m.
func announcing(
	set config.Settings, fleet string, a notify.Announcer, m *publish.Metrics, log logrus.FieldLogger,
) publish.Announcer {
	out := messageAnnouncer{Announcer: a, log: log}
	for _, subject := range []string{notify.SubjectOf(fleet), notify.Subject} {
		out.subjects = append(out.subjects, &target{name: subject})
	}
	if broker := brokerOf(set); broker != "" {
		return m.Announcing(broker, out)
	}
	return out
}

// messageAnnouncer sends announcements as messages on several subjects. Agents of builds before
// fleet ids subscribe to notify.Subject.
type messageAnnouncer struct {
	notify.Announcer
	subjects []*target
	log      logrus.FieldLogger
}

// target is a subject that messages are sent on.
type target struct {
	name   string
	warned sync.Once // logs a rejection of this subject alone
}

// Announce returns an error only if the broker accepts the message on no subject, because an
// account may be allowed to use only one of them.
func (a messageAnnouncer) Announce(ctx context.Context, v models.Announcement) error {
	message, err := notify.Hint{Version: v.Version, ETag: v.ETag, SpreadMS: v.Spread.Milliseconds()}.Encode()
	if err != nil {
		return err
	}
	errs := make([]error, len(a.subjects))
	accepted := false
	for i, subject := range a.subjects {
		errs[i] = a.Announcer.Announce(ctx, subject.name, message)
		accepted = accepted || errs[i] == nil
	}
	for i, subject := range a.subjects {
		switch {
		case errs[i] == nil:
		case !accepted:
			return errs[i]
		default:
			subject.warned.Do(func() {
				a.log.WithField("subject", subject.name).WithError(errs[i]).
					Warn("Announcement rejected on one subject; logged once")
			})
		}
	}
	return nil
}

// startEmbedded starts the embedded broker. It returns its announcer, and a function that stops
// it.
func startEmbedded(set config.Settings, log logrus.FieldLogger) (a notify.Announcer, stop func(), err error) {
	routes, err := set.Routes()
	if err != nil {
		return nil, nil, err
	}
	b, err := broker.Start(broker.Options{
		Listen:          set.Listen,
		CertFile:        set.CertFile,
		KeyFile:         set.KeyFile,
		Username:        set.NATSUsername,
		Password:        set.NATSPassword.Reveal(),
		Token:           set.NATSToken.Reveal(),
		ClusterListen:   set.ClusterListen,
		Routes:          routes,
		ClusterUsername: set.ClusterUsername,
		ClusterPassword: set.ClusterPassword.Reveal(),
		Connections:     limits(set).Connections,
	}, log)
	if err != nil {
		return nil, nil, err
	}
	a, err = b.Announcer()
	if err != nil {
		_ = b.Close()
		return nil, nil, err
	}
	return a, func() { _ = b.Close() }, nil
}
