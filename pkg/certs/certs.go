// Package certs makes certificates for development and tests: a local authority, and the
// certificates of servers and clients that it signs. It is not for fleets in production.
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/fleetconf/fleetconf/pkg/atomicfile"
)

// clockSkew is the time before now from which a certificate is valid.
const clockSkew = time.Hour

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority returns an authority that is valid for lifetime. It can sign certificates of TLS
// servers and clients, and no other authority.
func NewAuthority(name string, lifetime time.Duration) (*Authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	cert := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-clockSkew),
		NotAfter:              time.Now().Add(lifetime),
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if cert, err = sign(cert, cert, key, key); err != nil {
		return nil, err
	}
	return &Authority{cert, key}, nil
}

// Load reads an authority that Save has written. The error is fs.ErrNotExist if a file is missing.
func Load(certFile, keyFile string) (*Authority, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s: %w", certFile, errForeign)
	}
	return &Authority{pair.Leaf, key}, nil
}

var errForeign = errors.New("not an authority of this program")

// Certificate returns the certificate of the authority.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Pool returns a pool that trusts the authority.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Save writes the certificate and the key of the authority.
func (a *Authority) Save(certFile, keyFile string) error {
	return save(certFile, a.cert, keyFile, a.key)
}

// Leaf describes a certificate.
type Leaf struct {
	Name      string
	Hosts     []string  // names and addresses of a server; none for a mere client
	Client    bool      // for a client; with Hosts also for a server
	NotBefore time.Time // zero: now
	NotAfter  time.Time
}

// Issue returns a certificate with its key.
func (a *Authority) Issue(l Leaf) (tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	if l.NotBefore.IsZero() {
		l.NotBefore = time.Now().Add(-clockSkew)
	}
	cert := &x509.Certificate{
		Subject:               pkix.Name{CommonName: l.Name},
		NotBefore:             l.NotBefore,
		NotAfter:              l.NotAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}
	if !l.Client || len(l.Hosts) > 0 {
		cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if l.Client {
		cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for _, host := range l.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, host)
		}
	}
	if cert, err = sign(cert, a.cert, key, a.key); err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// Write issues a certificate and replaces each file atomically.
func (a *Authority) Write(l Leaf, certFile, keyFile string) error {
	made, err := a.Issue(l)
	if err != nil {
		return err
	}
	return save(certFile, made.Leaf, keyFile, made.PrivateKey)
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func sign(cert, by *x509.Certificate, key, byKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, cert, by, key.Public(), byKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// save replaces the key first, so that a new certificate never lacks its key. During a renewal the
// key is briefly newer than the certificate: readers must accept only a matching pair, as
// pkg/tlsfiles does. It replaces nothing unless both files can be written.
func save(certFile string, cert *x509.Certificate, keyFile string, key crypto.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	nextKey, err := stage(keyFile, "PRIVATE KEY", der, 0o600)
	if err != nil {
		return err
	}
	defer nextKey.Discard()
	nextCert, err := stage(certFile, "CERTIFICATE", cert.Raw, 0o644)
	if err != nil {
		return err
	}
	defer nextCert.Discard()
	if err := nextKey.Commit(); err != nil {
		return err
	}
	return nextCert.Commit()
}

// stage writes the new content of file beside it. Commit replaces file.
func stage(file, kind string, der []byte, mode os.FileMode) (*atomicfile.File, error) {
	next, err := atomicfile.Create(file, mode)
	if err != nil {
		return nil, err
	}
	if err := pem.Encode(next, &pem.Block{Type: kind, Bytes: der}); err != nil {
		next.Discard()
		return nil, err
	}
	return next, nil
}
