// Package auth parses the credentials of requests and compares them in constant time. Secrets are
// held as SHA-256 digests: that suffices for tokens of 256 random bits, and is fast enough for
// every poll of a large fleet, which a password hash is not. Passwords are in the settings of a
// process, never in a store.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"
)

// MaxCredentialsBytes is the longest Authorization header that is parsed.
const MaxCredentialsBytes = 1024

// Errors of credentials that cannot be parsed. The response to each is 401, and may include the
// error: it reveals nothing about a secret.
var (
	ErrMissing   = errors.New("no credentials were sent")
	ErrScheme    = errors.New("the Authorization header has another scheme")
	ErrMalformed = errors.New("the Authorization header is malformed")
)

// Digest is the digest of a secret.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a secret.
func DigestOf[T string | []byte](secret T) Digest { return sha256.Sum256([]byte(secret)) }

// Matches reports in constant time whether d is the digest of secret. The zero Digest matches no
// secret.
func (d *Digest) Matches(secret []byte) bool {
	return d.Equal(DigestOf(secret))
}

// Equal reports in constant time whether two digests are the same.
func (d *Digest) Equal(other Digest) bool { return subtle.ConstantTimeCompare(d[:], other[:]) == 1 }

// NewToken returns 256 random bits as 43 characters that are safe in headers, URLs and files.
func NewToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Basic holds the user-id and password of an Authorization header (RFC 7617 §2) in its own buffers,
// so that a reused Basic does not allocate. User and Password are valid until the next Read.
type Basic struct {
	encoded, decoded [MaxCredentialsBytes]byte
	User, Password   []byte
}

// Read parses the value of an Authorization header. It returns ErrMissing, ErrScheme or
// ErrMalformed, and then User and Password are nil.
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

// Bearer returns the token of an Authorization header (RFC 6750 §2.1), or ErrMissing, ErrScheme or
// ErrMalformed.
func Bearer(header string) (string, error) {
	token, err := credentials(header, "Bearer")
	if err == nil && strings.ContainsAny(token, " \t,") {
		return "", ErrMalformed
	}
	return token, err
}

// credentials returns the credentials of "Scheme credentials" (RFC 9110 §11.4), with the scheme in
// any case.
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

// NewAccount returns the Account of a user name and a password.
func NewAccount(user, password string) *Account {
	return &Account{user: DigestOf(user), password: DigestOf(password)}
}

// Matches reports whether user and password are this account's. Its duration does not reveal which of
// the two is wrong.
func (a *Account) Matches(user, password []byte) bool {
	userOK, passwordOK := a.user.Matches(user), a.password.Matches(password)
	return userOK && passwordOK
}
