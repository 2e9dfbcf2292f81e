package drivers_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/notify/drivers"
	"github.com/fleetconf/fleetconf/pkg/notify/natsnotify"
	"github.com/fleetconf/fleetconf/pkg/notify/redisnotify"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

func TestNew_EachPush_ItsDriver(t *testing.T) {
	for push, right := range map[string]func(drivers.Driver) bool{
		"longpoll": func(s drivers.Driver) bool { return s == nil },
		"none":     func(s drivers.Driver) bool { return s == nil },
		"redis":    func(s drivers.Driver) bool { _, ok := s.(*redisnotify.Driver); return ok },
		"nats":     func(s drivers.Driver) bool { _, ok := s.(*natsnotify.Driver); return ok },
	} {
		t.Run(push, func(t *testing.T) {
			t.Setenv("PUSH", push)
			var set settings.Push
			if err := settings.Read(&set, ""); err != nil {
				t.Fatal(err)
			}
			if s, err := drivers.New(set, "test"); err != nil || !right(s) {
				t.Errorf("got %T, %v", s, err)
			}
		})
	}
}

func TestNew_Unusable_NamesSetting(t *testing.T) {
	for name, row := range map[string]struct{ push, setting, value string }{
		"an option that Redis does not have": {"redis", "REDIS_URL", "redis://:hunter2@localhost/?colour=red"},
		"a seed that is not there":           {"nats", "NATS_NKEY_FILE", "/missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PUSH", row.push)
			t.Setenv(row.setting, row.value)
			var set settings.Push
			if err := settings.Read(&set, ""); err != nil {
				t.Fatal(err)
			}
			_, err := drivers.New(set, "test")
			var faults settings.Faults
			if !errors.As(err, &faults) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want a fault without the password", err)
			}
		})
	}
}
