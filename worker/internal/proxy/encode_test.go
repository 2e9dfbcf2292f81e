package proxy

import (
	"bufio"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/pkg/models"
)

// rawTarget answers each connection's request with the bytes that answer returns, and
// closes it. It sends the request lines that it gets to lines.
func rawTarget(t *testing.T, answer func(requestLine string) string) (address string, lines chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lines = make(chan string, 100)
	ended := make(chan struct{})
	go func() { // ends with ln
		defer close(ended)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			first, _ := in.ReadString('\n')
			for line := first; line != "\r\n" && line != ""; {
				line, _ = in.ReadString('\n')
			}
			first = strings.TrimSpace(first)
			lines <- first
			_, _ = io.WriteString(conn, answer(first))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-ended })
	return ln.Addr().String(), lines
}

// A request line holds nothing that RFC 3986 does not allow, wherever its URL came from.
func TestHit_RequestLine_IsPercentEncoded(t *testing.T) {
	for location, want := range map[string]string{
		"/a b?c d":                 "/a%20b?c%20d",
		"/x?q=\"<>\\^`{|}":         "/x?q=%22%3C%3E%5C%5E%60%7B%7C%7D",
		"/x?q=[1]&a=%zz&b=%4a&c=%": "/x?q=%5B1%5D&a=%25zz&b=%4a&c=%25",
		"/caf\xc3\xa9?\xe9":        "/caf%C3%A9?%E9",
		"/a[b]":                    "/a%5Bb%5D",
		"/%2F/a%20b?a=b+c;d@e:f/?": "/%2F/a%20b?a=b+c;d@e:f/?",
		"?":                        "/from?",
		"//HOST/y z":               "/y%20z",
	} {
		t.Run(location, func(t *testing.T) {
			var address string
			address, lines := rawTarget(t, func(line string) string {
				if line == "GET /from HTTP/1.1" {
					return "HTTP/1.1 302 Found\r\nLocation: " + strings.ReplaceAll(location, "HOST", address) +
						"\r\nContent-Length: 0\r\n\r\n"
				}
				return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
			})
			w := newWorker(t)
			w.apply(t, "http://"+address+"/from", 1)
			if res, _, err := w.hit(t); res.StatusCode != 200 || err != nil {
				t.Fatalf("got %s %v", res.Status, err)
			}
			<-lines
			if got := <-lines; got != "GET "+want+" HTTP/1.1" {
				t.Errorf("got %q, want GET %s", got, want)
			}
		})
	}
}

// Of the configured URL, in hits and in the probe.
func TestApply_ConfiguredURL_IsPercentEncoded(t *testing.T) {
	address, lines := rawTarget(t, func(string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" })
	w := newWorker(t)
	config := models.WorkerConfig{URL: "http://" + address + "/a?list[]=%zz", Version: 1, Probe: true}
	if _, err := w.Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if res, _, err := w.hit(t); res.StatusCode != 200 || err != nil {
		t.Errorf("got %s %v", res.Status, err)
	}
	for _, asked := range []string{"probe", "hit"} {
		if got := <-lines; got != "GET /a?list%5B%5D=%25zz HTTP/1.1" {
			t.Errorf("%s: got %q", asked, got)
		}
	}
	if state, _, _ := w.State(); state.URL != config.URL {
		t.Errorf("what runs: got %s, want %s as it was pushed", state.URL, config.URL)
	}
}

// RFC 9112 §5.1: a proxy removes the space before the colon of a field in a response.
func TestHit_SpaceBeforeColon_IsRemoved(t *testing.T) {
	address, _ := rawTarget(t, func(line string) string {
		if line == "GET / HTTP/1.1" {
			return "HTTP/1.1 302 Found\r\nLocation : /next\r\nContent-Length: 0\r\n\r\n"
		}
		return "HTTP/1.1 200 OK\r\nX-Foo : bar\r\nx-foo: baz\r\nCache-Control  : no-store\r\nContent-Length : 1\r\n" +
			"Connection : X-Hop\r\nX-Hop: 1\r\nX Bad: 1\r\n\r\nwhole"
	})
	w := newWorker(t)
	w.apply(t, "http://"+address+"/", 1)
	res, body, err := w.hit(t)
	if err != nil || body != "whole" {
		t.Errorf("got %s %q %v, want the body whole", res.Status, body, err)
	}
	for name, want := range map[string][]string{
		"X-Foo": {"baz", "bar"}, "Cache-Control": {"no-store"}, "X-Hop": nil, "X Bad": nil, "Location": nil,
	} {
		if diff := cmp.Diff(want, res.Header[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Nothing is encoded twice.
func TestEncode_EncodedURL_Unchanged(t *testing.T) {
	for _, text := range []string{"http://a/b c?d e", "http://a/%2f%zz", "http://a/?%zz%20[",
		"http://a/[x]y", "http://a"} {
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		once := encode(u).RequestURI()
		again, err := url.Parse("http://a" + once)
		if err != nil || encode(again).RequestURI() != once || strings.ContainsAny(once, " []<>") {
			t.Errorf("%s: got %s, then %v %v", text, once, again, err)
		}
	}
}
