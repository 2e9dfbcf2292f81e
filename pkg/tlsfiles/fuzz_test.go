package tlsfiles_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// Files of any content can be used, or are refused with an *Error that names their
// setting and none of what is in them.
func FuzzOpen(f *testing.F) {
	const block = "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"
	for _, seed := range []string{
		"", "\ufeff", "no PEM", strings.Replace(block, "%s", "AAAA", 1), strings.Replace(block, "%s", "", 1),
		strings.Repeat(strings.Replace(block, "%s", "MAA=", 1), 3),
		"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
		"-----BEGIN CERTIFICATE-----\r\nA: b\r\n\r\nMAA=\r\n-----END CERTIFICATE-----", "-----BEGIN \x00-----",
	} {
		f.Add([]byte(seed), []byte(seed))
	}
	log, _ := logtest.NewNullLogger()
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		dir := t.TempDir()
		file := func(name string, text []byte) tlsfiles.File {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			return tlsfiles.File{Setting: "TLS_" + name, Path: path}
		}
		pair := tlsfiles.Paths{Cert: file("CERT_FILE", cert), Key: file("KEY_FILE", key)}
		for _, paths := range []tlsfiles.Paths{pair, {CA: file("CA_FILE", cert)}} {
			files, err := tlsfiles.Open(paths, log)
			var refused *tlsfiles.Error
			switch {
			case err == nil:
				files.NotAfter()
				if files.Server() == nil || files.Client() == nil {
					t.Error("the files can be used, and make no configuration")
				}
			case !errors.As(err, &refused) || !strings.HasPrefix(refused.Setting, "TLS_"):
				t.Fatalf("got error %v (%T), want an *Error with its setting", err, err)
			case len(key) > 15 && strings.Contains(err.Error(), string(key)):
				t.Fatalf("the error holds the key: %v", err)
			}
		}
	})
}
