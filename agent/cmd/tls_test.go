package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/agent/internal/config"
	"github.com/fleetconf/fleetconf/pkg/certs"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

func TestSecure_PlainHTTP_Warns(t *testing.T) {
	for url, warned := range map[string]bool{
		"http://localhost:8080": false, "http://127.0.0.1": false, "http://[::1]:8080": false,
		"http://controller:8080": true, "HTTP://10.0.0.1": true, "https://controller": false,
	} {
		log, lines := test.NewNullLogger()
		if _, err := secure(config.Settings{ControllerURL: url}, log); err != nil {
			t.Fatal(err)
		}
		if got := lines.AllEntries(); (len(got) == 1) != warned ||
			warned && !strings.Contains(got[0].Data["advice"].(string), "https://") {
			t.Errorf("%s: logged %v, want a warning: %v", url, got, warned)
		}
	}
}

func TestSecure_BadFile_NamesItsSetting(t *testing.T) {
	log, _ := test.NewNullLogger()
	_, err := secure(config.Settings{ControllerURL: "https://controller", ControllerCAFile: "/missing"}, log)
	var faults settings.Faults
	if !errors.As(err, &faults) || faults[0].Setting != "CONTROLLER_CA_FILE" {
		t.Errorf("got %v, want a fault of CONTROLLER_CA_FILE", err)
	}
}

func TestRun_ClientCertificate_ExpiryMeasured(t *testing.T) {
	authority, err := certs.NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := authority.Write(
		certs.Leaf{Name: "agent", Client: true, NotAfter: time.Unix(4_000_000_000, 0)}, cert, key,
	); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"PORT": "0", "CONTROLLER_URL": "https://127.0.0.1:1", "WORKER_URL": "http://127.0.0.1:1",
		"CACHE_FILE":           filepath.Join(dir, "cache"),
		"CONTROLLER_CERT_FILE": cert, "CONTROLLER_KEY_FILE": key,
	} {
		t.Setenv(name, value)
	}
	ctx, stop := context.WithCancel(t.Context())
	log, ended := &lines{}, make(chan error)
	go func() { ended <- run(ctx, nil, io.Discard, log) }() // ends with stop
	const want = "fleetconf_agent_tls_certificate_not_after_timestamp_seconds 4e+09\n"
	if got := read(t, "http://"+log.addr(t)+"/metrics"); !strings.Contains(got, want) {
		t.Errorf("/metrics lacks %s", want)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}
