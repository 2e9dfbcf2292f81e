package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/config"
	"github.com/fleetconf/fleetconf/pkg/certs"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

func TestSecure_PlainHTTPOffLoopback_Warns(t *testing.T) {
	dir := t.TempDir()
	authority, err := certs.NewAuthority("authority", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := authority.Write(
		certs.Leaf{Name: "controller", NotAfter: time.Now().Add(time.Hour)}, cert, key,
	); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		listener config.Listener
		warned   bool
	}{
		"loopback":            {config.Listener{Host: "127.0.0.1"}, false},
		"every interface":     {config.Listener{Host: "0.0.0.0"}, true},
		"with TLS":            {config.Listener{Host: "0.0.0.0", TLSCertFile: cert, TLSKeyFile: key}, false},
		"a host name":         {config.Listener{Host: "controller"}, true},
		"loopback of IPv6":    {config.Listener{Host: "::1"}, false},
		"loopback, with name": {config.Listener{Host: "localhost"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			log, lines := test.NewNullLogger()
			files, err := secure(config.Settings{Listener: row.listener}, log)
			if err != nil || files.NotAfter().IsZero() == (row.listener.TLSCertFile != "") {
				t.Fatalf("got %v, %v", files.NotAfter(), err)
			}
			if got := lines.AllEntries(); (len(got) == 1) != row.warned ||
				row.warned && !strings.Contains(got[0].Data["advice"].(string), "TLS_CERT_FILE") {
				t.Errorf("logged %v, want a warning: %v", got, row.warned)
			}
		})
	}
}

func TestSecure_BadFile_NamesItsSetting(t *testing.T) {
	log, _ := test.NewNullLogger()
	_, err := secure(config.Settings{Listener: config.Listener{TLSCertFile: "/missing", TLSKeyFile: "/missing"}}, log)
	var faults settings.Faults
	if !errors.As(err, &faults) || faults[0].Setting != "TLS_CERT_FILE" {
		t.Errorf("got %v, want a fault of TLS_CERT_FILE", err)
	}
}
