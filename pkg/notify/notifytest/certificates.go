package notifytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Files are those of a certificate for 127.0.0.1, for servers and clients, and
// of the authority that signed it.
type Files struct{ CA, Cert, Key string }

// Certificates makes them for one test.
func Certificates(t *testing.T) Files {
	t.Helper()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	authorityKey, leafKey := newKey(t), newKey(t)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return Files{
		CA:   write(t, dir, "ca.pem", "CERTIFICATE", sign(t, authority, authority, authorityKey, authorityKey)),
		Cert: write(t, dir, "cert.pem", "CERTIFICATE", sign(t, leaf, authority, leafKey, authorityKey)),
		Key:  write(t, dir, "key.pem", "PRIVATE KEY", der),
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, cert, by *x509.Certificate, key, byKey *ecdsa.PrivateKey) (der []byte) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, by, key.Public(), byKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func write(t *testing.T, dir, name, kind string, der []byte) (file string) {
	t.Helper()
	file = filepath.Join(dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// AddMark puts a byte order mark before the text of files.
func AddMark(t *testing.T, files ...string) {
	t.Helper()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append([]byte("\ufeff"), text...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
