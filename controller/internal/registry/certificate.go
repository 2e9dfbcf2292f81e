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

// maxCertificateName bounds what is stored of a certificate, in bytes.
const maxCertificateName = 512

// CertificateName returns what a certificate says of its holder, so that a renewed
// certificate has the same name: its subject alternative names, sorted, or its
// subject if there are none. It is never empty. A name that is too long to be
// stored is cut, and ends with its SHA-256.
func CertificateName(cert *x509.Certificate) string {
	var names []string
	add := func(kind, name string) {
		unclear := func(r rune) bool { return strings.ContainsRune(`," `, r) || !strconv.IsPrint(r) }
		if strings.ContainsFunc(name, unclear) {
			name = strconv.Quote(name) // or two names could read as one
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

// ErrUnbound is the error of an agent that registered over no certificate, because
// an older build or a controller without TLS_CLIENT_CA_FILE took the registration.
var ErrUnbound = errors.New("this agent registered without a certificate; it must re-register over this connection")

// CheckCertificate reports whether a certificate has the name of the one that the
// agent registered over. The error is models.ErrCertificate or ErrUnbound. Only the
// first call for a certificate costs more than a comparison of pointers.
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

// otherCertificate is the error of a connection whose certificate is not the one
// that the agent registered with.
func otherCertificate(name, bound string) error {
	return fmt.Errorf("%w: this one is for %s, that one for %s", models.ErrCertificate, name, bound)
}
