package proxy

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/net/http/httpguts"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/worker/internal/config"
)

// Whatever bytes a target answers, a hit ends with an error of a known kind and nothing
// written, or with a well-formed answer that the worker's own headers are part of, or cut.
func FuzzHit_TargetBytes(f *testing.F) {
	for _, seed := range []string{
		"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: v\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: /a b?c d\r\n\r\n", "HTTP/1.1 302 Found\r\nLocation : //[::1\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.0 200\r\nX-Foo : bar\r\nConnection: X-Foo\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nX-Request-Id: forged\r\nX-Config-Version: 9\r\nContent-Security-Policy: none\r\n\r\n",
		"HTTP/1.1 999 \r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2\n\nab",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 099 x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Range: x\r\nSet-Cookie: a=b\r\n\r\n\x1f\x8b",
	} {
		f.Add([]byte(seed))
	}
	log, _ := logtest.NewNullLogger()
	f.Fuzz(func(t *testing.T, answer []byte) {
		p := New(Options{Timeout: 10 * time.Second, Log: log})
		defer p.Close()
		p.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { // ends with the connection, which p or the end of answer closes
				defer theirs.Close()
				in := bufio.NewReader(theirs)
				for line := ""; line != "\r\n"; {
					var err error
					if line, err = in.ReadString('\n'); err != nil {
						return
					}
				}
				_, _ = theirs.Write(answer)
			}()
			return ours, nil
		}
		if _, err := p.Apply(t.Context(), models.WorkerConfig{URL: "http://target.example/", Version: 1}); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		w.Header().Set("X-Request-Id", "ours")
		cut, err := false, error(nil)
		func() {
			defer func() {
				caught := recover()
				if abort, _ := caught.(error); errors.Is(abort, http.ErrAbortHandler) {
					cut = true
				} else if caught != nil {
					panic(caught)
				}
			}()
			err = p.Hit(w, httptest.NewRequest(http.MethodGet, "/hit", nil))
		}()
		if err != nil {
			if !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrForbidden) || w.Body.Len() > 0 || w.Flushed {
				t.Errorf("got %v with %d bytes written, want an error that blames the target and none", err,
					w.Body.Len())
			}
			return
		}
		res := w.Result()
		if res.StatusCode < 200 || w.Body.Len() > len(answer) {
			t.Errorf("got %d with %d bytes of %d", res.StatusCode, w.Body.Len(), len(answer))
		}
		header := res.Header
		if cut {
			header = w.Header()
		}
		for name, values := range header {
			if !httpguts.ValidHeaderFieldName(strings.TrimPrefix(name, http.TrailerPrefix)) &&
				!strings.Contains(name, " ") {
				t.Errorf("got the field name %q", name)
			}
			if slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
				t.Errorf("got %s: %q", name, values)
			}
		}
		if !slices.Equal(header["X-Request-Id"], []string{"ours"}) ||
			!slices.Equal(header["X-Config-Version"], []string{"1"}) ||
			!slices.Contains(header["Content-Security-Policy"], sandbox) {
			t.Errorf("got %v, want the worker's own headers", header)
		}
		for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade",
			"Proxy-Authenticate"} {
			if len(header[name]) > 0 {
				t.Errorf("got %s: %q, which is of one hop", name, header[name])
			}
		}
	})
}

// errStop ends a dial whose address was let through.
var errStop = errors.New("let through")

// A URL that the contract takes is fetched from the host that it names, and from no address
// that the default DENY_CIDRS name, whatever the DNS says.
func FuzzHit_URLPolicy(f *testing.F) {
	for _, seed := range []struct {
		url  string
		addr string
	}{
		{"http://a.example/", "169.254.169.254"},
		{"http://a.example/", "93.184.215.14"},
		{"http://169.254.169.254/", "::1"},
		{"http://[fd00:ec2::254]:80/", "::"},
		{"http://[::ffff:a9fe:a9fe]/", "::"},
		{"http://0xa9fea9fe/", "169.254.169.254"},
		{"http://2852039166/", "169.254.169.254"},
		{"http://a.example:8080/?b", "64:ff9b::a9fe:a9fe"},
		{"http://169.254.169.254./", "169.254.169.254"},
		{"http://a_b.example/", "2002:a9fe:a9fe::1"},
		{"https://xn--a.example/", "2001:0:1:2:3:4:5601:5601"},
		{"http://100.100.100.200", "::"},
		{"http://[fe80::1%25eth0]/", "fe80::1"},
		{"http://user@a.example/", "::1"},
		{"http://a.example#b", "::1"},
		{"http://a.example\\@b.example/", "::1"},
		{"http://A.EXAMPLE:65535//", "64:ff9b:1:a9fe:a9:fe00::"},
	} {
		f.Add(seed.url, netip.MustParseAddr(seed.addr).AsSlice())
	}
	setting, _ := reflect.TypeFor[config.Settings]().FieldByName("DenyCIDRs")
	var deny []netip.Prefix
	for text := range strings.SplitSeq(setting.Tag.Get("default"), ",") {
		network, err := netip.ParsePrefix(text)
		if addr, bare := netip.ParseAddr(text); bare == nil {
			network, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			f.Fatal(err)
		}
		deny = append(deny, network)
	}
	log, _ := logtest.NewNullLogger()
	f.Fuzz(func(t *testing.T, text string, answer []byte) {
		resolved, ok := netip.AddrFromSlice(answer)
		if !ok || (models.WorkerConfig{URL: text}).Validate() != nil {
			return
		}
		p := New(Options{Timeout: 10 * time.Second, Deny: deny, Log: log})
		defer p.Close()
		var dialed string
		var passed []netip.Addr
		p.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			dialed = host
			if _, err := netip.ParseAddr(host); err != nil {
				host = resolved.String() // as the DNS says
			}
			dialer := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
				if err := p.deny.control(network, address, c); err != nil {
					return err
				}
				to, err := netip.ParseAddrPort(address)
				passed = append(passed, to.Addr())
				return errors.Join(err, errStop)
			}}
			return dialer.DialContext(ctx, network, net.JoinHostPort(host, port))
		}
		run, err := p.prepare(models.WorkerConfig{URL: text, Version: 1})
		if err != nil {
			t.Fatalf("%q keeps the contract and cannot be prepared: %v", text, err)
		}
		p.running.Store(run)
		if err := p.Hit(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/hit", nil)); err == nil {
			t.Fatalf("%q: got an answer of nothing", text)
		}
		_, named, _ := strings.Cut(text, "//")
		if named = strings.TrimPrefix(named, "["); !strings.HasPrefix(strings.ToLower(named), strings.ToLower(dialed)) {
			t.Errorf("%q: dialed %s, want the host that stands behind //", text, dialed)
		}
		for _, to := range passed {
			for _, network := range deny {
				for _, meant := range reachable(to) {
					if network.Contains(meant) {
						t.Errorf("%q with %s: passed %s, which comes out at %s in %s", text, resolved, to, meant,
							network)
					}
				}
			}
		}
	})
}

// reachable is the reference for destinations, by the text of the addresses: each run of four
// bytes that a gateway may take for an IPv4 address.
func reachable(addr netip.Addr) []netip.Addr {
	addr = addr.WithZone("").Unmap()
	all := []netip.Addr{addr}
	if addr.Is4() || addr.IsLoopback() {
		return all
	}
	b := addr.As16()
	text := addr.StringExpanded()
	add := func(at ...int) {
		all = append(all, netip.AddrFrom4([4]byte{b[at[0]], b[at[1]], b[at[2]], b[at[3]]}))
	}
	switch {
	case strings.HasPrefix(text, "0000:0000:0000:0000:0000:0000:"),
		strings.HasPrefix(text, "0000:0000:0000:0000:ffff:0000:"),
		strings.HasPrefix(text, "0064:ff9b:0000:0000:0000:0000:"):
		add(12, 13, 14, 15)
	case strings.HasPrefix(text, "0064:ff9b:0001:"):
		add(6, 7, 9, 10)
		add(12, 13, 14, 15)
	case strings.HasPrefix(text, "2002:"):
		add(2, 3, 4, 5)
	}
	return all
}
