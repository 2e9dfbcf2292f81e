package registry

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"weak"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// maxCertificateName bounds the stored name of a certificate, in bytes.
const maxCertificateName = 512

// CertificateName returns a name of the certificate's holder that a renewed certificate
// shares: the sorted subject alternative names, or the subject if there are none. It is
// never empty. A name of more than 512 bytes is truncated and ends with its SHA-256.
func CertificateName(cert *x509.Certificate) string {
	var names []string
	add := func(kind, name string) {
		unclear := func(r rune) bool { return strings.ContainsRune(`," `, r) || !strconv.IsPrint(r) }
		if strings.ContainsFunc(name, unclear) {
			name = strconv.Quote(name) // so that one name cannot pass for two
		}
		names = append(names, kind+":"+name)
	}
	for _, name := range cert.DNSNames {
		add("DNS", strings.ToLower(name))
	}
	for _, ip := range cert.IPAddresses {
		add("IP", ip.String())
	}
	for _, uri := range cert.URIs {
		add("URI", uri.String())
	}
	for _, address := range cert.EmailAddresses {
		add("email", address)
	}
	if len(names) == 0 {
		add("subject", cert.Subject.String())
	}
	slices.Sort(names)
	name := strings.Join(slices.Compact(names), ",")
	if len(name) <= maxCertificateName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.ToValidUTF8(name[:maxCertificateName/2], "") + "… SHA-256:" + hex.EncodeToString(sum[:])
}

// ErrUnbound rejects an agent that registered without a certificate: with an older
// build, or with a controller without TLS_CLIENT_CA_FILE.
var ErrUnbound = errors.New("this agent registered without a certificate; it must re-register over this connection")

// CheckCertificate returns nil if cert has the name that the agent registered with, else
// models.ErrCertificate or ErrUnbound. Repeated calls with the same cert only compare
// pointers.
func (a *Agent) CheckCertificate(cert *x509.Certificate) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if cert != nil && a.checked.Value() == cert {
		return nil
	}
	switch name, bound := CertificateName(cert), a.agent.Certificate; bound {
	case name:
		a.checked = weak.Make(cert)
		return nil
	case "":
		return ErrUnbound
	default:
		return otherCertificate(name, bound)
	}
}

// otherCertificate returns the error of a connection whose certificate has another name
// than bound, the one that the agent registered with.
func otherCertificate(name, bound string) error {
	return fmt.Errorf("%w: it registered with %s, and this one is for %s", models.ErrCertificate, bound, name)
}
