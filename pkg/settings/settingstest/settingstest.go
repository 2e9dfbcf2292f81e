// Package settingstest has what tests of settings and of the command line share.
package settingstest

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/pkg/settings"
)

// Options is a settings struct with a field of each type that there is.
type Options struct {
	Host     string          `group:"Listener" setting:"T_HOST" default:"127.0.0.1" usage:"address to listen on"`
	Port     int             `setting:"T_PORT" default:"8080" usage:"TCP port to listen on"`
	Timeout  time.Duration   `group:"Hits" setting:"T_TIMEOUT" default:"30s" usage:"how long a hit may take"`
	Strict   bool            `setting:"T_STRICT" default:"true" usage:"refuse what is unknown"`
	Deny     []netip.Prefix  `setting:"T_DENY" default:"169.254.0.0/16, fe80::/10" usage:"networks that are not fetched from"`
	Password settings.Secret `setting:"T_PASSWORD" default:"admin123" usage:"password of the admin"`
}

// Validate implements settings.Validator.
func (o *Options) Validate() (f settings.Faults) {
	f.Check(o.Port >= 0 && o.Port <= 65535, "T_PORT", "is %d; it must be 0 to 65535", o.Port)
	f.CheckPassword(o.Host, "T_PASSWORD", o.Password, "admin123")
	return f
}

// WriteFile writes a file of that name in a folder of its own, and returns its path.
func WriteFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// SetEnviron replaces the environment of this process until the test ends.
func SetEnviron(t *testing.T, environ ...string) {
	t.Helper()
	before := os.Environ()
	os.Clearenv()
	t.Cleanup(func() {
		os.Clearenv()
		for _, variable := range before {
			name, value, _ := strings.Cut(variable, "=")
			_ = os.Setenv(name, value)
		}
	})
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			t.Fatal(err)
		}
	}
}
