package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

var errFailed = errors.New("the connection failed")

// reasons are the errors of a connection, those that wrap others first.
var reasons = []struct {
	is      func(error) bool
	message error
}{
	{is(ErrTooLarge), ErrTooLarge},
	{tlsfiles.NamesNoHost, errors.New("the broker's certificate has no subject alternative name (SAN); its common name does not count")},
	{as[x509.HostnameError], errors.New("the broker's certificate is for another name")},
	{as[x509.UnknownAuthorityError], errors.New("the broker's certificate is signed by an unknown authority")},
	{as[*tls.CertificateVerificationError], errors.New("the broker's certificate is not valid")},
	{as[tls.RecordHeaderError], errors.New("the broker does not speak TLS")},
	{as[tls.AlertError], errors.New("the broker refuses TLS with this client")},
	{isTemporaryName, errors.New("the broker's name cannot be looked up")},
	{as[*net.DNSError], errors.New("the broker's name is not known")},
	{is(context.Canceled), context.Canceled},
	{is(context.DeadlineExceeded), context.DeadlineExceeded},
	{isTimeout, errors.New("no answer in time")},
	{is(syscall.ECONNREFUSED), errors.New("connection refused")},
	{is(io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE), errors.New("the connection was closed")},
}

// Reason words the error of a connection: the same words for the same failure,
// without the ports of this attempt, and without anything that the broker said,
// which may have repeated a password.
func Reason(err error) error {
	for _, r := range reasons {
		if r.is(err) {
			return r.message
		}
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return errFailed
}

func is(targets ...error) func(error) bool {
	return func(err error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
}

func as[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

func isTimeout(err error) bool {
	var target net.Error
	return errors.As(err, &target) && target.Timeout()
}

func isTemporaryName(err error) bool {
	var target *net.DNSError
	return errors.As(err, &target) && !target.IsNotFound
}
