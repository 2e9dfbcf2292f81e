package settings

import (
	"errors"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// OpenTLS is tlsfiles.Open, with a file that cannot be used as the Faults of its setting.
func OpenTLS(paths tlsfiles.Paths, log logrus.FieldLogger) (*tlsfiles.Files, error) {
	files, err := tlsfiles.Open(paths, log)
	if unusable := (*tlsfiles.Error)(nil); errors.As(err, &unusable) {
		return nil, Faults{{Setting: unusable.Setting, Detail: unusable.Err.Error()}}
	}
	return files, err
}
