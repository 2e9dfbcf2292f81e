package config

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/settings"
)

func parse(t *testing.T, environment map[string]string) (Settings, error) {
	t.Helper()
	for name, value := range environment {
		t.Setenv(name, value)
	}
	var s Settings
	return s, settings.Read(&s, "")
}

func TestSettings_Defaults_Valid(t *testing.T) {
	var got Settings
	if err := settings.Read(&got, ""); err != nil {
		t.Fatal(err)
	}
	want := Settings{
		Listener: Listener{Host: "127.0.0.1", Port: 8081}, ControllerURL: "http://localhost:8080",
		ControllerUsername: "agent", ControllerPassword: "secret123",
		WorkerURL: "http://localhost:8082", CacheFile: "./agent_config.cache",
		Diagnosis: settings.Diagnosis{LogLevel: "info", LogFormat: "auto"},
		Push: settings.Push{
			Transport: "longpoll", RedisURL: "redis://localhost:6379", NATSURL: "nats://localhost:4222",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSettings_ManyFaults_AllNamed(t *testing.T) {
	_, err := parse(t, map[string]string{
		"HOST": "0.0.0.0", "PORT": "70000", "CONTROLLER_URL": "ftp://x", "CONTROLLER_USERNAME": " ",
		"WORKER_URL": "http://u:p@w",
		"CACHE_FILE": " ", "WORKER_TOKEN": "a\nb", "ALLOWED_HOSTS": "agent:8081", "LOG_LEVEL": "loud",
		"LOG_FORMAT": "xml",
	})
	var faults settings.Faults
	if !errors.As(err, &faults) {
		t.Fatalf("got %v, want faults", err)
	}
	for _, name := range []string{
		"PORT", "CONTROLLER_URL", "CONTROLLER_USERNAME", "CONTROLLER_PASSWORD is a default", "WORKER_URL",
		"WORKER_TOKEN", "ALLOWED_HOSTS", "CACHE_FILE", "LOG_LEVEL", "LOG_FORMAT",
	} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %s:\n%v", name, err)
		}
	}
}

func TestSettings_OwnPassword_MayListenAnywhere(t *testing.T) {
	if _, err := parse(t, map[string]string{"HOST": "0.0.0.0", "CONTROLLER_PASSWORD": "my own password"}); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestSettings_NATSEmbedded_Refused(t *testing.T) {
	_, err := parse(t, map[string]string{"PUSH": "nats", "NATS_URL": "embedded"})
	if err == nil || !strings.Contains(err.Error(), "NATS_URL is embedded, which is for controllers") {
		t.Errorf("got %v, want a fault that says so", err)
	}
}

func TestSettings_TLSFilesWithoutTLS_Refused(t *testing.T) {
	all := map[string]string{
		"CONTROLLER_URL": "https://controller", "CONTROLLER_CA_FILE": "ca", "CONTROLLER_CERT_FILE": "cert",
		"CONTROLLER_KEY_FILE": "key",
	}
	for name, row := range map[string]struct {
		change map[string]string
		want   []string
	}{
		"all of them":  {nil, nil},
		"the CA alone": {map[string]string{"CONTROLLER_CERT_FILE": "", "CONTROLLER_KEY_FILE": ""}, nil},
		"no key":       {map[string]string{"CONTROLLER_KEY_FILE": ""}, []string{"CONTROLLER_KEY_FILE is empty"}},
		"no certificate": {
			map[string]string{"CONTROLLER_CERT_FILE": ""}, []string{"CONTROLLER_CERT_FILE is empty"},
		},
		"without TLS": {
			map[string]string{"CONTROLLER_URL": "http://controller"},
			[]string{"CONTROLLER_CA_FILE requires", "CONTROLLER_CERT_FILE requires"},
		},
		"HTTP in capitals": {
			map[string]string{"CONTROLLER_URL": "HTTP://controller"},
			[]string{"CONTROLLER_CA_FILE requires", "CONTROLLER_CERT_FILE requires"},
		},
		"without TLS, a key": {map[string]string{
			"CONTROLLER_URL": "http://controller", "CONTROLLER_CA_FILE": "", "CONTROLLER_CERT_FILE": "",
		}, []string{"CONTROLLER_CERT_FILE is empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			set := maps.Clone(all)
			maps.Copy(set, row.change)
			_, err := parse(t, set)
			var faults settings.Faults
			if (err != nil) != (row.want != nil) ||
				err != nil && (!errors.As(err, &faults) || len(faults) != len(row.want)) {
				t.Fatalf("got %v, want %q", err, row.want)
			}
			for _, words := range row.want {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("got %v, want %q", err, words)
				}
			}
		})
	}
}
