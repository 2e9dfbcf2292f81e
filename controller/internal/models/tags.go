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

const macBytes = 16 // in base64url as long as a content hash

// Tags makes the ETags of one store, and verifies those that agents send. An ETag
// is "<version>-<content hash>-<keyed hash>". The version tells a controller whose
// store was restored that an agent runs a later one than it knows; the keyed hash,
// over the store's epoch, the version and the content hash, proves that the store
// made the ETag.
type Tags struct {
	Epoch string // identifies this store among all stores
	Key   []byte // KeyBytes random bytes, secret
	// UnkeyedUpTo is the newest version that the store had when it was migrated from
	// a build whose ETags had no keyed hash. Up to it such ETags are accepted.
	UnkeyedUpTo int64
}

// ContentHash identifies c among all contents, as agents do (etag.HashContent).
func (c Content) ContentHash() string {
	return etag.HashContent(c.URL, int(c.PollInterval/time.Second), c.Probe)
}

// Fleet is the id of the fleet that follows this store: 16 hexadecimal digits, made of
// the epoch.
func (t Tags) Fleet() string {
	sum := sha256.Sum256([]byte("fleet\x00" + t.Epoch))
	return hex.EncodeToString(sum[:8])
}

// Of returns the ETag of a version: strong, in quotes.
func (t Tags) Of(version int64, c Content) string {
	hash := c.ContentHash()
	return etag.Quote(strconv.FormatInt(version, 10) + "-" + hash + "-" + t.mac(version, hash))
}

func (t Tags) mac(version int64, hash string) string {
	h := hmac.New(sha256.New, t.Key)
	_, _ = fmt.Fprintf(h, "%s\x00%d\x00%s", t.Epoch, version, hash)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:macBytes])
}

// Verify reports whether the store made tag. A gateway may have marked it
// as weak, or appended a suffix.
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

// VersionOf returns the version that tag begins with, if it has the form of an ETag
// of any controller's; else 0.
func VersionOf(tag string) int64 {
	version, _, _ := split(tag)
	return version
}

// ContentOf returns the content hash that tag holds, "" if it is not of the form with
// a keyed hash.
func ContentOf(tag string) string {
	if _, hash, mac := split(tag); mac != "" {
		return hash
	}
	return ""
}

// split takes an ETag apart. The version is 0 for a tag of another form, and mac is
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
