package config_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/controller/internal/config"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

func read(t *testing.T, environment map[string]string) (config.Settings, error) {
	t.Helper()
	for name, value := range environment {
		t.Setenv(name, value)
	}
	var s config.Settings
	return s, settings.Read(&s, "")
}

func TestSettings_Unset_HaveDocumentedDefaults(t *testing.T) {
	var s config.Settings
	if err := settings.Read(&s, ""); err != nil {
		t.Fatal(err)
	}
	want := config.Settings{
		Listener: config.Listener{Host: "127.0.0.1", Port: 8080}, Store: config.Store{DBPath: "./controller.db"},
		AgentUsername: "agent", AgentPassword: "secret123", AdminUsername: "admin", AdminPassword: "admin123",
		DefaultPollInterval: 30, Diagnosis: settings.Diagnosis{LogLevel: "info", LogFormat: "auto"},
		LimitRegister: 500, LimitConfig: 50_000, LimitStatus: 20_000, LimitAdmin: 100, LimitWaiting: 100_000,
		Push: settings.Push{
			Transport: "longpoll", RedisURL: "redis://localhost:6379", NATSURL: "nats://localhost:4222",
		},
		Broker:   config.Broker{Listen: "127.0.0.1:4222"},
		PushRate: 40000, SweepInterval: 5 * time.Minute, InactiveAfter: 168 * time.Hour,
		PruneAfter: 90 * 24 * time.Hour, MaxAgents: 1_000_000,
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSettings_Faults_AllReported(t *testing.T) {
	for name, row := range map[string]struct {
		environment map[string]string
		want        []string
	}{
		"values out of bounds": {
			map[string]string{
				"PORT": "70000", "DEFAULT_POLL_INTERVAL": "0", "INITIAL_URL": "ftp://x/", "LOG_LEVEL": "loud",
				"LOG_FORMAT": "xml", "INACTIVE_AFTER": "1s", "PRUNE_AFTER": "-1h", "MAX_AGENTS": "0",
			},
			[]string{
				"PORT", "DEFAULT_POLL_INTERVAL", "INACTIVE_AFTER", "MAX_AGENTS", "PRUNE_AFTER", "INITIAL_URL",
				"LOG_LEVEL", "LOG_FORMAT",
			},
		},
		"an invalid proxy address": {
			map[string]string{"TRUSTED_PROXIES": "192.0.2.1, proxy.example.com"}, []string{"TRUSTED_PROXIES"},
		},
		"limits out of bounds": {
			map[string]string{
				"LIMIT_REGISTER": "0", "LIMIT_CONFIG": "-1", "LIMIT_STATUS": "1000001", "LIMIT_ADMIN": "0",
			},
			[]string{"LIMIT_REGISTER", "LIMIT_CONFIG", "LIMIT_STATUS", "LIMIT_ADMIN"},
		},
		"values of another type": {
			map[string]string{"PORT": "abc", "DEFAULT_POLL_INTERVAL": "30s"},
			[]string{"PORT", "DEFAULT_POLL_INTERVAL"},
		},
		"passwords that are easy to guess": {
			map[string]string{"HOST": "0.0.0.0", "AGENT_PASSWORD": "short", "ADMIN_PASSWORD": "changeme-changeme"},
			[]string{"AGENT_PASSWORD", "ADMIN_PASSWORD"},
		},
		"a password made of the other account's name": {
			map[string]string{
				"HOST": "0.0.0.0", "AGENT_USERNAME": "wolverine", "AGENT_PASSWORD": "my own password",
				"ADMIN_PASSWORD": "wolverine-123",
			}, []string{"ADMIN_PASSWORD"},
		},
		"one password for both": {
			map[string]string{
				"HOST": "0.0.0.0", "AGENT_PASSWORD": "my own password", "ADMIN_PASSWORD": "my own password",
			}, []string{"ADMIN_PASSWORD"},
		},
		"easy passwords of the embedded NATS": {
			map[string]string{
				"PUSH": "nats", "NATS_URL": "embedded", "NATS_LISTEN": "0.0.0.0:4222", "NATS_USERNAME": "fleet",
				"NATS_PASSWORD":       "short",
				"NATS_CLUSTER_LISTEN": "0.0.0.0:6222", "NATS_CLUSTER_USERNAME": "cluster",
				"NATS_CLUSTER_PASSWORD": "password-cluster",
			}, []string{"NATS_PASSWORD", "NATS_CLUSTER_PASSWORD"},
		},
		"an easy token of the embedded NATS": {
			map[string]string{
				"PUSH": "nats", "NATS_URL": "embedded", "NATS_LISTEN": "0.0.0.0:4222", "NATS_TOKEN": "token",
			}, []string{"NATS_TOKEN"},
		},
		"default passwords on a public address": {
			map[string]string{"HOST": "0.0.0.0"}, []string{"AGENT_PASSWORD", "ADMIN_PASSWORD"},
		},
		"default passwords, swapped": {
			map[string]string{"HOST": "0.0.0.0", "AGENT_PASSWORD": "admin123", "ADMIN_PASSWORD": "secret123"},
			[]string{"AGENT_PASSWORD", "ADMIN_PASSWORD"},
		},
		"names and passwords that HTTP cannot carry": {
			map[string]string{"AGENT_USERNAME": "a:b", "ADMIN_PASSWORD": strings.Repeat("x", 1000)},
			[]string{"AGENT_USERNAME", "ADMIN_PASSWORD"},
		},
		"accounts with the same name": {
			map[string]string{"ADMIN_USERNAME": "agent"}, []string{"ADMIN_USERNAME"},
		},
		"a rate and an interval out of bounds": {
			map[string]string{"PUSH_RATE": "0", "SWEEP_INTERVAL": "1500ms"}, []string{"PUSH_RATE", "SWEEP_INTERVAL"},
		},
		"unparsable brokers, whatever PUSH is": {
			map[string]string{
				"REDIS_URL": "redis://:admin123@[", "NATS_URL": "http://a", "NATS_LISTEN": "4222",
				"NATS_CLUSTER_LISTEN": "a:b:c", "NATS_CLUSTER_ROUTES": "nats-route://u:admin123@host",
			},
			[]string{"REDIS_URL", "NATS_URL", "NATS_LISTEN", "NATS_CLUSTER_LISTEN", "NATS_CLUSTER_ROUTES"},
		},
		"an embedded broker on a public address without a password": {
			map[string]string{
				"PUSH": "nats", "NATS_URL": "embedded", "NATS_LISTEN": "0.0.0.0:4222",
				"NATS_CLUSTER_LISTEN": "[::]:6222",
			}, []string{"NATS_LISTEN", "NATS_CLUSTER_LISTEN"},
		},
		"incomplete pairs of an embedded broker": {
			map[string]string{
				"PUSH": "nats", "NATS_URL": "embedded", "NATS_USERNAME": "fleet", "NATS_TLS_KEY_FILE": "key",
				"NATS_CLUSTER_PASSWORD": "secret123", "NATS_CLUSTER_ROUTES": "host:6222",
			},
			[]string{"NATS_PASSWORD", "NATS_TLS_CERT_FILE", "NATS_CLUSTER_USERNAME", "NATS_CLUSTER_LISTEN"},
		},
		"an incomplete TLS pair": {
			map[string]string{"TLS_KEY_FILE": "key"}, []string{"TLS_CERT_FILE"},
		},
		"client certificates without TLS": {
			map[string]string{"TLS_CLIENT_CA_FILE": "ca"}, []string{"TLS_CLIENT_CA_FILE"},
		},
		"credentials that an embedded broker does not support": {
			map[string]string{"PUSH": "nats", "NATS_URL": "embedded", "NATS_NKEY_FILE": "seed"}, []string{"NATS_URL"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(t, row.environment)
			var faults settings.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("got %v, want Faults", err)
			}
			got := make([]string, 0, len(faults))
			for _, f := range faults {
				got = append(got, f.Setting)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("faults, -want +got:\n%s\n%v", diff, err)
			}
			if strings.Contains(err.Error(), "admin123") || strings.Contains(err.Error(), "secret123") {
				t.Errorf("a password is in the error: %v", err)
			}
		})
	}
}

func TestSettings_OwnPasswords_AcceptedOnAnyHost(t *testing.T) {
	if _, err := read(t, map[string]string{
		"HOST": "0.0.0.0", "AGENT_PASSWORD": "my own password", "ADMIN_PASSWORD": "another of my own",
	}); err != nil {
		t.Error(err)
	}
}

func TestSettings_BrokerWithOwnPasswords_AcceptedOnAnyHost(t *testing.T) {
	s, err := read(t, map[string]string{
		"PUSH": "nats", "NATS_URL": "embedded", "NATS_LISTEN": "0.0.0.0:4222", "NATS_TOKEN": "a token of my own",
		"NATS_CLUSTER_LISTEN": "0.0.0.0:6222", "NATS_CLUSTER_USERNAME": "cluster",
		"NATS_CLUSTER_PASSWORD": "another of my own",
		"NATS_CLUSTER_ROUTES":   "ctl-2:6222, nats-route://cluster:another@ctl-3:6222",
	})
	if err != nil {
		t.Fatal(err)
	}
	routes, err := s.Routes()
	if err != nil || len(routes) != 2 || routes[0].Host != "ctl-2:6222" || routes[1].User.Username() != "cluster" {
		t.Errorf("Routes() = %v, %v", routes, err)
	}
}

func TestSettings_BrokerNotNamedByPush_NotValidated(t *testing.T) {
	if _, err := read(t, map[string]string{
		"NATS_URL": "embedded", "NATS_LISTEN": "0.0.0.0:4222", "NATS_TOKEN": "a", "NATS_USERNAME": "b",
	}); err != nil {
		t.Error(err)
	}
}

func TestSettings_TLSFiles_Accepted(t *testing.T) {
	if _, err := read(
		t, map[string]string{"TLS_CERT_FILE": "cert", "TLS_KEY_FILE": "key", "TLS_CLIENT_CA_FILE": "ca"},
	); err != nil {
		t.Error(err)
	}
}

func TestTrustedProxies_AddressesAndNetworks_Parsed(t *testing.T) {
	s, err := read(t, map[string]string{"TRUSTED_PROXIES": "192.0.2.1, 10.0.0.0/8,2001:db8::1"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(s.TrustedProxies), "[192.0.2.1/32 10.0.0.0/8 2001:db8::1/128]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
