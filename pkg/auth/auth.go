// Package auth reads the credentials of a request and compares them without
// telling, by the time that it takes, how near a guess was. Secrets are kept
// as SHA-256 digests: that is enough for tokens of 256 random bits, and cheap
// enough for every poll of a large fleet. A slow password hash is not, and
// passwords live in the settings of a process, never in a store.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"
)

// MaxCredentialsBytes is the longest Authorization header that is read.
const MaxCredentialsBytes = 1024

// Errors of credentials that cannot be compared at all. The caller's answer is
// 401 to each; which one it was may be said, for it tells nothing of a secret.
var (
	ErrMissing   = errors.New("no credentials were sent")
	ErrScheme    = errors.New("the Authorization header is of another scheme")
	ErrMalformed = errors.New("the Authorization header is malformed")
)

// Digest is what is kept of a secret.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a secret.
func DigestOf[T string | []byte](secret T) Digest { return sha256.Sum256([]byte(secret)) }

// Matches reports in constant time whether d is the digest of secret. The zero
// Digest matches nothing.
func (d *Digest) Matches(secret []byte) bool {
	return d.Equal(DigestOf(secret))
}

// Equal reports in constant time whether two digests are the same.
func (d *Digest) Equal(other Digest) bool { return subtle.ConstantTimeCompare(d[:], other[:]) == 1 }

// NewToken returns 256 random bits as 43 characters that are safe in a header,
// a URL and a file.
func NewToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Basic holds the user-id and password of an Authorization header (RFC 7617
// §2) in buffers of its own, so that reading into a reused one allocates
// nothing. User and Password hold until the next Read.
type Basic struct {
	encoded, decoded [MaxCredentialsBytes]byte
	User, Password   []byte
}

// Read takes the credentials out of the value of an Authorization header. It
// returns ErrMissing, ErrScheme or ErrMalformed, and then User and Password
// are nil.
func (b *Basic) Read(header string) error {
	b.User, b.Password = nil, nil
	encoded, err := credentials(header, "Basic")
	if err != nil {
		return err
	}
	n, err := base64.StdEncoding.Strict().Decode(b.decoded[:], b.encoded[:copy(b.encoded[:], encoded)])
	if err != nil {
		return ErrMalformed
	}
	for i, c := range b.decoded[:n] {
		if c == ':' {
			b.User, b.Password = b.decoded[:i], b.decoded[i+1:n]
			return nil
		}
		if c < ' ' || c == 0x7f {
			return ErrMalformed // RFC 7617 §2: no control characters
		}
	}
	return ErrMalformed
}

// Bearer takes the token out of the value of an Authorization header (RFC 6750
// §2.1). It returns ErrMissing, ErrScheme or ErrMalformed.
func Bearer(header string) (string, error) {
	token, err := credentials(header, "Bearer")
	if err == nil && strings.ContainsAny(token, " \t,") {
		return "", ErrMalformed
	}
	return token, err
}

// credentials splits "Scheme credentials" (RFC 9110 §11.4); the scheme is
// compared without regard to case.
func credentials(header, scheme string) (string, error) {
	if header == "" {
		return "", ErrMissing
	}
	if len(header) > MaxCredentialsBytes {
		return "", ErrMalformed
	}
	name, rest, found := strings.Cut(header, " ")
	if !strings.EqualFold(name, scheme) {
		return "", ErrScheme
	}
	rest = strings.TrimLeft(rest, " ")
	if !found || rest == "" {
		return "", ErrMalformed
	}
	return rest, nil
}

// Account is a user name and the digest of its password.
type Account struct {
	user     Digest
	password Digest
}

// NewAccount keeps the digests of a user name and a password.
func NewAccount(user, password string) *Account {
	return &Account{user: DigestOf(user), password: DigestOf(password)}
}

// Matches reports whether user and password are this account's, in a time that
// does not tell which of the two was wrong.
func (a *Account) Matches(user, password []byte) bool {
	userOK, passwordOK := a.user.Matches(user), a.password.Matches(password)
	return userOK && passwordOK
}
