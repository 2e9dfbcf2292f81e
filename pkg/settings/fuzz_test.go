package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/settings"
)

// A settings file of any content is read, or refused with Faults, none of which
// holds the value of a secret.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"", "t_port: 9000", "t_port: [", "T_PORT: nine", "t_password: canary-value-1", "t_password: [canary-value-1]",
		"t_password: {a: canary-value-1}",
		"t_port: 9000\nt_port: 9001", "unknown: 1", "a: &a [*a]", "? [a]: b", "\ufefft_port: 1", "\x00",
		"t_port: !!binary AA==", "- a", "t_port: ~", "<<: {t_port: 1}",
		`{"t_port": 9000}`, "t_password_file: /nonexistent",
		"t_password: canary-value-1\nt_password_file: /nonexistent",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "settings.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := settings.Read(&options{}, path)
		var faults settings.Faults
		if err == nil {
			return
		}
		if !errors.As(err, &faults) || len(faults) == 0 {
			t.Fatalf("%q: got error %v (%T), want Faults", text, err, err)
		}
		if strings.HasPrefix(text, "t_password: ") && strings.Contains(err.Error(), "canary-value-1") {
			t.Errorf("%q: the error holds the secret: %v", text, err)
		}
	})
}
