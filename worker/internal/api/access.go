package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/limit"
	"github.com/fleetconf/fleetconf/pkg/server"
)

var (
	errToken  = errors.New("this worker's configuration is pushed and read only with its token")
	errRemote = errors.New("this worker's configuration is pushed and read from its own machine only")
)

// access decides who may push and read the configuration. Reading is restricted too: the
// query of its URL may hold a key.
type access struct {
	token       *auth.Digest   // nil: this machine only
	guesses     *limit.Guesses // of the token
	hosts       []string       // names of this machine besides localhost, for the Host header
	crossOrigin *http.CrossOriginProtection
}

func newAccess(token string, hosts []string) *access {
	a := &access{hosts: hosts, guesses: limit.NewGuesses(), crossOrigin: http.NewCrossOriginProtection()}
	if token != "" {
		digest := auth.DigestOf(token)
		a.token = &digest
	}
	return a
}

// check returns errToken, errRemote or a *limit.TooManyGuesses for a request that may neither
// push nor read.
func (a *access) check(r *http.Request) error {
	if a.token != nil {
		return a.checkToken(r)
	}
	return a.checkLocal(r)
}

func (a *access) checkToken(r *http.Request) error {
	token, err := auth.Bearer(r.Header.Get("Authorization"))
	if err != nil {
		return fmt.Errorf("%w: %w", errToken, err)
	}
	remote, _ := netip.ParseAddrPort(r.RemoteAddr) // the zero value where it is unknown
	source := limit.Source(remote.Addr())
	if !a.token.Matches([]byte(token)) {
		if wait := a.guesses.Wrong("", source); wait > 0 {
			return tooManyGuesses(wait)
		}
		return fmt.Errorf("%w: another was presented", errToken)
	}
	if wait := a.guesses.Right("", source); wait > 0 {
		return tooManyGuesses(wait)
	}
	return nil
}

func tooManyGuesses(wait time.Duration) error {
	return &limit.TooManyGuesses{Of: "tokens (WORKER_TOKEN)", Wait: wait}
}

// checkLocal rejects requests from another machine, by the address of the socket; from a
// proxy on this machine, by the headers that proxies add; from a page whose name was rebound
// to this machine, by its Host; and from a page of another site, by what browsers send.
//
// DNS cannot rebind an IP address, so the Host of GET may be any. The Host of POST must be a
// loopback address: a local client connects to one, and another address shows a proxy that
// adds no header, as HAProxy by default, and forwarded its client's Host.
func (a *access) checkLocal(r *http.Request) error {
	if sign := server.Proxied(r); sign != "" {
		return fmt.Errorf("%w, not through a proxy (%s); set WORKER_TOKEN to allow it from elsewhere", errRemote, sign)
	}
	if !server.FromLoopback(r) {
		return fmt.Errorf("%w; set WORKER_TOKEN to allow it from elsewhere", errRemote)
	}
	if !server.HostAllowed(r, a.hosts) {
		return fmt.Errorf("%w, with localhost, an IP address or a name in ALLOWED_HOSTS as its Host, not %q", errRemote,
			r.Host)
	}
	if r.Method == http.MethodPost && !server.ToLoopback(r) && !server.HostIn(r, a.hosts) {
		return fmt.Errorf("%w, not through a proxy (Host %s); set WORKER_TOKEN to allow it from elsewhere", errRemote,
			r.Host)
	}
	if err := a.crossOrigin.Check(r); err != nil {
		return fmt.Errorf("%w, and from no page of another site: %w", errRemote, err)
	}
	return nil
}
