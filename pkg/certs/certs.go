// Package certs makes certificates for development and for tests: a local
// authority, and those of servers and clients that it signs. A fleet that others
// reach has an authority of its own.
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

// clockSkew is how long before now a certificate begins to be valid: clocks differ.
const clockSkew = time.Hour

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority that is valid for that long. It can sign
// certificates of TLS servers and clients, and no further authority.
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

// Load reads the authority that Save wrote. The error is one of os where the
// files are not there.
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

var errForeign = errors.New("not an authority that was made here")

// Certificate is the authority's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Pool trusts what the authority signs.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Save writes the certificate and the key of the authority.
func (a *Authority) Save(certFile, keyFile string) error {
	return save(certFile, a.cert, keyFile, a.key)
}

// Leaf is what a certificate says.
type Leaf struct {
	Name      string
	Hosts     []string  // names and addresses of a server; none for a mere client
	Client    bool      // for a client; with Hosts also for a server
	NotBefore time.Time // zero: now
	NotAfter  time.Time
}

// Issue makes the certificate of a server, or a client, and its key.
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

// Write issues a certificate into files, each of which is replaced whole.
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

// save writes the key first: where there was no certificate, one that is there has
// its key. While one is renewed the key is for a moment that of the next, and who
// reads both must take them only if they fit, as pkg/tlsfiles does. Nothing is
// replaced unless both can be.
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

// stage writes what is to replace file whole, so that nobody reads half of it.
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
