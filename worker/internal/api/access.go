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

// access decides who may push a configuration, and read it: the query of its URL may
// hold a key.
type access struct {
	token       *auth.Digest   // nil: from this machine only
	guesses     *limit.Guesses // of the token
	hosts       []string       // names of this machine, besides localhost, that a request may be sent to
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

// check returns errToken or errRemote, with the reason, or a *limit.TooManyGuesses for
// a request that may neither push nor read.
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

// checkLocal refuses requests of another machine (by the address of the socket; a header
// can say anything), those of a proxy on this machine (by what proxies add), a browser's
// page whose name was made to resolve to this machine (by the Host that it cannot help
// sending), and a page that posts here from another site (by what browsers say of it).
//
// DNS cannot rebind an IP address, so any may be read by. A push to another one than a
// loopback address is refused: a client connects from a loopback address to a loopback
// address, so a proxy that adds no header (HAProxy by default) passed its client's Host on.
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
