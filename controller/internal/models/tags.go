package models

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fleetconf/fleetconf/pkg/etag"
)

// KeyBytes is the length of Tags.Key.
const KeyBytes = 32

const macBytes = 16 // as long as a content hash in base64url

// Tags makes the ETags of one store, and verifies the ETags that agents send. An ETag is
// "<version>-<content hash>-<keyed hash>". The version shows a restored store that an
// agent runs a later version. The keyed hash covers the store's epoch, the version and
// the content hash, and proves that the store made the ETag.
type Tags struct {
	Epoch string // identifies the store
	Key   []byte // KeyBytes random bytes; secret
	// UnkeyedUpTo is the newest version at the migration from a build whose ETags had no
	// keyed hash. Up to this version, ETags without one are accepted.
	UnkeyedUpTo int64
}

// ContentHash returns the hash that identifies the content, as agents compute it
// (etag.HashContent).
func (c Content) ContentHash() string {
	return etag.HashContent(c.URL, int(c.PollInterval/time.Second), c.Probe)
}

// Fleet returns the id of the fleet that follows this store: 16 hexadecimal digits that
// are derived from the epoch.
func (t Tags) Fleet() string {
	sum := sha256.Sum256([]byte("fleet\x00" + t.Epoch))
	return hex.EncodeToString(sum[:8])
}

// Of returns the ETag of a version: strong, with its quotes.
func (t Tags) Of(version int64, c Content) string {
	hash := c.ContentHash()
	return etag.Quote(strconv.FormatInt(version, 10) + "-" + hash + "-" + t.mac(version, hash))
}

func (t Tags) mac(version int64, hash string) string {
	h := hmac.New(sha256.New, t.Key)
	_, _ = fmt.Fprintf(h, "%s\x00%d\x00%s", t.Epoch, version, hash)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:macBytes])
}

// Verify reports whether the store made tag. It accepts a tag that a gateway marked as
// weak, or extended by a suffix.
func (t Tags) Verify(tag string) bool {
	version, hash, mac := split(tag)
	switch {
	case version == 0:
		return false
	case mac == "":
		return version <= t.UnkeyedUpTo
	}
	return hmac.Equal([]byte(mac), []byte(t.mac(version, hash)))
}

// VersionOf returns the version in tag, or 0 if tag has not the form of a controller's
// ETag. It does not verify tag.
func VersionOf(tag string) int64 {
	version, _, _ := split(tag)
	return version
}

// ContentOf returns the content hash in tag, or "" if tag has no keyed hash. It does not
// verify tag.
func ContentOf(tag string) string {
	if _, hash, mac := split(tag); mac != "" {
		return hash
	}
	return ""
}

// split returns the parts of an ETag. version is 0 for a tag of another form. mac is
// empty for an ETag of a build without keyed hashes.
func split(tag string) (version int64, hash, mac string) {
	number, hashes, _ := strings.Cut(strings.Trim(etag.Original(tag), `"`), "-")
	version, err := strconv.ParseInt(number, 10, 64)
	switch {
	case err != nil || version < 1 || number[0] == '+':
	case len(hashes) == etag.HashLength:
		return version, hashes, ""
	case len(hashes) == etag.HashLength+1+etag.HashLength && hashes[etag.HashLength] == '-':
		return version, hashes[:etag.HashLength], hashes[etag.HashLength+1:]
	}
	return 0, "", ""
}
