package settings

import (
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// Proxy holds the forward proxies, in the usual variables. The names in lower case count if the
// others are unset.
type Proxy struct {
	HTTPProxy  Secret   `setting:"HTTP_PROXY" alias:"http_proxy" usage:"proxy for http:// URLs, such as http://proxy.example.com:3128, or http_proxy; never used for this machine itself"`
	HTTPSProxy Secret   `setting:"HTTPS_PROXY" alias:"https_proxy" usage:"proxy for https:// URLs, or https_proxy; never used for this machine itself"`
	NoProxy    []string `setting:"NO_PROXY" alias:"no_proxy" usage:"hosts, domains (.example.com), addresses and networks to reach without a proxy, with commas between, or no_proxy; * for all"`
}

// Validate returns no fault: these variables may be set for other programs, and an unused value
// needs no correction. See CheckProxyFor and CheckProxies.
func (p *Proxy) Validate() Faults { return nil }

// ProxyFor returns the proxy for a URL, nil for none. localhost and loopback addresses have none.
func (p *Proxy) ProxyFor(u *url.URL) *url.URL {
	proxy, err := p.ProxyFunc()(u)
	if err != nil {
		return nil
	}
	return proxy
}

// ProxyFunc returns ProxyFor as net/http takes it.
func (p *Proxy) ProxyFunc() func(*url.URL) (*url.URL, error) {
	config := httpproxy.Config{
		HTTPProxy: p.HTTPProxy.Reveal(), HTTPSProxy: p.HTTPSProxy.Reveal(), NoProxy: strings.Join(p.NoProxy, ","),
	}
	return config.ProxyFunc()
}

// CheckProxyFor adds a fault if the proxy for a URL cannot be used.
func (p *Proxy) CheckProxyFor(faults *Faults, address string) {
	u, err := url.Parse(address)
	if err != nil {
		return // a fault of its own
	}
	// A placeholder shows whether a proxy would be used.
	probe := Proxy{HTTPProxy: "http://proxy", HTTPSProxy: "http://proxy", NoProxy: p.NoProxy}
	if probe.ProxyFor(u) == nil {
		return
	}
	if u.Scheme == "https" {
		faults.Check(isProxy(p.HTTPSProxy), "HTTPS_PROXY", notProxy)
		return
	}
	faults.Check(isProxy(p.HTTPProxy), "HTTP_PROXY", notProxy)
}

// CheckProxies adds the faults of both proxies.
func (p *Proxy) CheckProxies(faults *Faults) {
	faults.Check(isProxy(p.HTTPProxy), "HTTP_PROXY", notProxy)
	faults.Check(isProxy(p.HTTPSProxy), "HTTPS_PROXY", notProxy)
}

const notProxy = "is no URL of a proxy such as http://proxy.example.com:3128; its scheme is http, https, socks5 or " +
	"socks5h, and what is special in a password stands percent-encoded"

// isProxy reports whether address is empty or the URL of a proxy. Without a scheme it is an HTTP
// proxy.
func isProxy(address Secret) bool {
	text := address.Reveal()
	if text == "" {
		return true
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	return err == nil && u.Hostname() != "" && slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme)
}
