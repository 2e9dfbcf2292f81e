package main

import (
	"context"
	"io"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/broker"
	"github.com/fleetconf/fleetconf/controller/internal/config"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/natsnotify"
	"github.com/fleetconf/fleetconf/pkg/notify/redisnotify"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

// announcer gives what the settings choose to announce versions with, and what
// is to be closed when nothing is announced any more: the broker, where it is
// this process's own. Brokers elsewhere need not be there.
func announcer(set config.Settings, log logrus.FieldLogger) (notify.Announcer, io.Closer, error) {
	switch {
	case set.Transport == settings.PushRedis:
		a, err := redisnotify.New(set.RedisURL.Reveal(), set.RedisCAFile)
		return used(a, a, "REDIS_URL", err)
	case set.Embedded():
		return embedded(set, log)
	case set.Transport == settings.PushNATS:
		a, err := natsnotify.New(natsOptions(set))
		return used(a, a, "NATS_URL", err)
	}
	return notify.Nop{}, notify.Nop{}, nil
}

// announcing counts what goes out over a broker, where there is one.
func announcing(
	set config.Settings, fleet string, a notify.Announcer, m *publish.Metrics, log logrus.FieldLogger,
) publish.Announcer {
	out := messages{Announcer: a, log: log}
	for _, subject := range []string{notify.SubjectOf(fleet), notify.Subject} {
		out.subjects = append(out.subjects, &target{name: subject})
	}
	if set.Transport == settings.PushRedis || set.Transport == settings.PushNATS {
		return m.Announcing(models.Transport(set.Transport), out)
	}
	return out
}

// messages gives the domain's announcements to a broker as messages, on each of the
// subjects: agents of builds before fleets had ids listen to notify.Subject.
type messages struct {
	notify.Announcer
	subjects []*target
	log      logrus.FieldLogger
}

// target is a subject that messages go to.
type target struct {
	name   string
	warned sync.Once // that the broker rejects it, but not the other
}

// Announce returns an error only if the broker took the message on no subject: an
// account may be allowed to use only one of them.
func (a messages) Announce(ctx context.Context, v models.Announcement) error {
	message, err := notify.Hint{Version: v.Version, ETag: v.ETag, SpreadMS: v.Spread.Milliseconds()}.Encode()
	if err != nil {
		return err
	}
	errs := make([]error, len(a.subjects))
	taken := false
	for i, subject := range a.subjects {
		errs[i] = a.Announcer.Announce(ctx, subject.name, message)
		taken = taken || errs[i] == nil
	}
	for i, subject := range a.subjects {
		switch {
		case errs[i] == nil:
		case !taken:
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

// used names the setting that a driver cannot use.
func used(a notify.Announcer, c io.Closer, setting string, err error) (notify.Announcer, io.Closer, error) {
	if err != nil {
		return nil, nil, settings.Faults{{Setting: setting, Detail: err.Error()}}
	}
	return a, c, nil
}

func natsOptions(set config.Settings) natsnotify.Options {
	return natsnotify.Options{
		URL:       set.NATSURL.Reveal(),
		Username:  set.NATSUsername,
		Password:  set.NATSPassword.Reveal(),
		Token:     set.NATSToken.Reveal(),
		NKeyFile:  set.NATSNKeyFile,
		CredsFile: set.NATSCredsFile,
		CAFile:    set.NATSCAFile,
		CertFile:  set.NATSCertFile,
		KeyFile:   set.NATSKeyFile,
		Name:      program.Name,
	}
}

// embedded starts the controller's own broker.
func embedded(set config.Settings, log logrus.FieldLogger) (notify.Announcer, io.Closer, error) {
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
	a, err := b.Announcer()
	if err != nil {
		_ = b.Close()
		return nil, nil, err
	}
	return a, b, nil
}
