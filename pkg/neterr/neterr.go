// Package neterr describes errors of network connections. The same failure has the same
// text at each attempt: no port and no time of the attempt, and nothing that the peer
// sent, which may repeat a secret.
package neterr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// Peer is the other end of a connection.
type Peer struct {
	Name     string // as errors call it: "the worker at http://localhost:8082"
	CA, Cert string // the settings of the trusted authorities and of the client's certificate, "" for none
}

// Describe returns a sentence about p that says why a connection failed. It returns
// context.Canceled or context.DeadlineExceeded where err is one of them, and nil where err
// is not an error of a connection.
func (p Peer) Describe(err error) error {
	var (
		dns    *net.DNSError
		record tls.RecordHeaderError
		errno  syscall.Errno
	)
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("%s cannot be found: the DNS has no address for its name", p.Name)
	case errors.As(err, &dns):
		return fmt.Errorf("%s cannot be found: the DNS does not answer", p.Name)
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case IsTimeout(err):
		return fmt.Errorf("%s did not answer in time", p.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s cannot be reached: nothing listens there", p.Name)
	case errors.As(err, &record), err != nil &&
		strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s does not speak TLS", p.Name)
	}
	if failed := p.describeTLS(err); failed != nil {
		return failed
	}
	switch {
	case isClosed(err):
		return fmt.Errorf("%s cut the connection", p.Name)
	case errors.As(err, &errno):
		return fmt.Errorf("%s cannot be reached: %w", p.Name, errno)
	}
	return nil
}

// IsTimeout reports whether err means that the peer did not answer in time.
func IsTimeout(err error) bool {
	var (
		timeout interface{ Timeout() bool }
		dns     *net.DNSError
	)
	return !errors.As(err, &dns) && errors.As(err, &timeout) && timeout.Timeout()
}

func isClosed(err error) bool {
	for _, closed := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, closed) {
			return true
		}
	}
	return false
}

// describeTLS describes a failed handshake, and returns nil for other errors.
func (p Peer) describeTLS(err error) error {
	var (
		untrusted *tls.CertificateVerificationError
		hostname  x509.HostnameError
		authority x509.UnknownAuthorityError
		own       *tlsfiles.Error
		remote    *net.OpError
		alert     tls.AlertError
	)
	switch {
	case errors.As(err, &untrusted):
		return fmt.Errorf("%s is not trusted: %w", p.Name, p.describeCertificate(untrusted.Err))
	case errors.As(err, &hostname), errors.As(err, &authority):
		return fmt.Errorf("%s is not trusted: %w", p.Name, p.describeCertificate(err))
	case errors.As(err, &own):
		return fmt.Errorf("%s would not accept this client's certificate: %w", p.Name, own)
	case errors.As(err, &remote) && remote.Op == "remote error": // an alert, as crypto/tls names it
		return p.describeAlert(strings.TrimPrefix(remote.Err.Error(), "tls: "))
	case errors.As(err, &alert):
		return p.describeAlert(strings.TrimPrefix(alert.Error(), "tls: "))
	}
	return nil
}

func (p Peer) describeAlert(alert string) error {
	if strings.Contains(alert, "certificate") {
		return fmt.Errorf("%s does not accept this client's certificate%s: %s", p.Name, see(p.Cert), alert)
	}
	return fmt.Errorf("%s rejects TLS with this client: %s", p.Name, alert)
}

// describeCertificate says why the certificate of the peer is not trusted.
func (p Peer) describeCertificate(err error) error {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &authority):
		return fmt.Errorf("its certificate is signed by an authority that is not known here%s", see(p.CA))
	case tlsfiles.NamesNoHost(err):
		return errors.New("its certificate has no subject alternative name (SAN); its common name does not count")
	case errors.As(err, &hostname):
		return errors.New("its certificate is for another name")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return fmt.Errorf("its certificate is valid from %s to %s only",
			invalid.Cert.NotBefore.Format(time.RFC3339), invalid.Cert.NotAfter.Format(time.RFC3339))
	}
	return errors.New("its certificate is not valid")
}

// see points to a setting.
func see(setting string) string {
	if setting == "" {
		return ""
	}
	return " (see " + setting + ")"
}
