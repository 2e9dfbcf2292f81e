package settings

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

type proxied struct {
	Proxy
	URL string `setting:"CONTROLLER_URL"`
}

func (p *proxied) Validate() (faults Faults) {
	p.CheckProxyFor(&faults, p.URL)
	return faults
}

func TestProxyFor_URLs(t *testing.T) {
	const web, secure = "http://user:hunter2@web:3128", "http://secure:3128"
	for name, row := range map[string]struct {
		env  string // NAME=value, with spaces between
		to   string
		want string
	}{
		"none":                       {"", "http://fleet.example.com", ""},
		"http":                       {"HTTP_PROXY={web} HTTPS_PROXY={secure}", "http://fleet.example.com", web},
		"https":                      {"HTTP_PROXY={web} HTTPS_PROXY={secure}", "https://fleet.example.com", secure},
		"lower case":                 {"http_proxy={web}", "http://fleet.example.com", web},
		"upper case counts":          {"http_proxy={secure} HTTP_PROXY={web}", "http://fleet.example.com", web},
		"without a scheme":           {"HTTP_PROXY=web:3128", "http://fleet.example.com", "http://web:3128"},
		"no proxy for it":            {"HTTP_PROXY={web} NO_PROXY=other,.example.com", "http://fleet.example.com", ""},
		"no proxy for its network":   {"HTTP_PROXY={web} no_proxy=10.0.0.0/8", "http://10.1.2.3:8080", ""},
		"no proxy for others":        {"HTTP_PROXY={web} no_proxy=example.org", "http://fleet.example.com", web},
		"never for localhost":        {"HTTP_PROXY={web}", "http://localhost:8080", ""},
		"never for the loopback":     {"HTTP_PROXY={web}", "http://127.3.4.5:8080", ""},
		"never for the loopback, v6": {"HTTP_PROXY={web}", "http://[::1]:8080", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range strings.Fields(row.env) {
				name, value, _ := strings.Cut(variable, "=")
				t.Setenv(name, strings.NewReplacer("{web}", web, "{secure}", secure).Replace(value))
			}
			t.Setenv("CONTROLLER_URL", row.to)
			var s proxied
			if err := Read(&s, ""); err != nil {
				t.Fatal(err)
			}
			to, err := url.Parse(row.to)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if by := s.ProxyFor(to); by != nil {
				got = by.String()
			}
			if got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
			if shown := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(shown, "hunter2") {
				t.Errorf("the password is in %s", shown)
			}
		})
	}
}

// A proxy that cannot be used is a fault where it would be, and shows no password.
func TestCheckProxyFor(t *testing.T) {
	for to, want := range map[string]string{
		"http://fleet.example.com": "HTTP_PROXY", "https://fleet.example.com": "HTTPS_PROXY",
		"http://localhost:8080": "",
	} {
		for _, bad := range []string{"ftp://user:hunter2@web", "http://user:hunter2@", "http://[hunter2",
			"://hunter2"} {
			t.Setenv("HTTP_PROXY", bad)
			t.Setenv("HTTPS_PROXY", bad)
			t.Setenv("CONTROLLER_URL", to)
			err := Read(&proxied{}, "")
			if want == "" && err == nil {
				continue
			}
			said := fmt.Sprint(err)
			if !strings.Contains(said, want+" is no URL of a proxy") || strings.Contains(said, "hunter2") ||
				strings.Count(said, "_PROXY") != 1 {
				t.Errorf("%s by %s: got %v, want a fault of %q alone", to, bad, err, want)
			}
		}
	}
}

// The names in lower case are settings too: nothing says that they are mistyped.
func TestProxy_LowerCaseVariable_NotReported(t *testing.T) {
	environ := []string{"http_proxy=a", "https_proxy=b", "no_proxy=c", "ALL_PROXY=d"}
	if found := mistyped(environ, Fields(&proxied{})); len(found) != 0 {
		t.Errorf("got %v, want none", found)
	}
	t.Setenv("https_proxy", "http://user:hunter2@web")
	var p proxied
	fields, err := Load(&p, "", Fields(&p))
	for _, f := range fields {
		if f.Name == "HTTPS_PROXY" && (f.Source != "environment" || f.Shown() != hidden) {
			t.Errorf("got %s from %s, want a hidden value from the environment (%v)", f.Shown(), f.Source, err)
		}
	}
}
