package config_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/worker/internal/config"
)

func TestSettings_Defaults(t *testing.T) {
	var s config.Settings
	if err := settings.Read(&s, ""); err != nil {
		t.Fatal(err)
	}
	denied := func(addr string) bool {
		for _, p := range s.DenyCIDRs {
			if p.Contains(netip.MustParseAddr(addr)) {
				return true
			}
		}
		return false
	}
	for _, addr := range []string{"169.254.169.254", "169.254.170.2", "fe80::1", "fd00:ec2::254", "100.100.100.200",
		"192.0.0.192", "168.63.129.16"} {
		if !denied(addr) {
			t.Errorf("%s: got allowed, want denied", addr)
		}
	}
	for _, addr := range []string{"127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd00::1", "93.184.215.14"} {
		if denied(addr) {
			t.Errorf("%s: got denied, want allowed", addr)
		}
	}
	s.DenyCIDRs = nil
	want := config.Settings{
		Listener: config.Listener{Host: "127.0.0.1", Port: 8082}, HitTimeout: 30 * time.Second,
		Diagnosis: settings.Diagnosis{LogLevel: "info", LogFormat: "auto"},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func TestSettings_BadValues(t *testing.T) {
	for _, tc := range []struct{ name, setting, value string }{
		{"port too high", "PORT", "65536"},
		{"port no number", "PORT", "abc"},
		{"host that is a URL", "HOST", "http://localhost"},
		{"token with a space", "WORKER_TOKEN", "a b"},
		{"token with a comma", "WORKER_TOKEN", "a,b"},
		{"token outside ASCII", "WORKER_TOKEN", "schlüssel"},
		{"token too long for a header", "WORKER_TOKEN", strings.Repeat("x", 1020)},
		{"timeout without a unit", "HIT_TIMEOUT", "30"},
		{"timeout of zero", "HIT_TIMEOUT", "0s"},
		{"negative timeout", "HIT_TIMEOUT", "-1s"},
		{"timeout of a day", "HIT_TIMEOUT", "24h"},
		{"no network", "DENY_CIDRS", "10.0.0.0/8,intranet"},
		{"a URL for a host", "ALLOW_HOSTS", "example.com,http://example.com/"},
		{"a host with a port", "ALLOW_HOSTS", "example.com:443"},
		{"a star in the middle", "ALLOW_HOSTS", "www.*.com"},
		{"a star alone", "ALLOW_HOSTS", "*"},
		{"level", "LOG_LEVEL", "loud"},
		{"format", "LOG_FORMAT", "xml"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv(tc.setting, tc.value)
			var faults settings.Faults
			err := settings.Read(new(config.Settings), "")
			if !errors.As(err, &faults) || len(faults) != 1 || faults[0].Setting != tc.setting {
				t.Errorf("got %v, want one fault of %s", err, tc.setting)
			}
		})
	}
}

func TestSettings_EveryFaultAtOnce(t *testing.T) {
	t.Setenv("PORT", "-1")
	t.Setenv("WORKER_TOKEN", "two words")
	t.Setenv("HIT_TIMEOUT", "2h")
	t.Setenv("LOG_LEVEL", "loud")
	var faults settings.Faults
	if err := settings.Read(new(config.Settings), ""); !errors.As(err, &faults) || len(faults) != 4 {
		t.Errorf("got %v, want four faults", err)
	}
	if strings.Contains(faults.Error(), "two words") {
		t.Error("the error contains the token")
	}
}

func TestSettings_AllowHosts(t *testing.T) {
	t.Setenv("ALLOW_HOSTS", " example.com, *.Example.org ,192.0.2.7,2001:db8::1,localhost,")
	var s config.Settings
	if err := settings.Read(&s, ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"example.com", "*.Example.org", "192.0.2.7", "2001:db8::1", "localhost"},
		s.AllowHosts); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSettings_EasyToken_OffLoopback(t *testing.T) {
	t.Setenv("WORKER_TOKEN", "short")
	if err := settings.Read(new(config.Settings), ""); err != nil {
		t.Errorf("on loopback: got %v", err)
	}
	t.Setenv("HOST", "0.0.0.0")
	var faults settings.Faults
	if err := settings.Read(new(config.Settings), ""); !errors.As(err, &faults) || faults[0].Setting != "WORKER_TOKEN" {
		t.Errorf("got %v, want a fault of WORKER_TOKEN", err)
	}
}
