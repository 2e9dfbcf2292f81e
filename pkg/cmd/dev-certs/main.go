// Command dev-certs makes certificates for TLS between controller and agents on a developer's machine.
// scripts/dev-certs.sh runs it.
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fleetconf/fleetconf/pkg/certs"

	"github.com/fleetconf/fleetconf/pkg/cli"
)

const help = `Make a local authority, and the certificates that it signs of a controller and of
agents, for development.

Usage:
  scripts/dev-certs.sh [DIR] [--host NAME]... [--renew]

  DIR           folder for the files (./data/certs); made if missing
  --host NAME   a name or an address of the controller, beside localhost, 127.0.0.1
                and ::1, and those that its certificate has; may be repeated
  --renew       replace existing certificates; programs that use them reload them
  --help        print this page

Existing files are kept: the authority always, certificates unless the authority did
not sign them, a --host is missing or they expire within 30 days. Only their owner can
read keys. In production, use your own authority.
`

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	renewBefore   = 30 * 24 * time.Hour
)

func main() {
	err := run(os.Args[1:], os.Stdout)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	_, _ = fmt.Fprintln(os.Stderr, "dev-certs:", err)
	if errors.Is(err, cli.ErrUsage) {
		os.Exit(2)
	}
	os.Exit(1)
}

func run(args []string, stdout io.Writer) error {
	dir, hosts, renew, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stdout, help)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f := files{dir}
	hosts = f.alsoFor(hosts)
	authority, err := f.authority()
	if err != nil {
		return err
	}
	for _, leaf := range []certs.Leaf{{Name: "controller", Hosts: hosts}, {Name: "agent", Client: true}} {
		if !renew && f.holds(authority, leaf) {
			continue
		}
		leaf.NotAfter = time.Now().Add(leafLife)
		if err := authority.Write(leaf, f.cert(leaf.Name), f.key(leaf.Name)); err != nil {
			return err
		}
	}
	quoted := files{shell(f.dir)}
	_, err = fmt.Fprintf(stdout, `# The controller (TLS_CLIENT_CA_FILE only if agents are to show a certificate):
TLS_CERT_FILE=%s
TLS_KEY_FILE=%s
TLS_CLIENT_CA_FILE=%s
# An agent; CONTROLLER_URL is https:// and one of: %s
CONTROLLER_CA_FILE=%[3]s
CONTROLLER_CERT_FILE=%[5]s
CONTROLLER_KEY_FILE=%[6]s
# An admin:
# curl --cacert %[3]s -u admin:admin123 https://localhost:8080/api/v1/agents
`, quoted.cert("controller"), quoted.key("controller"), quoted.cert("ca"), strings.Join(hosts, " "),
		quoted.cert("agent"), quoted.key("agent"))
	return err
}

// plain matches paths that need no quotes in a shell.
var plain = regexp.MustCompile(`^[\pL\pN/._-]+$`)

// shell returns a path for a shell, in quotes if it needs them.
func shell(path string) string {
	if plain.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// parse reads the command line.
func parse(args []string) (dir string, hosts []string, renew bool, err error) {
	hosts = []string{"localhost", "127.0.0.1", "::1"}
	flags := flag.NewFlagSet("dev-certs", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&renew, "renew", false, "")
	flags.Func("host", "", func(host string) error {
		if host == "" || strings.ContainsAny(host, " /") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return errors.New("it must be a name or an address, without a port")
		}
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
		return nil
	})
	arguments, err := cli.ParseArgs(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return "", nil, false, err
	case err != nil:
		return "", nil, false, fmt.Errorf("%w: %w; --help says what can be given", cli.ErrUsage, err)
	case len(arguments) > 1:
		return "", nil, false, fmt.Errorf("%w: %q is one folder too many; --help says what can be given",
			cli.ErrUsage, arguments[1])
	case len(arguments) == 0:
		arguments = []string{filepath.Join("data", "certs")}
	}
	dir, err = filepath.Abs(arguments[0])
	return dir, hosts, renew, err
}

// files are the files of a folder.
type files struct{ dir string }

func (f files) cert(name string) string { return filepath.Join(f.dir, name+".pem") }
func (f files) key(name string) string  { return filepath.Join(f.dir, name+"-key.pem") }

// authority returns the existing authority, or a new one.
func (f files) authority() (*certs.Authority, error) {
	if _, err := os.Stat(f.cert("ca")); !errors.Is(err, fs.ErrNotExist) {
		return certs.Load(f.cert("ca"), f.key("ca")) // an error if its key is elsewhere
	}
	if _, err := os.Stat(f.key("ca")); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is there and its certificate is not: put %s back, or delete the key to have a new "+
			"authority", f.key("ca"), f.cert("ca"))
	}
	authority, err := certs.NewAuthority("Fleetconf development authority", authorityLife)
	if err != nil {
		return nil, err
	}
	return authority, authority.Save(f.cert("ca"), f.key("ca"))
}

// alsoFor adds the hosts of the controller's existing certificate to hosts.
func (f files) alsoFor(hosts []string) []string {
	now, err := tls.LoadX509KeyPair(f.cert("controller"), f.key("controller"))
	if err != nil {
		return hosts
	}
	hosts = append(hosts, now.Leaf.DNSNames...)
	for _, ip := range now.Leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// holds reports whether the existing certificate of leaf can stay.
func (f files) holds(by *certs.Authority, leaf certs.Leaf) bool {
	now, err := tls.LoadX509KeyPair(f.cert(leaf.Name), f.key(leaf.Name))
	if err != nil || now.Leaf.CheckSignatureFrom(by.Certificate()) != nil ||
		time.Until(now.Leaf.NotAfter) < renewBefore {
		return false
	}
	return !slices.ContainsFunc(leaf.Hosts, func(host string) bool { return now.Leaf.VerifyHostname(host) != nil })
}
