package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
	"github.com/fleetconf/fleetconf/pkg/logger"
	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// Start returns the logger of d, which writes to w. It logs the build and fields, and a warning
// for each environment variable that is probably a mistyped setting.
func (p Program) Start(
	w io.Writer, d settings.Diagnosis, into settings.Validator, fields logrus.Fields,
) (*logrus.Logger, error) {
	log, err := logger.New(w, d.LogLevel, d.LogFormat)
	if err != nil {
		return nil, err
	}
	log.WithField("program", p.Name).WithField("build", buildinfo.Read().String()).WithFields(fields).Info("Starting")
	for _, m := range settings.FindMistyped(into) {
		log.WithFields(logrus.Fields{"variable": m.Variable, "did_you_mean": m.Meant}).
			Warn("Environment variable not recognized")
	}
	return log, nil
}

// Listen opens the listener of a program. keepAlive is that of net.ListenConfig.
func Listen(ctx context.Context, host string, port int, keepAlive time.Duration) (net.Listener, error) {
	ln, err := (&net.ListenConfig{KeepAlive: keepAlive}).Listen(ctx, "tcp", Address(host, port))
	if err != nil {
		return nil, fmt.Errorf("%w; set HOST and PORT to an address that is free", err)
	}
	return ln, nil
}

// Address returns host and port as net.Listen takes them.
func Address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// OpenTLS is tlsfiles.Open, with a file that cannot be used as the Faults of its setting.
func OpenTLS(paths tlsfiles.Paths, log logrus.FieldLogger) (*tlsfiles.Files, error) {
	files, err := tlsfiles.Open(paths, log)
	if unusable := (*tlsfiles.Error)(nil); errors.As(err, &unusable) {
		return nil, settings.Faults{{Setting: unusable.Setting, Detail: unusable.Err.Error()}}
	}
	return files, err
}
