package settings

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// CheckErr adds err, whose text says what the setting must be, unless it is nil.
func (f *Faults) CheckErr(setting string, err error) { f.Check(err == nil, setting, "%v", err) }

// CheckOnce is Check, but adds no second fault of a setting.
func (f *Faults) CheckOnce(ok bool, setting, detail string, args ...any) {
	f.Check(ok || slices.ContainsFunc(*f, func(fault Fault) bool { return fault.Setting == setting }), setting, detail,
		args...)
}

// CheckPair adds a fault if one of two settings is set without the other.
func (f *Faults) CheckPair(a, valueA, b, valueB string) {
	f.Check(valueA != "" || valueB == "", a, "is empty, and %s is set; set both or none", b)
	f.Check(valueB != "" || valueA == "", b, "is empty, and %s is set; set both or none", a)
}

// CheckNoTLSFiles adds a fault for each file that is set although the URL of urlSetting asks
// for no TLS; with the scheme tls it would.
func (f *Faults) CheckNoTLSFiles(urlSetting, tls string, files ...tlsfiles.File) {
	for _, file := range files {
		f.CheckOnce(file.Path == "", file.Setting, "requires that %s begins with %s", urlSetting, tls)
	}
}

// IsLoopback reports whether only its own machine can reach a process that listens on host.
func IsLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// CheckListener adds the faults of an address to listen on.
func (f *Faults) CheckListener(host string, port int) {
	f.Check(isPort(port), "PORT", "is %d; it must be 0 to 65535", port)
	f.Check(host != "", "HOST", "is empty; say 127.0.0.1 for this machine only, or 0.0.0.0 for every interface")
	f.Check(!strings.ContainsAny(host, " /") && !strings.Contains(host, "://"), "HOST",
		"is %q; it must be an address or a host name", host)
}

func isPort(n int) bool { return n >= 0 && n <= 65535 }

// IsAddress reports whether text is a host and a port.
func IsAddress(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// CheckLog adds the faults of the settings of the log.
func (f *Faults) CheckLog(level, format string) {
	f.Check(slices.Contains([]string{"error", "warn", "info", "debug"}, level), "LOG_LEVEL",
		"is %q; it must be error, warn, info or debug", level)
	f.Check(slices.Contains([]string{"auto", "text", "json"}, format), "LOG_FORMAT",
		"is %q; it must be auto, text or json", format)
}

// CheckServer adds a fault unless text is the base URL of an HTTP server.
func (f *Faults) CheckServer(setting, text string) {
	u, err := url.Parse(text)
	f.Check(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil &&
		u.RawQuery == "" && u.Fragment == "",
		setting, "is not the URL of a server, such as http://localhost:8080")
}

// CheckHosts adds a fault for each name that is not a host of a Host header, without a port.
func (f *Faults) CheckHosts(setting string, names []string) {
	for _, name := range names {
		u, err := url.Parse("http://" + name + "/")
		f.Check(err == nil && u.Host == name && u.Port() == "" && name != "" && !strings.ContainsAny(name, "*:[]"),
			setting,
			"holds %q, which is not a host name such as worker.example.com", name)
	}
}

// CheckAccount adds a fault unless name and password fit an Authorization header (RFC 7617 §2).
func (f *Faults) CheckAccount(userSetting, name, passwordSetting string, password Secret) {
	f.Check(strings.TrimSpace(name) != "", userSetting, "is empty")
	f.Check(!strings.Contains(name, ":") && !strings.ContainsFunc(name, unicode.IsControl), userSetting,
		"holds a colon or a control character, which cannot be sent")
	f.Check(utf8.ValidString(name), userSetting, "holds bytes that are not UTF-8")
	f.Check(!strings.ContainsFunc(password.Reveal(), unicode.IsControl), passwordSetting,
		"holds a control character, which cannot be sent")
	f.Check(len(name)+len(password) <= maxAccountBytes, passwordSetting,
		"and its user name are longer than %d bytes together", maxAccountBytes)
}

// CheckBearer adds a fault unless token is empty or fits an Authorization header (RFC 6750 §2.1).
func (f *Faults) CheckBearer(setting string, token Secret) {
	f.Check(len(token) <= auth.MaxCredentialsBytes-len("Bearer "), setting, "is longer than a header may carry")
	f.Check(!strings.ContainsFunc(token.Reveal(), func(r rune) bool { return r <= ' ' || r == ',' || r > '~' }),
		setting,
		"holds a space, a comma or a character outside printable ASCII")
}

// maxAccountBytes is the longest user name and password that fit the header, in base64.
const maxAccountBytes = auth.MaxCredentialsBytes*3/4 - len("Basic :")

// CheckPassword adds a fault for a password that is empty or, if other machines can reach host,
// easy to guess. words are known to attackers: user names, defaults.
func (f *Faults) CheckPassword(host, setting string, password Secret, words ...string) {
	f.Check(password != "", setting, "is empty; set it, or name a file that holds it in %s_FILE", setting)
	f.CheckSecret(host, setting, password, words...)
}

// CheckSecret adds a fault for a secret that is set and easy to guess, if other machines can
// reach host.
func (f *Faults) CheckSecret(host, setting string, secret Secret, words ...string) {
	if secret == "" || IsLoopback(host) {
		return
	}
	if why := weakness(secret.Reveal(), words); why != "" {
		f.CheckOnce(false, setting, "%s, and %s can be reached from other machines; "+
			"set %s to a secret of your own of %d characters or more, or listen on 127.0.0.1", why, host, setting,
			minSecret)
	}
}

const (
	minSecret   = 12 // characters
	minUncommon = 6  // of them beside common words
	minDistinct = 5  // different ones
)

// commonWords are parts of the passwords that attackers try first.
var commonWords = []string{
	"1234567890", "0123456789", "123456789", "12345678", "1234567", "123456", "12345", "1234", "0987654321",
	"987654321",
	"qwertyuiop", "qwerty", "asdfgh", "abcdef", "abc123", "password", "passwort", "passw0rd", "changeme", "changeit",
	"change-me", "change_me", "letmein", "welcome", "default", "secret", "administrator", "admin", "agent", "worker",
	"controller", "fleetconf", "root", "user", "guest", "test", "example", "iloveyou", "monkey", "dragon",
}

// weakness returns why a secret is easy to guess, "" if it is not.
func weakness(secret string, words []string) string {
	if slices.Contains(words, secret) {
		return "is a default"
	}
	if len([]rune(secret)) < minSecret {
		return fmt.Sprintf("has fewer than %d characters", minSecret)
	}
	distinct := map[rune]bool{}
	for _, r := range secret {
		distinct[r] = true
	}
	if len(distinct) < minDistinct {
		return "repeats a few characters"
	}
	own := strings.ToLower(secret)
	for _, word := range append(slices.Clone(words), commonWords...) {
		if word != "" {
			own = strings.ReplaceAll(own, strings.ToLower(word), "")
		}
	}
	if len([]rune(own)) < minUncommon {
		return "is made of common words"
	}
	return ""
}
