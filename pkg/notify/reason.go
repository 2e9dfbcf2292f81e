package notify

import (
	"errors"

	"github.com/fleetconf/fleetconf/pkg/neterr"
)

var errFailed = errors.New("the connection failed")

// Reason describes the error of a connection to a broker, as neterr.Peer.Describe does. It
// never repeats anything that the broker sent, which may include a password.
func Reason(err error) error {
	if errors.Is(err, ErrTooLarge) {
		return ErrTooLarge
	}
	if reason := (neterr.Peer{Name: "the broker"}).Describe(err); reason != nil {
		return reason
	}
	return errFailed
}
