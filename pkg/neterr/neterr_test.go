package neterr_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/pkg/neterr"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// op wraps err as the net package does, with a port that differs at each attempt.
func op(name string, err error) error {
	return &net.OpError{Op: name, Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 54321}, Err: err}
}

func TestPeer_Describe(t *testing.T) {
	peer := neterr.Peer{Name: "the peer", CA: "CA_FILE", Cert: "CERT_FILE"}
	verification := func(err error) error { return op("read", &tls.CertificateVerificationError{Err: err}) }
	expired := &x509.Certificate{NotBefore: time.Unix(0, 0).UTC(), NotAfter: time.Unix(1, 0).UTC()}
	for _, row := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("dial: %w", context.Canceled), "context canceled"},
		{fmt.Errorf("dial: %w", context.DeadlineExceeded), "context deadline exceeded"},
		{op("dial", &net.DNSError{Name: "host", IsNotFound: true}),
			"the peer cannot be found: the DNS has no address for its name"},
		{op("dial", &net.DNSError{Name: "host", IsTemporary: true}),
			"the peer cannot be found: the DNS does not answer"},
		{op("dial", &net.DNSError{Name: "host", IsTimeout: true}), "the peer cannot be found: the DNS does not answer"},
		{op("dial", os.NewSyscallError("connect", syscall.ECONNREFUSED)),
			"the peer cannot be reached: nothing listens there"},
		{op("dial", os.NewSyscallError("connect", syscall.ENETUNREACH)),
			"the peer cannot be reached: network is unreachable"},
		{op("read", os.ErrDeadlineExceeded), "the peer did not answer in time"},
		{op("read", syscall.ECONNRESET), "the peer cut the connection"},
		{op("write", syscall.EPIPE), "the peer cut the connection"},
		{fmt.Errorf("read: %w", io.EOF), "the peer cut the connection"},
		{io.ErrUnexpectedEOF, "the peer cut the connection"},
		{op("read", net.ErrClosed), "the peer cut the connection"},
		{tls.RecordHeaderError{}, "the peer does not speak TLS"},
		{errors.New("http: server gave HTTP response to HTTPS client"), "the peer does not speak TLS"},
		{verification(x509.UnknownAuthorityError{}),
			"the peer is not trusted: its certificate is signed by an authority that is not known here (see CA_FILE)"},
		{x509.UnknownAuthorityError{}, "the peer is not trusted: its certificate is signed by an authority that is " +
			"not known here (see CA_FILE)"},
		{verification(x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"elsewhere"}}}),
			"the peer is not trusted: its certificate is for another name"},
		{x509.HostnameError{Certificate: &x509.Certificate{}},
			"the peer is not trusted: its certificate has no subject alternative name (SAN); its common name does " +
				"not count"},
		{verification(x509.CertificateInvalidError{Reason: x509.Expired, Cert: expired}),
			"the peer is not trusted: its certificate is valid from 1970-01-01T00:00:00Z to 1970-01-01T00:00:01Z only"},
		{verification(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}),
			"the peer is not trusted: its certificate is not valid"},
		{op("remote error", tls.AlertError(116)),
			"the peer does not accept this client's certificate (see CERT_FILE): certificate required"},
		{tls.AlertError(70), "the peer rejects TLS with this client: protocol version not supported"},
		{&tlsfiles.Error{Setting: "CERT_FILE", Err: errors.New("has expired")},
			"the peer would not accept this client's certificate: CERT_FILE has expired"},
	} {
		got := peer.Describe(row.err)
		if got == nil || got.Error() != row.want {
			t.Errorf("Describe(%v) = %v, want %q", row.err, got, row.want)
		}
		if got != nil && strings.Contains(got.Error(), "54321") {
			t.Errorf("Describe(%v) = %v, which has the port of this attempt", row.err, got)
		}
	}
}

func TestPeer_Describe_OtherErrors_Nil(t *testing.T) {
	for _, err := range []error{nil, errors.New("AUTH hunter2")} {
		if got := (neterr.Peer{Name: "the peer"}).Describe(err); got != nil {
			t.Errorf("Describe(%v) = %v, want nil", err, got)
		}
	}
}

func TestPeer_Describe_NoSettings_NamesNone(t *testing.T) {
	peer := neterr.Peer{Name: "the peer"}
	for _, err := range []error{x509.UnknownAuthorityError{}, tls.AlertError(116)} {
		if got := peer.Describe(err); strings.Contains(got.Error(), "see") {
			t.Errorf("got %v, want no setting named", got)
		}
	}
}

func TestIsTimeout(t *testing.T) {
	for _, row := range []struct {
		err  error
		want bool
	}{
		{op("read", os.ErrDeadlineExceeded), true},
		{context.DeadlineExceeded, true},
		{op("dial", &net.DNSError{IsTimeout: true}), false},
		{io.EOF, false},
		{nil, false},
	} {
		if got := neterr.IsTimeout(row.err); got != row.want {
			t.Errorf("IsTimeout(%v) = %t, want %t", row.err, got, row.want)
		}
	}
}
