// Package drivers opens the driver of the broker that the settings of a process name.
package drivers

import (
	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/natsnotify"
	"github.com/fleetconf/fleetconf/pkg/notify/redisnotify"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

// Driver announces and subscribes over one broker.
type Driver interface {
	notify.Announcer
	notify.Subscriber
}

// New returns the driver of set, nil if PUSH names no broker. program is the name under which a
// NATS server lists its client. The broker need not be reachable. The error is a
// settings.Faults.
func New(set settings.Push, program string) (Driver, error) {
	switch set.Transport {
	case settings.PushRedis:
		driver, err := redisnotify.New(set.RedisURL.Reveal(), set.RedisCAFile)
		return checked(driver, "REDIS_URL", err)
	case settings.PushNATS:
		driver, err := natsnotify.New(natsnotify.Options{
			URL:       set.NATSURL.Reveal(),
			Username:  set.NATSUsername,
			Password:  set.NATSPassword.Reveal(),
			Token:     set.NATSToken.Reveal(),
			NKeyFile:  set.NATSNKeyFile,
			CredsFile: set.NATSCredsFile,
			CAFile:    set.NATSCAFile,
			CertFile:  set.NATSCertFile,
			KeyFile:   set.NATSKeyFile,
			Name:      program,
		})
		return checked(driver, "NATS_URL", err)
	}
	return nil, nil
}

// checked returns driver, or err as the fault of a setting.
func checked(driver Driver, setting string, err error) (Driver, error) {
	if err != nil {
		return nil, settings.Faults{{Setting: setting, Detail: err.Error()}}
	}
	return driver, nil
}
