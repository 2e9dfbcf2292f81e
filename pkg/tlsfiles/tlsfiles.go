// Package tlsfiles reloads certificates, keys and authorities when their files change. A change
// applies from the next connection on. If changed files are unusable, it warns once and keeps
// the last good ones.
package tlsfiles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/atomicfile"
)

const (
	// Interval is the time between two checks of the files.
	Interval = 5 * time.Second
	// warnBefore is the time before the expiry of a certificate at which warnings begin, and
	// warnEvery the time between two of them.
	warnBefore = 7 * 24 * time.Hour
	warnEvery  = 24 * time.Hour
)

// File is a file and the setting that names it.
type File struct{ Setting, Path string }

// Paths are the files to read. Files with empty paths are not used; Cert and Key need each other.
type Paths struct {
	Cert File // the certificate and its chain, in PEM
	Key  File // its private key
	CA   File // the certificates of the trusted authorities
}

func (f File) read() ([]byte, error) {
	text, err := Read(f.Path)
	if err != nil {
		return nil, &Error{f.Setting, fmt.Errorf("cannot be used: %w", err)}
	}
	return text, nil
}

// Read returns the content of a regular file, without a byte order mark. The error names
// the file.
func Read(path string) ([]byte, error) {
	if err := atomicfile.CheckRegular(path); err != nil { // reading a named pipe would block
		return nil, err
	}
	text, err := os.ReadFile(path)
	return bytes.TrimPrefix(text, []byte("\ufeff")), err // it would hide the first certificate
}

// ReadPair reads a certificate, its chain and its private key.
func ReadPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := Read(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := Read(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// ReadAuthorities reads the certificates of trusted authorities.
func ReadAuthorities(path string) (*x509.CertPool, error) {
	text, err := Read(path)
	if err != nil {
		return nil, err
	}
	pool, err := poolOf(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	return pool, nil
}

// fault returns the error of a file that cannot be used.
func (f File) fault(why string, args ...any) error {
	return &Error{f.Setting, fmt.Errorf("names %s, which "+why, append([]any{f.Path}, args...)...)}
}

// Error is the error of a file that cannot be used.
type Error struct {
	Setting string // that names the file
	Err     error
}

func (e *Error) Error() string { return e.Setting + " " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Files are the files of one process and their last good content.
type Files struct {
	pair reloaded[tls.Certificate]
	ca   reloaded[x509.CertPool]
	log  logrus.FieldLogger

	warned time.Time // of the expiry; owned by Run
}

// Open reads the files. The error is an *Error. Open accepts an expired certificate, of which
// Run warns.
func Open(paths Paths, log logrus.FieldLogger) (*Files, error) {
	f := &Files{log: log}
	f.pair = reloaded[tls.Certificate]{files: withPath(paths.Cert, paths.Key), parse: parsePair}
	f.ca = reloaded[x509.CertPool]{files: withPath(paths.CA), parse: parseAuthorities}
	if _, err := f.pair.load(); err != nil {
		return nil, err
	}
	if _, err := f.ca.load(); err != nil {
		return nil, err
	}
	f.pair.check = checkValidity
	return f, nil
}

// withPath returns the files that have a path.
func withPath(files ...File) (set []File) {
	for _, f := range files {
		if f.Path != "" {
			set = append(set, f)
		}
	}
	return set
}

// Run reloads the files until ctx ends, and warns of a certificate that has expired or is about
// to.
func (f *Files) Run(ctx context.Context) error {
	if f.pair.files == nil && f.ca.files == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		f.warnOfExpiry()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if changed := reload(&f.pair, f.log); changed {
			f.warned = time.Time{}
			leaf := f.pair.current.Load().Leaf
			f.log.WithFields(logrus.Fields{"setting": f.pair.files[0].Setting, "subject": leaf.Subject.String(),
				"not_after": leaf.NotAfter}).Info("Certificate reloaded")
		}
		if changed := reload(&f.ca, f.log); changed {
			f.log.WithField("setting", f.ca.files[0].Setting).Info("Authorities reloaded")
		}
	}
}

// warnOfExpiry warns once a day of an expired or expiring certificate.
func (f *Files) warnOfExpiry() {
	end := f.NotAfter()
	if end.IsZero() || time.Until(end) > warnBefore || !f.warned.IsZero() && time.Since(f.warned) < warnEvery {
		return
	}
	f.warned = time.Now()
	log := f.log.WithFields(logrus.Fields{"setting": f.pair.files[0].Setting, "not_after": end})
	if time.Until(end) <= 0 {
		log.Warn("Certificate expired; replace it")
		return
	}
	log.Warn("Certificate about to expire; replace it")
}

// NotAfter returns when the certificate in use expires, or the zero time if there is none.
func (f *Files) NotAfter() time.Time {
	if c := f.pair.current.Load(); c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// Suites returns the cipher suites for TLS 1.2: those with authenticated encryption. Go's
// defaults include CBC suites. TLS 1.3 has none, and is not configurable.
func Suites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

// Server returns the configuration of a server with this certificate. With a CA, clients may
// send a certificate, and one that the CA did not sign is rejected.
//
// Sessions are not resumed: that would trust, for days, certificates that may have been removed
// from the files since.
func (f *Files) Server() *tls.Config {
	config := &tls.Config{
		MinVersion:             tls.VersionTLS12,
		CipherSuites:           Suites(),
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return f.pair.current.Load(),
				nil
		},
	}
	if f.ca.files == nil {
		return config
	}
	config.ClientAuth = tls.VerifyClientCertIfGiven
	base := config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		next := base.Clone()
		next.ClientCAs = f.ca.current.Load()
		return next, nil
	}
	return config
}

// Client returns the configuration of the next connection of a client. It trusts the CA, or
// else the authorities of the system, and sends the certificate, if there is one, to servers
// that request one. It does not send one that the server would reject: the handshake fails
// with an *Error, which gives a better reason than an alert.
func (f *Files) Client() *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: Suites(), RootCAs: f.ca.current.Load()}
	if f.pair.files != nil {
		config.GetClientCertificate = func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert := f.pair.current.Load()
			if err := checkValidity(f.pair.files, cert); err != nil {
				return nil, err
			}
			if err := asked.SupportsCertificate(cert); err != nil {
				return nil, f.pair.files[0].fault("holds a certificate that is not signed by an authority which the " +
					"server takes")
			}
			return cert, nil
		}
	}
	return config
}

// reloaded is the last good content of some files.
type reloaded[T any] struct {
	files []File
	parse func(files []File, contents [][]byte) (*T, error)
	check func(files []File, next *T) error // rejects a next that must not replace the content in use; may be nil

	current atomic.Pointer[T] // in use

	// Owned by the goroutine that reloads.
	sum    [sha256.Size]byte // of the files in use
	warned string            // the last error that was logged
}

// load reads the files, and reports whether their content is new.
func (w *reloaded[T]) load() (changed bool, err error) {
	if w.files == nil {
		return false, nil
	}
	contents, seen := make([][]byte, len(w.files)), sha256.New()
	for i, file := range w.files {
		if contents[i], err = file.read(); err != nil {
			return false, err
		}
		_, _ = fmt.Fprintf(seen, "%d ", len(contents[i]))
		_, _ = seen.Write(contents[i])
	}
	sum := [sha256.Size]byte(seen.Sum(nil))
	if sum == w.sum {
		return false, nil
	}
	next, err := w.parse(w.files, contents)
	if err == nil && w.check != nil {
		err = w.check(w.files, next)
	}
	if err != nil {
		return false, err
	}
	w.sum = sum
	w.current.Store(next)
	return true, nil
}

// reload loads, and warns once of each error.
func reload[T any](w *reloaded[T], log logrus.FieldLogger) (changed bool) {
	changed, err := w.load()
	if err == nil {
		w.warned = ""
		return changed
	}
	if w.warned != err.Error() {
		w.warned = err.Error()
		log.WithError(err).Warn("Changed TLS files cannot be used; the last good ones stay in use")
	}
	return false
}

// parsePair parses a certificate, its chain and its key.
func parsePair(files []File, contents [][]byte) (*tls.Certificate, error) {
	if _, err := certificates(contents[0]); err != nil {
		return nil, files[0].fault("%w", err)
	}
	cert, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, files[1].fault("holds no key that fits the certificate of %s: %w", files[0].Setting, err)
	}
	return &cert, nil
}

// checkValidity returns an error for a certificate that has expired or is not valid yet.
func checkValidity(files []File, next *tls.Certificate) error {
	now := time.Now()
	if now.Before(next.Leaf.NotBefore) || now.After(next.Leaf.NotAfter) {
		return files[0].fault("holds a certificate that is valid from %s to %s only",
			next.Leaf.NotBefore.Format(time.RFC3339), next.Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// parseAuthorities parses the certificates of trusted authorities.
func parseAuthorities(files []File, contents [][]byte) (*x509.CertPool, error) {
	pool, err := poolOf(contents[0])
	if err != nil {
		return nil, files[0].fault("%w", err)
	}
	return pool, nil
}

func poolOf(text []byte) (*x509.CertPool, error) {
	found, err := certificates(text)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, cert := range found {
		pool.AddCert(cert)
	}
	return pool, nil
}

// certificates parses all certificates in text. It rejects a file that is still being written.
func certificates(text []byte) (found []*x509.Certificate, err error) {
	block, rest := pem.Decode(text)
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue // bundles of certbot and others hold more
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		found = append(found, cert)
	}
	switch {
	case bytes.Contains(rest, []byte("-----BEGIN ")):
		return nil, errors.New("ends in the middle of a certificate, or is broken there")
	case len(found) == 0:
		return nil, errors.New("holds no certificate in PEM")
	}
	return found, nil
}

// NamesNoHost reports whether err rejects a certificate without a subject alternative name.
func NamesNoHost(err error) bool {
	var target x509.HostnameError
	if !errors.As(err, &target) || target.Certificate == nil {
		return false
	}
	return len(target.Certificate.DNSNames)+len(target.Certificate.IPAddresses) == 0
}
