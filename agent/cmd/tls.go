package main

import (
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/config"
	"github.com/fleetconf/fleetconf/pkg/cli"
	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// secure reads the files of the connection to the controller, and warns if the controller
// is reached over plain HTTP.
func secure(s config.Settings, log logrus.FieldLogger) (*tlsfiles.Files, error) {
	if host := s.PlainHost(); host != "" && !settings.IsLoopback(host) {
		log.WithFields(logrus.Fields{
			"controller": s.ControllerURL,
			"advice":     "set CONTROLLER_URL to https://, and TLS_CERT_FILE of the controller",
		}).Warn("CONTROLLER_URL is http:// to another machine; the password can be read on the way")
	}
	return cli.OpenTLS(tlsfiles.Paths{
		Cert: tlsfiles.File{Setting: "CONTROLLER_CERT_FILE", Path: s.ControllerCertFile},
		Key:  tlsfiles.File{Setting: "CONTROLLER_KEY_FILE", Path: s.ControllerKeyFile},
		CA:   tlsfiles.File{Setting: "CONTROLLER_CA_FILE", Path: s.ControllerCAFile},
	}, log)
}
