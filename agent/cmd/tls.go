package main

import (
	"errors"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/config"
	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// secure reads the files by which the controller and the agent know each other,
// which may be none, and warns where the way to the controller is an open book.
func secure(s config.Settings, log logrus.FieldLogger) (*tlsfiles.Files, error) {
	if host := s.PlainHost(); host != "" && !settings.IsLoopback(host) {
		log.WithFields(logrus.Fields{
			"controller": s.ControllerURL,
			"advice":     "set CONTROLLER_URL to https://, and TLS_CERT_FILE of the controller",
		}).
			Warn("CONTROLLER_URL is http:// to another machine; the password can be read on the way")
	}
	files, err := tlsfiles.Open(tlsfiles.Paths{
		Cert: tlsfiles.File{Setting: "CONTROLLER_CERT_FILE", Path: s.ControllerCertFile},
		Key:  tlsfiles.File{Setting: "CONTROLLER_KEY_FILE", Path: s.ControllerKeyFile},
		CA:   tlsfiles.File{Setting: "CONTROLLER_CA_FILE", Path: s.ControllerCAFile},
	}, log)
	if bad := (*tlsfiles.Error)(nil); errors.As(err, &bad) {
		return nil, settings.Faults{{Setting: bad.Setting, Detail: bad.Err.Error()}}
	}
	return files, err
}
