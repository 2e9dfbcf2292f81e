package main

import (
	"github.com/fleetconf/fleetconf/agent/internal/config"
	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/natsnotify"
	"github.com/fleetconf/fleetconf/pkg/notify/redisnotify"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

// subscriber gives what the settings choose to hear of newer versions with, nil
// where the poll itself does: for longpoll and none. The broker need not be
// there.
func subscriber(set config.Settings) (notify.Subscriber, error) {
	switch set.Transport {
	case settings.PushRedis:
		s, err := redisnotify.New(set.RedisURL.Reveal(), set.RedisCAFile)
		return used(s, "REDIS_URL", err)
	case settings.PushNATS:
		s, err := natsnotify.New(natsOptions(set))
		return used(s, "NATS_URL", err)
	}
	return nil, nil
}

// transports are the values of PUSH.
var transports = map[string]models.Transport{
	settings.PushLongPoll: models.LongPoll, settings.PushRedis: models.Redis, settings.PushNATS: models.NATS,
	settings.PushNone: models.Polling,
}

// used names the setting that a driver cannot use.
func used(s notify.Subscriber, setting string, err error) (notify.Subscriber, error) {
	if err != nil {
		return nil, settings.Faults{{Setting: setting, Detail: err.Error()}}
	}
	return s, nil
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
