package main

import (
	"errors"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/config"
	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// secure reads the files of TLS, which may be none, and warns where others could
// read what passes.
func secure(set config.Settings, log logrus.FieldLogger) (*tlsfiles.Files, error) {
	if set.TLSCertFile == "" && !settings.IsLoopback(set.Host) {
		log.WithFields(logrus.Fields{
			"host":   set.Host,
			"advice": "set TLS_CERT_FILE and TLS_KEY_FILE; or let nothing reach HOST but a load balancer that ends TLS in front of it",
		}).Warn("Serving other machines without TLS; passwords can be read on the way")
	}
	files, err := tlsfiles.Open(tlsfiles.Paths{
		Cert: tlsfiles.File{Setting: "TLS_CERT_FILE", Path: set.TLSCertFile},
		Key:  tlsfiles.File{Setting: "TLS_KEY_FILE", Path: set.TLSKeyFile},
		CA:   tlsfiles.File{Setting: "TLS_CLIENT_CA_FILE", Path: set.TLSClientCAFile},
	}, log)
	if bad := (*tlsfiles.Error)(nil); errors.As(err, &bad) {
		return nil, settings.Faults{{Setting: bad.Setting, Detail: bad.Err.Error()}}
	}
	return files, err
}
