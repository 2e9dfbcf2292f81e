package notify

import (
	"errors"
	"net/url"
	"slices"
	"strings"
)

// Errors of the settings that name a broker. They do not repeat the URL, which may hold a
// password.
var (
	ErrRedisURL = errors.New("must be a URL such as redis://:password@localhost:6379/0, with special characters " +
		"of a password percent-encoded")
	ErrNATSURL = errors.New("must be URLs such as nats://localhost:4222, with commas between, and special characters " +
		"of a password percent-encoded")
)

// CheckRedisURL returns ErrRedisURL unless text is the URL of a Redis.
func CheckRedisURL(text string) error {
	if !isBrokerURL(text, "redis", "rediss") {
		return ErrRedisURL
	}
	return nil
}

// CheckNATSURL returns ErrNATSURL unless text is a list of URLs of NATS servers.
func CheckNATSURL(text string) error {
	for one := range strings.SplitSeq(text, ",") {
		if !isBrokerURL(strings.TrimSpace(one), "nats", "tls") {
			return ErrNATSURL
		}
	}
	return nil
}

// isBrokerURL reports whether text is a URL of one of these schemes, with a host. A password
// that is not percent-encoded often ends up in the path.
func isBrokerURL(text string, schemes ...string) bool {
	u, err := url.Parse(text)
	return err == nil && slices.Contains(schemes, u.Scheme) && u.Hostname() != "" && !strings.Contains(u.Path, "@") &&
		u.Fragment == ""
}
