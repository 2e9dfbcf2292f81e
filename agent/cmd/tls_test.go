package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/agent/internal/config"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

func TestSecure_WarnsWhereThePasswordCanBeRead(t *testing.T) {
	for url, warned := range map[string]bool{
		"http://localhost:8080": false, "http://127.0.0.1": false, "http://[::1]:8080": false,
		"http://controller:8080": true, "HTTP://10.0.0.1": true, "https://controller": false,
	} {
		log, lines := test.NewNullLogger()
		if _, err := secure(config.Settings{ControllerURL: url}, log); err != nil {
			t.Fatal(err)
		}
		if got := lines.AllEntries(); (len(got) == 1) != warned || warned && !strings.Contains(got[0].Data["advice"].(string), "https://") {
			t.Errorf("%s: logged %v, want a warning: %v", url, got, warned)
		}
	}
}

func TestSecure_NamesTheSettingThatCannotBeUsed(t *testing.T) {
	log, _ := test.NewNullLogger()
	_, err := secure(config.Settings{ControllerURL: "https://controller", ControllerCAFile: "/missing"}, log)
	var faults settings.Faults
	if !errors.As(err, &faults) || faults[0].Setting != "CONTROLLER_CA_FILE" {
		t.Errorf("got %v, want a fault of CONTROLLER_CA_FILE", err)
	}
}
