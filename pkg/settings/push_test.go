package settings_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/pkg/settings"
)

func TestPush_Validate(t *testing.T) {
	for name, row := range map[string]struct {
		push settings.Push
		want []string // settings with a fault
	}{
		"a Redis server": {settings.Push{Transport: "redis", RedisURL: "redis://user:p%2Fw@host:6380/1"},
			nil},
		"a Redis server with TLS": {settings.Push{Transport: "redis", RedisURL: "rediss://host"}, nil},
		"Sentinels": {settings.Push{Transport: "redis",
			RedisURL: "redis://host:26379?master_name=m&addr=other:26379"}, nil},
		"another scheme for Redis": {settings.Push{Transport: "redis", RedisURL: "http://:hunter2@host"},
			[]string{"REDIS_URL"}},
		"a slash in a password": {settings.Push{Transport: "redis", RedisURL: "redis://:hunter2/x@host"},
			[]string{"REDIS_URL"}},
		"a number sign in one": {settings.Push{Transport: "redis", RedisURL: "redis://:hunter2#x@host"},
			[]string{"REDIS_URL"}},
		"two NATS servers": {settings.Push{Transport: "nats", NATSURL: "nats://a:4222, tls://u:p@b"}, nil},
		"an embedded NATS": {settings.Push{Transport: "nats", NATSURL: "embedded"}, nil},
		"no NATS server": {settings.Push{Transport: "nats", NATSURL: "nats://a,,http://hunter2@b"},
			[]string{"NATS_URL"}},
		"a NATS account": {settings.Push{Transport: "nats", NATSUsername: "u", NATSPassword: "hunter2"},
			nil},
		"a password without a name": {settings.Push{Transport: "nats", NATSPassword: "hunter2"},
			[]string{"NATS_USERNAME"}},
		"a token and an account": {settings.Push{Transport: "nats", NATSUsername: "u", NATSPassword: "hunter2",
			NATSToken: "hunter2"}, []string{"NATS_TOKEN"}},
		"a seed and credentials": {settings.Push{Transport: "nats", NATSNKeyFile: "a", NATSCredsFile: "b"},
			[]string{"NATS_CREDS_FILE"}},
		"a certificate, but no key":  {settings.Push{Transport: "nats", NATSCertFile: "a"}, []string{"NATS_KEY_FILE"}},
		"what another PUSH would be": {settings.Push{Transport: "redis", NATSToken: "a", NATSUsername: "b"}, nil},
		"another PUSH":               {settings.Push{Transport: "pigeon"}, []string{"PUSH"}},
	} {
		t.Run(name, func(t *testing.T) {
			if row.push.RedisURL == "" {
				row.push.RedisURL = "redis://localhost"
			}
			if row.push.NATSURL == "" {
				row.push.NATSURL = "nats://localhost"
			}
			faults := row.push.Validate()
			var got []string
			for _, f := range faults {
				got = append(got, f.Setting)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("settings with a fault (-want +got)\n%s", diff)
			}
			if strings.Contains(faults.Error(), "hunter2") {
				t.Errorf("a secret is in the fault: %v", faults)
			}
		})
	}
}
