// Package tlsfiles has TLS follow the files of certificates and keys: what is
// changed there holds from the next connection on, and the connections that are
// open stay. What cannot be used is told once, and what was in use before stays
// until it can be.
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
	// Interval is how often the files are looked at.
	Interval = 5 * time.Second
	// warnBefore is how long before its end a certificate is warned of, and
	// warnEvery how often.
	warnBefore = 7 * 24 * time.Hour
	warnEvery  = 24 * time.Hour
)

// File is a file, by the setting that names it.
type File struct{ Setting, Path string }

// Paths say where to read from. Files without a path are not there: a pair is
// there as a whole or not at all.
type Paths struct {
	Cert File // the certificate, and those between it and its authority, in PEM
	Key  File // its private key
	CA   File // the certificates of the authorities to trust
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
	if err := atomicfile.CheckRegular(path); err != nil { // to read a pipe would wait for a writer, each time
		return nil, err
	}
	text, err := os.ReadFile(path)
	return bytes.TrimPrefix(text, []byte("\ufeff")), err // the mark would hide the first certificate
}

// ReadPair reads a certificate, with its chain, and its private key once.
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

// ReadAuthorities reads the certificates to trust once.
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

// fault is the error of a file that cannot be used.
func (f File) fault(why string, args ...any) error {
	return &Error{f.Setting, fmt.Errorf("names %s, which "+why, append([]any{f.Path}, args...)...)}
}

// Error is the error of a file that cannot be used.
type Error struct {
	Setting string // that names it
	Err     error
}

func (e *Error) Error() string { return e.Setting + " " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Files are the files of one process, and what was in them when they could be
// used last.
type Files struct {
	pair reloaded[tls.Certificate]
	ca   reloaded[x509.CertPool]
	log  logrus.FieldLogger

	warned time.Time // of the end of the certificate; only Run has it
}

// Open reads the files. The error is an *Error. A certificate that has expired
// can be used, and Run warns of it.
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

// Run follows the files until ctx ends, and warns of a certificate that has
// expired, or is about to.
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

// warnOfExpiry warns once a day of a certificate that ends.
func (f *Files) warnOfExpiry() {
	end := f.NotAfter()
	if end.IsZero() || time.Until(end) > warnBefore || !f.warned.IsZero() && time.Since(f.warned) < warnEvery {
		return
	}
	f.warned = time.Now()
	log := f.log.WithFields(logrus.Fields{"setting": f.pair.files[0].Setting, "not_after": end})
	if time.Until(end) <= 0 {
		log.Warn("Certificate has expired; put a new one in its place")
		return
	}
	log.Warn("Certificate is about to expire; put a new one in its place")
}

// NotAfter is when the certificate in use ends, zero where there is none.
func (f *Files) NotAfter() time.Time {
	if c := f.pair.current.Load(); c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// Suites are the cipher suites for TLS 1.2: those with authenticated encryption. Go
// offers CBC suites too. TLS 1.3 has none, and takes no settings.
func Suites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

// Server is the configuration of a server with this certificate. Where there is a
// CA, clients may show a certificate, and one that it did not sign is refused.
//
// No session is resumed: that would be to trust, for days, what may have been
// taken out of the files since.
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

// Client is the configuration of the next connection of a client. It trusts the
// CA, or the system's where there is none, and shows the certificate, where there
// is one, to servers that ask. One that the server would refuse is not shown: the
// handshake fails with an *Error, which says why, as an alert might not.
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

// reloaded is what was read from some files, nil for no files.
type reloaded[T any] struct {
	files []File
	parse func(files []File, contents [][]byte) (*T, error)
	check func(files []File, next *T) error // whether next is to replace what is in use; nil: it is

	current atomic.Pointer[T] // in use

	// Of the goroutine that looks.
	sum    [sha256.Size]byte // what is in use was made of
	warned string            // what is the matter with the files
}

// load reads the files, and takes what is in them unless that is in use already.
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

// reload loads, and warns once of what is the matter.
func reload[T any](w *reloaded[T], log logrus.FieldLogger) (changed bool) {
	changed, err := w.load()
	if err == nil {
		w.warned = ""
		return changed
	}
	if w.warned != err.Error() {
		w.warned = err.Error()
		log.WithError(err).Warn("Changed TLS files cannot be used; what was read before stays in use")
	}
	return false
}

// parsePair reads a certificate, with its chain, and the key that belongs to it.
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

// checkValidity gives the error of a certificate that has expired, or is not valid yet.
func checkValidity(files []File, next *tls.Certificate) error {
	now := time.Now()
	if now.Before(next.Leaf.NotBefore) || now.After(next.Leaf.NotAfter) {
		return files[0].fault("holds a certificate that is valid from %s to %s only",
			next.Leaf.NotBefore.Format(time.RFC3339), next.Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// parseAuthorities reads the certificates to trust.
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

// certificates reads all of them. A file that is still being written is none that
// holds fewer.
func certificates(text []byte) (found []*x509.Certificate, err error) {
	block, rest := pem.Decode(text)
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue // certbot's and others' bundles hold more
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

// NamesNoHost reports whether err rejects a certificate that has no subject alternative
// name of any host.
func NamesNoHost(err error) bool {
	var target x509.HostnameError
	if !errors.As(err, &target) || target.Certificate == nil {
		return false
	}
	return len(target.Certificate.DNSNames)+len(target.Certificate.IPAddresses) == 0
}
