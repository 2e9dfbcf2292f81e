package main

import (
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/config"
	"github.com/fleetconf/fleetconf/pkg/cli"
	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// secure opens the TLS files of the settings. It warns if other machines are served over plain
// HTTP.
func secure(set config.Settings, log logrus.FieldLogger) (*tlsfiles.Files, error) {
	if set.TLSCertFile == "" && !settings.IsLoopback(set.Host) {
		log.WithFields(logrus.Fields{
			"host":   set.Host,
			"advice": "set TLS_CERT_FILE and TLS_KEY_FILE, or let only a load balancer that terminates TLS reach HOST",
		}).Warn("Plain HTTP served to other machines; passwords can be intercepted")
	}
	return cli.OpenTLS(tlsfiles.Paths{
		Cert: tlsfiles.File{Setting: "TLS_CERT_FILE", Path: set.TLSCertFile},
		Key:  tlsfiles.File{Setting: "TLS_KEY_FILE", Path: set.TLSKeyFile},
		CA:   tlsfiles.File{Setting: "TLS_CLIENT_CA_FILE", Path: set.TLSClientCAFile},
	}, log)
}
