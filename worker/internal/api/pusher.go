package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/server"
)

var (
	errToken     = errors.New("this worker takes a configuration only with its token")
	errElsewhere = errors.New("this worker takes a configuration from its own machine only")
)

// pusher knows who may push a configuration.
type pusher struct {
	token       *auth.Digest // nil: from this machine only
	crossOrigin *http.CrossOriginProtection
}

func newPusher(token string) *pusher {
	p := &pusher{crossOrigin: http.NewCrossOriginProtection()}
	if token != "" {
		digest := auth.DigestOf(token)
		p.token = &digest
	}
	return p
}

// may returns errToken or errElsewhere, with the reason, to who may not push.
func (p *pusher) may(r *http.Request) error {
	if p.token != nil {
		return p.presents(r)
	}
	return p.fromHere(r)
}

func (p *pusher) presents(r *http.Request) error {
	token, err := auth.Bearer(r.Header.Get("Authorization"))
	if err != nil {
		return fmt.Errorf("%w: %w", errToken, err)
	}
	if !p.token.Matches([]byte(token)) {
		return fmt.Errorf("%w: another was presented", errToken)
	}
	return nil
}

// fromHere holds off four strangers: another machine (by the address of the
// socket; a header can say anything), one behind a proxy on this machine (by
// what proxies add), a browser's page whose name was made to
// resolve to this machine (by the Host that it cannot help sending), and a
// page that posts here from another site (by what browsers say of it).
func (p *pusher) fromHere(r *http.Request) error {
	if header := server.Proxied(r); header != "" {
		return fmt.Errorf("%w, not through a proxy (%s); set WORKER_TOKEN to take it from others", errElsewhere, header)
	}
	if !server.FromLoopback(r) {
		return fmt.Errorf("%w; set WORKER_TOKEN to take it from others", errElsewhere)
	}
	if !server.ToLoopback(r) {
		return fmt.Errorf("%w, called by its own name: localhost or 127.0.0.1, not %q", errElsewhere, r.Host)
	}
	if err := p.crossOrigin.Check(r); err != nil {
		return fmt.Errorf("%w, and from no page of another site: %w", errElsewhere, err)
	}
	return nil
}
