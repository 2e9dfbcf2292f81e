package main

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/config"
	"github.com/fleetconf/fleetconf/pkg/server"
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
		Cert: certFile(set.Listener),
		Key:  tlsfiles.File{Setting: "TLS_KEY_FILE", Path: set.TLSKeyFile},
		CA:   tlsfiles.File{Setting: "TLS_CLIENT_CA_FILE", Path: set.TLSClientCAFile},
	}, log)
	return files, fault(err)
}

func certFile(l config.Listener) tlsfiles.File {
	return tlsfiles.File{Setting: "TLS_CERT_FILE", Path: l.TLSCertFile}
}

// fault names the setting of a file that cannot be used.
func fault(err error) error {
	if bad := (*tlsfiles.Error)(nil); errors.As(err, &bad) {
		return settings.Faults{{Setting: bad.Setting, Detail: bad.Err.Error()}}
	}
	return err
}

// health asks the controller that runs here whether it lives. It trusts nobody
// but who has the very certificate of TLS_CERT_FILE, whatever name and time that
// is for.
func health(ctx context.Context, l config.Listener) error {
	var secure *tls.Config
	if l.TLSCertFile != "" {
		var err error
		if secure, err = tlsfiles.Pin(certFile(l)); err != nil {
			return fault(err)
		}
	}
	return server.CheckHealth(ctx, l.Host, l.Port, secure)
}
