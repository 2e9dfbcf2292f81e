package notifytest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/pkg/certs"
)

// Files are those of a certificate for 127.0.0.1, for servers and clients, and of the
// authority that signed it.
type Files struct{ CA, Cert, Key string }

// Certificates writes a certificate for one test.
func Certificates(t *testing.T) Files {
	t.Helper()
	dir := t.TempDir()
	files := Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"),
		Key: filepath.Join(dir, "key.pem")}
	authority, err := certs.NewAuthority("authority", time.Hour)
	if err == nil {
		err = authority.Save(files.CA, filepath.Join(dir, "ca-key.pem"))
	}
	if err == nil {
		leaf := certs.Leaf{Name: "leaf", Hosts: []string{"127.0.0.1"}, Client: true,
			NotAfter: time.Now().Add(time.Hour)}
		err = authority.Write(leaf, files.Cert, files.Key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// AddByteOrderMark puts a byte order mark before the text of files.
func AddByteOrderMark(t *testing.T, files ...string) {
	t.Helper()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, append([]byte("\ufeff"), text...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
